"""What a routed function takes and gives, in the words of OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from shardwright.guest._web_convert import BODY_METHODS, Argument, Reading

__all__ = ["describe"]


def describe(reading: Reading, path: Sequence[str], method: str, component: str) -> dict[str, Any]:
    """The operation: ``parameters``, ``requestBody``, ``responses``, and the ``schemas`` that these refer to."""
    arguments = [argument for argument in reading.arguments.values() if argument.name not in path]
    body_possible = method in BODY_METHODS and bool(arguments)
    whole = reading.body_argument(path) if body_possible else None
    wanted = {argument.name: argument.annotation for argument in reading.arguments.values()}
    schemas, components = _schemas({**wanted, "return": reading.result}, component)
    operation: dict[str, Any] = {"parameters": []}
    for name in path:
        operation["parameters"].append(
            {"name": name, "in": "path", "required": True, "schema": schemas.get(name, {"type": "string"})}
        )
    if whole is not None:
        operation["requestBody"] = _json_body(schemas[whole.name], required=whole.required)
    elif body_possible:
        members: dict[str, Any] = {
            "type": "object",
            "properties": {argument.name: _with_default(schemas[argument.name], argument) for argument in arguments},
            "additionalProperties": reading.takes_more,
        }
        required = [argument.name for argument in arguments if argument.required]
        if required:
            members["required"] = required
        operation["requestBody"] = _json_body(members, required=bool(required))
    if whole is not None or not body_possible:
        for argument in arguments:
            if argument is not whole:
                operation["parameters"].append(
                    {
                        "name": argument.name,
                        "in": "query",
                        "required": argument.required,
                        "schema": _with_default(schemas[argument.name], argument),
                    }
                )
    operation["responses"] = {
        "200": {"description": "its result", "content": {"application/json": {"schema": schemas["return"]}}}
    }
    operation["schemas"] = components
    return operation


def _schemas(annotations: dict[str, Any], component: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema for each annotation, and the shared ones, whose names begin with the component's."""
    template = f"#/components/schemas/{component}.{{name}}"
    names = list(annotations)
    try:
        found, shared = msgspec.json.schema_components(
            [annotations[name] for name in names], schema_hook=_schema_of, ref_template=template
        )
    except Exception:  # one that cannot be described must not hide the others
        found, shared = (), {}
        for name in names:
            try:
                (one,), more = msgspec.json.schema_components(
                    [annotations[name]], schema_hook=_schema_of, ref_template=template
                )
            except Exception:
                one, more = {}, {}
            found = (*found, one)
            shared = {**shared, **more}
    return dict(zip(names, found, strict=True)), {f"{component}.{name}": each for name, each in shared.items()}


def _schema_of(annotation: Any) -> dict[str, Any]:
    describe = getattr(annotation, "model_json_schema", None)
    if describe is not None:
        found: dict[str, Any] = describe()
        return found
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return {"type": "string"}
    return {}


def _with_default(schema: dict[str, Any], argument: Argument) -> dict[str, Any]:
    if argument.required or argument.default is None:
        return schema
    try:
        default = msgspec.to_builtins(argument.default, str_keys=True)
        msgspec.json.encode(default)
    except Exception:
        return schema
    return {**schema, "default": default}


def _json_body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}
