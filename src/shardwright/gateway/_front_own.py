"""What the gateway answers itself: health, readiness, the OpenAPI document, numbers, and the page about the node."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from shardwright.errors import ShardwrightError
from shardwright.gateway._backend import Backend, GatewaySettings
from shardwright.gateway._front_asgi import Scope, Send, respond, respond_problem
from shardwright.gateway._openapi import OpenApi
from shardwright.gateway._page import PAGE, PAGE_HEADERS
from shardwright.gateway._problems import Problem, problem_of
from shardwright.gateway._routes import RouteTable
from shardwright.gateway._scrape import Scrape

__all__ = ["RAW_BASE", "OwnPages", "trusted"]

_BASE = "/_shardwright"
RAW_BASE = _BASE.encode()
_JSON = b"application/json"
_HTML = b"text/html; charset=utf-8"
_NO_STORE = (b"cache-control", b"no-store")
_CHALLENGE = (b"www-authenticate", b'Bearer realm="shardwright"')
_LOOPBACK_HOST = re.compile(rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via")


def trusted(client: Any, headers: Mapping[bytes, bytes], token: str) -> bool:
    """Whether a client may see the pages about the node.

    One on this machine that speaks for itself (a forwarding header means somebody else; a foreign ``Host`` means a page of
    somebody else in a browser here), or one with the token.
    """
    if token:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if hmac.compare_digest(given.strip(), token.encode()) and scheme.lower() == b"bearer":
            return True
    host = str(client[0]) if client else ""
    near = host == "::1" or host.startswith(("127.", "::ffff:127."))
    spoken_for = any(name in headers for name in _FORWARDED)
    return near and not spoken_for and _LOOPBACK_HOST.fullmatch(headers.get(b"host", b"")) is not None


class OwnPages:
    """Paths beneath ``/_shardwright``; and ``/metrics`` and ``/openapi.json``, where no route takes them."""

    def __init__(
        self,
        settings: GatewaySettings,
        backend: Backend,
        routes: RouteTable,
        draining: Callable[[], bool],
        scrape: Scrape,
        token: str,
    ) -> None:
        self._backend = backend
        self._draining = draining
        self._scrape = scrape
        self._token = token
        self._app = settings.app
        self._openapi = OpenApi(settings.app, routes, backend)
        self.elsewhere = frozenset(path.encode() for path in ("/metrics", "/openapi.json") if not routes.covered(path))

    def maybe(self, raw_path: bytes) -> bool:
        """Whether a request for that path is to be shown to ``answer`` first."""
        return raw_path.startswith(RAW_BASE) or raw_path in self.elsewhere

    async def answer(self, scope: Scope, headers: Mapping[bytes, bytes], send: Send, trace_id: bytes) -> bool:
        """Answer, if the path is one of ours."""
        path: str = scope["path"]
        if not path.startswith(_BASE):
            path = _BASE + path
        elif path != _BASE and not path.startswith(_BASE + "/"):
            return False
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise Problem(405, "", ((b"allow", b"GET, HEAD"),))
            await self._answer(path[len(_BASE) :], scope, headers, send, trace_id)
        except (Problem, ShardwrightError) as error:
            await respond_problem(send, problem_of(error), trace_id)
        return True

    async def _answer(
        self, page: str, scope: Scope, headers: Mapping[bytes, bytes], send: Send, trace_id: bytes
    ) -> None:
        match page:
            case "/health":
                await respond(send, 200, b'{"status":"ok"}', _JSON, trace_id, (_NO_STORE,))
                return
            case "/ready":
                await self._ready(send, trace_id)
                return
            case "/openapi.json":
                document = await self._openapi.document()
                await respond(send, 200, document, _JSON, trace_id, ((b"cache-control", b"no-cache"),))
                return
            case "" | "/" | "/status" | "/metrics":
                pass
            case _:
                raise Problem(404, "No route takes this path.")
        if not trusted(scope.get("client"), headers, self._token):
            if not self._token:
                raise Problem(403, "Only clients on this machine may see this.")
            if page in ("", "/"):  # it holds nothing yet, and asks whoever reads it for the token
                await respond(send, 401, PAGE, _HTML, trace_id, [*PAGE_HEADERS, _NO_STORE, _CHALLENGE])
                return
            raise Problem(401, "Only clients on this machine, or with the token, may see this.", (_CHALLENGE,))
        if page == "/metrics":
            shown = await self._scrape.metrics(headers.get(b"accept", b"").decode("latin-1"))
            await respond(send, 200, shown.body, shown.content_type.encode(), trace_id, (_NO_STORE,))
        elif page == "/status":
            status = {"app": self._app, **await self._backend.status()}
            await respond(send, 200, msgspec.json.encode(status), _JSON, trace_id, (_NO_STORE,))
        else:
            await respond(send, 200, PAGE, _HTML, trace_id, [*PAGE_HEADERS, _NO_STORE])

    async def _ready(self, send: Send, trace_id: bytes) -> None:
        """Readiness, for whoever sends requests here; why not is said to the log's readers and on the page alone."""
        ready, status = False, "stopping"
        if not self._draining():
            ready, _ = await self._scrape.readiness()
            status = "ready" if ready else "starting"
        body = msgspec.json.encode({"status": status})
        await respond(send, 200 if ready else 503, body, _JSON, trace_id, (_NO_STORE,))

    async def serving(self) -> bool:
        """Whether requests can be served."""
        return not self._draining() and (await self._scrape.readiness())[0]
