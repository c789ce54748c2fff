"""A line for each request, where it is asked for: in the manifest, or by the level of the node's own log."""

from __future__ import annotations

import http.client
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shardwright
from cli_apps import write_app
from shardwright.node import Node
from shardwright.node._running import Options, Running
from shardwright.telemetry import OwnLog

MANIFEST = """
[app]
name = "logged"
[components.front]
code = "front"
[components.web]
code = "web:app"
[gateway]
bind = "127.0.0.1:0"
{more}
[[routes]]
path = "/work/{{number}}"
call = "front.work"
[[routes]]
path = "/app"
app = "web"
[[routes]]
path = "/slow"
call = "front.slow"
timeout = "100ms"
"""
FRONT = """
import asyncio
def work(number: int) -> int:
    return 1 // number
async def slow() -> None:
    await asyncio.sleep(60)
"""
WEB = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 207, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})
"""
ASKED = (
    ("GET", "/work/4?secret=hidden", 200, "/work/{number}"),
    ("POST", "/work/0", 500, "/work/{number}"),
    ("GET", "/work/hidden", 422, "/work/{number}"),
    ("GET", "/app/hidden", 207, "/app"),
    ("GET", "/hidden", 404, None),
    ("GET", "/slow", 504, "/slow"),
)


def ask(node: Node, method: str, path: str) -> tuple[int, str]:
    assert node.running.ingress is not None
    connection = http.client.HTTPConnection(node.running.ingress.addresses[0], timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["shardwright-trace"]
    finally:
        connection.close()


def lines(node: Node, count: int) -> list[Any]:
    async def read() -> list[Any]:
        node.running.core.logs.drain()
        return [line for line in node.running.core.logs.since() if line.logger == "shardwright.access"]

    until_s = time.monotonic() + 20
    while len(found := node.running.submit(read()).result()) < count and time.monotonic() < until_s:
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("by", ["manifest", "level"])
def test_every_request_has_its_line(tmp_path: Path, by: str, record_exercised: Callable[[str, int], None]) -> None:
    manifest = MANIFEST.format(more="access_log = true" if by == "manifest" else "")
    app = write_app(tmp_path / "app", manifest, front=FRONT, web=WEB)
    log = OwnLog(io.StringIO(), form="json", level="debug") if by == "level" else None
    try:
        with Node(Running(app, Options(state=tmp_path / "s", log=log))) as node:
            traces = []
            for method, path, status, _ in ASKED:
                found, trace = ask(node, method, path)
                assert found == status
                traces.append(trace)
            assert ask(node, "GET", "/_shardwright/health")[0] == 200
            said = lines(node, len(ASKED))
    finally:
        if log is not None:
            log.close()
    told = [json.loads(line.text) for line in said]
    assert [(each["method"], each["status"], each["route"]) for each in told] == [
        (method, status, pattern) for method, _, status, pattern in ASKED
    ]
    assert [each["trace"] for each in told] == traces == [line.trace for line in said]
    assert all(0 < each["ms"] < 60_000 for each in told)
    assert told[-1]["ms"] > 99
    assert {(line.component, line.level) for line in said} == {("gateway", "INFO")}
    assert not any("hidden" in line.text for line in said)
    record_exercised("requests in the access log", len(said))


def test_without_it_nothing_is_said(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", MANIFEST.format(more=""), front=FRONT, web=WEB)
    with shardwright.start(app, state=tmp_path / "s") as node:
        assert ask(node, "GET", "/work/1")[0] == 200
        assert lines(node, 0) == []
