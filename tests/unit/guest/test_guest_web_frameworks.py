"""FastAPI, Starlette, Litestar, Flask and Django applications, unchanged, in a shard."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest_web import Gateway, Response, WebShard
from shardwright.guest import Returned

SIZE = 700_000
FORM = (
    b'--B\r\nContent-Disposition: form-data; name="name"\r\n\r\nsword\r\n'
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\nContent-Type: text/plain\r\n\r\n'
    + b"z" * SIZE
    + b"\r\n--B--\r\n"
)

# Each has /json/3?q=.. (path and query), /sync (a plain function), /stream (five lines), /boom, /body (length), /form.
FASTAPI = """
    import asyncio
    import contextvars
    from contextlib import asynccontextmanager
    from typing import Annotated
    from fastapi import BackgroundTasks, FastAPI, Form, Request, UploadFile, WebSocket, WebSocketDisconnect
    from fastapi.responses import StreamingResponse
    from pydantic import BaseModel

    seen = []
    who = contextvars.ContextVar("who", default="nobody")

    @asynccontextmanager
    async def lifespan(app):
        seen.append("up")
        yield {"pool": "a pool"}
        seen.append("down")

    class Item(BaseModel):
        name: str
        count: int = 1

    app = FastAPI(lifespan=lifespan)

    @app.middleware("http")
    async def names(request, call_next):
        who.set("somebody")
        response = await call_next(request)
        response.headers["x-middle"] = "1"
        return response

    @app.get("/json/{n}")
    async def get(n: int, q: str): return {"n": n, "q": q}

    @app.get("/sync")
    def sync(request: Request): return [who.get(), request.state.pool]

    @app.get("/stream")
    async def stream():
        async def lines():
            for n in range(5):
                yield f"{n}\\n"
                await asyncio.sleep(0)
        return StreamingResponse(lines())

    @app.get("/boom")
    async def boom(): raise ValueError("boom")

    @app.post("/body")
    async def body(request: Request):
        found = 0
        async for chunk in request.stream():
            found += len(chunk)
        return found

    @app.post("/form")
    async def form(name: Annotated[str, Form()], file: UploadFile): return [name, len(await file.read())]

    @app.post("/item")
    async def item(item: Item): return item

    @app.get("/background")
    async def background(tasks: BackgroundTasks):
        tasks.add_task(seen.append, "background")

    @app.websocket("/ws")
    async def talk(socket: WebSocket):
        await socket.accept()
        try:
            while True:
                await socket.send_json({"heard": await socket.receive_text()})
        except WebSocketDisconnect as end:
            seen.append(end.code)
"""

STARLETTE = """
    import asyncio
    import threading
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
    from starlette.routing import Route

    seen = []
    together = threading.Barrier(4, timeout=20)

    async def get(request):
        return JSONResponse({"n": int(request.path_params["n"]), "q": request.query_params["q"]})

    async def sync(request):
        # four threads of anyio's pool run beside the loop, and beside each other
        await asyncio.gather(*(run_in_threadpool(together.wait) for _ in range(4)))
        return JSONResponse(["together"])

    async def stream(request):
        async def lines():
            for n in range(5):
                yield f"{n}\\n"
        return StreamingResponse(lines())

    async def boom(request): raise ValueError("boom")
    async def body(request): return JSONResponse(len(await request.body()))
    async def form(request):
        async with request.form() as found:
            return JSONResponse([found["name"], len(await found["file"].read())])

    async def forever(request):
        async def lines():
            try:
                while True:
                    yield "x\\n"
                    await asyncio.sleep(0.001)
            finally:
                seen.append("gone")
        return StreamingResponse(lines())

    app = Starlette(routes=[
        Route("/json/{n}", get), Route("/sync", sync), Route("/stream", stream), Route("/boom", boom),
        Route("/body", body, methods=["POST"]), Route("/form", form, methods=["POST"]), Route("/forever", forever),
    ])
"""

LITESTAR = """
    from typing import Annotated, Any
    from litestar import Litestar, Request, get, post
    from litestar.datastructures import UploadFile
    from litestar.enums import RequestEncodingType
    from litestar.params import Body
    from litestar.response import Stream

    @get("/json/{n:int}")
    async def find(n: int, q: str) -> dict[str, Any]: return {"n": n, "q": q}

    @get("/sync", sync_to_thread=True)
    def sync() -> list[str]: return ["sync"]

    @get("/stream")
    async def stream() -> Stream:
        return Stream(f"{n}\\n" for n in range(5))

    @get("/boom")
    async def boom() -> None: raise ValueError("boom")

    @post("/body", status_code=200)
    async def body(request: Request) -> int: return len(await request.body())

    @post("/form", status_code=200)
    async def form(
        data: Annotated[dict[str, Any], Body(media_type=RequestEncodingType.MULTI_PART)]
    ) -> list[Any]:
        return [data["name"], len(await data["file"].read())]

    app = Litestar([find, sync, stream, boom, body, form], request_max_body_size=None)
"""

FLASK = """
    from flask import Flask, Response, request, stream_with_context

    app = Flask(__name__)

    @app.get("/json/<int:n>")
    def get(n): return {"n": n, "q": request.args["q"]}

    @app.get("/sync")
    def sync(): return ["sync"]

    @app.get("/stream")
    def stream():
        def lines():
            for n in range(5):
                assert request.path == "/stream"
                yield f"{n}\\n"
        return Response(stream_with_context(lines()))

    @app.get("/boom")
    def boom(): raise ValueError("boom")

    @app.post("/body")
    def body(): return str(len(request.stream.read()))

    @app.post("/form")
    def form(): return [request.form["name"], len(request.files["file"].read())]
"""

DJANGO = """
    import sys
    from django.conf import settings
    if not settings.configured:
        settings.configure(
            SECRET_KEY="x", ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], DATABASES={}, DATA_UPLOAD_MAX_MEMORY_SIZE=None,
            MIDDLEWARE=["django.middleware.common.CommonMiddleware"], LOGGING_CONFIG=None,
        )
        import django
        django.setup()
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
    from django.urls import path

    def get(request, n): return JsonResponse({"n": n, "q": request.GET["q"]})
    def sync(request): return JsonResponse(["sync"], safe=False)
    def stream(request): return StreamingHttpResponse(f"{n}\\n" for n in range(5))
    def boom(request): raise ValueError("boom")
    def body(request): return HttpResponse(str(len(request.body)))
    def form(request): return JsonResponse([request.POST["name"], len(request.FILES["file"].read())], safe=False)
    async def later(request): return JsonResponse(["async"], safe=False)

    urlpatterns = [
        path("json/<int:n>", get), path("sync", sync), path("stream", stream), path("boom", boom), path("body", body),
        path("form", form), path("later", later),
    ]
"""

FRAMEWORKS = {
    "fastapi": FASTAPI,
    "starlette": STARLETTE,
    "litestar": LITESTAR,
    "flask": FLASK,
    "django-asgi": DJANGO + "    app = get_asgi_application()\n",
    "django-wsgi": DJANGO + "    app = get_wsgi_application()\n",
}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], WebShard]]:
    made: list[WebShard] = []

    def serve(framework: str) -> WebShard:
        made.append(WebShard(tmp_path, FRAMEWORKS[framework], app="app"))
        if framework.startswith("django"):  # it imports its routes by name, which in a process of its own it can
            monkeypatch.setitem(sys.modules, "shop", made[-1].module())
        return made[-1]

    yield serve
    for shard in made:
        shard.close()
    if (resolvers := sys.modules.get("django.urls")) is not None:
        resolvers.clear_url_caches()  # type: ignore[attr-defined]


def ask(
    gateway: Gateway, path: str, body: bytes = b"", content_type: str = "application/json", **scope: Any
) -> Response:
    headers = [(b"host", b"example.org")]
    if body:
        headers += [(b"content-length", str(len(body)).encode()), (b"content-type", content_type.encode())]
    path, _, query = path.partition("?")
    exchange = gateway.open(
        path=path,
        raw_path=path.encode(),
        query_string=query.encode(),
        method="POST" if body else "GET",
        headers=headers,
        server=("example.org", 80),
        client=("10.0.0.1", 5000),
        **scope,
    )
    exchange.send({"type": "http.request", "body": body})
    return exchange.response()


# what the frameworks themselves warn of
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume synchronous iterators")
@pytest.mark.filterwarnings("ignore:.*declared using deprecated inferred style")
@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning")
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_it_runs_unchanged(served: Callable[[str], WebShard], framework: str) -> None:
    gateway = served(framework).gateway()
    for _ in range(2):
        found = ask(gateway, "/json/3?q=%C3%BC")
        assert (found.status, json.loads(found.body), found.failure) == (200, {"n": 3, "q": "ü"}, None)
    expected = {"fastapi": ["somebody", "a pool"], "starlette": ["together"]}.get(framework, ["sync"])
    assert json.loads(ask(gateway, "/sync").body) == expected
    assert ask(gateway, "/stream").body == b"0\n1\n2\n3\n4\n"
    assert ask(gateway, "/nowhere").status == 404
    assert ask(gateway, "/boom").status == 500
    assert ask(gateway, "/body", b"z" * SIZE).body == str(SIZE).encode()
    found = ask(gateway, "/form", FORM, "multipart/form-data; boundary=B")
    assert (found.status, json.loads(found.body)) == (200, ["sword", SIZE])


def test_fastapi_talks_and_works_on(served: Callable[[str], WebShard]) -> None:
    shard = served("fastapi")
    gateway = shard.gateway()
    assert json.loads(ask(gateway, "/item", b'{"name": "sword"}').body) == {"name": "sword", "count": 1}
    assert ask(gateway, "/item", b'{"count": "many"}').status == 422
    assert ask(gateway, "/background").status == 200
    exchange = gateway.open(type="websocket", path="/ws", raw_path=b"/ws")
    assert (exchange.receive() or {})["type"] == "websocket.accept"
    exchange.send({"type": "websocket.receive", "text": "hello"})
    assert exchange.receive() == {"type": "websocket.send", "text": '{"heard":"hello"}'}
    exchange.send({"type": "websocket.disconnect", "code": 4000})
    assert isinstance(exchange.finish(), Returned)
    seen = shard.module().seen
    assert seen == ["up", "background", 4000]
    shard.close()
    assert seen[-1] == "down"


def test_starlette_hears_that_its_client_is_gone(served: Callable[[str], WebShard]) -> None:
    shard = served("starlette")
    gateway = shard.gateway()
    exchange = gateway.open(path="/forever", raw_path=b"/forever")
    exchange.send({"type": "http.request"})
    assert exchange.receive() and exchange.receive()
    exchange.cancel()
    assert isinstance(exchange.finish(), Returned)
    assert shard.module().seen == ["gone"]


@pytest.mark.parametrize("framework", ["django-asgi", "django-wsgi"])
def test_django_views_that_are_coroutines(served: Callable[[str], WebShard], framework: str) -> None:
    assert ask(served(framework).gateway(), "/later").body == b'["async"]'
