"""The arena in the browser: a page, and a WebSocket for each player. ``uvicorn arena.web:app`` serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from starlette.websockets import WebSocket

from arena.web._conversation import Conversation
from arena.web._crowd import Crowd

ASSETS = Path(__file__).parent.parent / "assets"

_HEADERS = {
    "Cache-Control": "no-cache",  # ask again each time: an answer of "not modified" is cheap
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

crowd = Crowd()


class _Assets(StaticFiles):
    """The page's files, with headers of our own."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


async def page(request: Request) -> Response:
    """The one page."""
    return FileResponse(ASSETS / "index.html", headers=_HEADERS)


async def play(socket: WebSocket) -> None:
    """One player's conversation, from connecting to leaving."""
    await Conversation(socket, crowd).run()


@asynccontextmanager
async def _lifespan(application: Starlette) -> AsyncIterator[None]:
    yield
    await crowd.close()


app = Starlette(
    routes=[
        Route("/", page),
        WebSocketRoute("/play", play),
        Mount("/assets", _Assets(directory=ASSETS)),
    ],
    lifespan=_lifespan,
)
