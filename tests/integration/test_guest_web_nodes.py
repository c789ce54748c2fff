"""Applications in shards of their own processes, behind a gateway: their lifespan, their threads, their calls to others."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guest_apps import running, write_application
from shardwright.node import Node

PATIENCE_S = 20.0
MANIFEST = """
    [app]
    name = "shop"
    [components.asgi]
    code = "front:app"
    depends_on = ["stock"]
    files = { write = ["out/"] }
    [components.wsgi]
    code = "old:app"
    depends_on = ["stock"]
    files = { write = ["out/"] }
    [components.stock]
    code = "stock"
    [gateway]
    bind = "127.0.0.1:0"
    [[routes]]
    path = "/old"
    app = "wsgi"
    [[routes]]
    path = "/"
    app = "asgi"
"""
STOCK = """
    import os

    def count(item: str) -> int:
        return len(item)

    def where() -> int:
        return os.getpid()
"""
FRONT = """
    import asyncio
    import atexit
    import json
    import os
    from concurrent.futures import ThreadPoolExecutor

    import stock

    pool = ThreadPoolExecutor(4)
    OUT = os.path.join(os.path.dirname(__file__), "out", "asgi")

    def write(text):
        with open(OUT, "a") as file:
            file.write(text + "\\n")

    atexit.register(write, "exit")

    def in_a_thread(item):
        return [stock.count(item), os.getpid(), stock.where()]

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            scope["state"]["found"] = stock.count("startup")
            write("startup")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.sleep(0.01)
            write("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        loop = asyncio.get_running_loop()
        item = scope["query_string"].decode()
        found = {
            "state": scope["state"]["found"],
            "here": stock.count(item),
            "to_thread": await asyncio.gather(*(asyncio.to_thread(in_a_thread, item * n) for n in range(5))),
            "executor": await loop.run_in_executor(None, lambda: 1),
            "pid": os.getpid(),
        }
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": json.dumps(found).encode()})
"""
OLD = """
    import json
    import os
    import stock

    def app(environ, start_response):
        found = [environ["SCRIPT_NAME"], environ["PATH_INFO"], stock.count(environ["QUERY_STRING"])]
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "application/json")])
        yield json.dumps([*found, len(body), os.getpid(), stock.where()]).encode()
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Node, Path]]:
    folder = write_application(tmp_path / "app", MANIFEST, front=FRONT, old=OLD, stock=STOCK)
    (folder / "out").mkdir()
    with running(folder) as node:
        yield node, folder


def ask(node: Node, path: str, body: bytes | None = None) -> Any:
    connection = http.client.HTTPConnection(node.urls[0].removeprefix("http://"), timeout=PATIENCE_S)
    try:
        connection.request("GET" if body is None else "POST", path, body=body)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        return json.loads(answer.read())
    finally:
        connection.close()


def test_an_asgi_application_calls_others_from_its_loop_and_from_threads(shop: tuple[Node, Path]) -> None:
    node, folder = shop
    pids = {shard.component: shard.pid for shard in node.shards()}
    found = ask(node, "/?abc")
    assert found == {
        "state": 7,
        "here": 3,
        "to_thread": [[3 * n, pids["asgi"], pids["stock"]] for n in range(5)],
        "executor": 1,
        "pid": pids["asgi"],
    }
    assert (folder / "out" / "asgi").read_text().split() == ["startup"]
    node.close()
    assert (folder / "out" / "asgi").read_text().split() == ["startup", "shutdown", "exit"]


def test_a_wsgi_application_calls_others(shop: tuple[Node, Path]) -> None:
    node, _ = shop
    pids = {shard.component: shard.pid for shard in node.shards()}
    size = 1_000_000
    assert ask(node, "/old/x?abcd", b"z" * size) == ["/old", "/x", 4, size, pids["wsgi"], pids["stock"]]
