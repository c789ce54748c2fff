"""The OpenAPI 3.1 document of the functions behind the routes, put together from what their shards say of them."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from shardwright.errors import ShardwrightError
from shardwright.gateway._backend import Backend
from shardwright.gateway._routes import ANY_METHOD, RouteTable, parameters
from shardwright.model.shard import EntryKind, RouteTarget

__all__ = ["OpenApi"]

SHOWN = tuple(method for method in ANY_METHOD if method != "HEAD")
"""The methods by which a function is described whose route names none; HEAD comes with GET."""
_METHODS = frozenset({"get", "put", "post", "delete", "options", "head", "patch", "trace"})

_PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "trace": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["type", "title", "status"],
}
_ANSWERS = {
    "400": "the request cannot be read",
    "401": "the session is unknown or has expired",
    "413": "the body is too large",
    "415": "the body is of a type that is not understood",
    "422": "an argument is of a wrong type",
    "500": "the function failed",
    "502": "the function's shard was lost",
    "503": "not now",
    "504": "not in time",
}


class OpenApi:
    """The document; made when it is first asked for, and kept."""

    def __init__(self, app: str, routes: RouteTable, backend: Backend) -> None:
        self._app = app
        self._routes = routes
        self._backend = backend
        self._made = b""

    async def document(self) -> bytes:
        """As JSON. A function whose shard cannot be asked now is listed without its arguments, and asked again next time."""
        if self._made:
            return self._made
        paths: dict[str, dict[str, Any]] = {}
        schemas: dict[str, Any] = {"Problem": _PROBLEM}
        whole = True
        for route in self._routes.routes:
            if route.kind is EntryKind.APPLICATION:
                continue
            path = re.sub(r":path\}", "}", route.path)
            operations = paths.setdefault(path, {})
            for method in route.methods or SHOWN:
                if method.lower() in operations or method.lower() not in _METHODS:
                    continue
                try:
                    described = await self._backend.describe(route, method)
                except ShardwrightError:
                    described, whole = {}, False
                schemas.update(described.get("schemas", {}))
                operations[method.lower()] = _operation(route, method, described)
        made = msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {"title": self._app, "version": "0"},
                "paths": paths,
                "components": {"schemas": schemas},
            }
        )
        if whole:
            self._made = made
        return made


def _operation(route: RouteTarget, method: str, described: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.name}.{method.lower()}.{route.line}",
        "tags": [route.component],
        "responses": dict(described.get("responses", {"200": {"description": "its result"}})),
    }
    for key in ("summary", "description", "parameters", "requestBody"):
        if described.get(key):
            operation[key] = described[key]
    named = {each["name"] for each in operation.get("parameters", ()) if each.get("in") == "path"}
    for name in parameters(route.path):
        if name not in named:
            operation.setdefault("parameters", []).append(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            )
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for status, description in _ANSWERS.items():
        operation["responses"].setdefault(status, {"description": description, "content": content})
    return operation
