"""Operating an application through its gateway: numbers, readiness, one trace, sockets of a supervisor."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

import shardwright
from cli_apps import environment, write_app
from shardwright.node import LogLine, Node

MANIFEST = """
[app]
name = "served"
[components.front]
code = "front"
[components.middle]
code = "middle"
[components.back]
code = "back"
state = "memory"
[gateway]
bind = "127.0.0.1:0"
[[routes]]
path = "/work/{number}"
methods = ["GET"]
call = "front.work"
"""
FRONT = """
import middle
def work(number: int) -> int:
    print("front", number)
    if number < 0:
        raise ValueError("below zero")
    return middle.work(number)
"""
MIDDLE = """
import asyncio, logging, threading
import back
def work(number):
    threading.Thread(target=print, args=("thread of middle", number)).start()
    async def one():
        logging.getLogger("middle").warning("task of middle %s", number)
    asyncio.run(one())
    return back.work(number)
"""
BACK = """
import sys
def work(number):
    print("back", number, file=sys.stderr)
    return number
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(tmp_path / "served", MANIFEST, front=FRONT, middle=MIDDLE, back=BACK)


def get(address: str, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode()
    finally:
        connection.close()


def address_of(node: Node) -> str:
    assert node.running.ingress is not None
    return node.running.ingress.addresses[0]


def flat(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("shardwright_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse_plain(text)
        for sample in family.samples
    }


def traced(node: Node, trace: str, count: int) -> list[LogLine]:
    async def read() -> list[LogLine]:
        node.running.core.logs.drain()
        return node.running.core.logs.since(trace=trace)

    deadline = time.monotonic() + 20
    while len(found := node.running.submit(read()).result()) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_the_trace_of_a_request_is_on_every_line_of_three_shards(app: Path, tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with shardwright.start(app, state=tmp_path / "s") as node:
        status, headers, body = get(address_of(node), "/work/5", traceparent=f"00-{trace}-00f067aa0ba902b7-01")
        assert (status, body, headers["shardwright-trace"]) == (200, "5", trace)
        found = traced(node, trace, 4)
        other = get(address_of(node), "/work/6")[1]["shardwright-trace"]
        next_one = traced(node, other, 4)
        # what goes wrong is said with it as well
        failed = get(address_of(node), "/work/-1")
        told = traced(node, failed[1]["shardwright-trace"], 1)
    assert sorted(line.text for line in found) == ["back 5", "front 5", "task of middle 5", "thread of middle 5"]
    assert sorted(line.text for line in next_one) == ["back 6", "front 6", "task of middle 6", "thread of middle 6"]
    assert {line.component for line in found} == {"front", "middle", "back"}
    assert failed[0] == 500 and "below zero" not in failed[2] and failed[1]["shardwright-trace"] in failed[2]
    assert any(line.text == "front -1" for line in told)


def test_the_gateway_tells_the_numbers_of_the_node_with_its_own(app: Path, tmp_path: Path) -> None:
    with shardwright.start(app, state=tmp_path / "s") as node:
        address = address_of(node)
        for number in range(10):
            assert get(address, f"/work/{number}")[0] == 200
        assert get(address, "/no/such/path")[0] == 404
        assert get(address, "/work/x")[0] == 422
        status, headers, text = get(address, "/metrics")
        strict = get(address, "/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1")
        far = get(address, "/metrics", X_Forwarded_For="203.0.113.9")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    found = flat(text)
    assert found["gateway_requests_total", "GET", "/work/{number}", "200"] == 10
    assert found["gateway_requests_total", "GET", "/work/{number}", "422"] == 1
    assert found["gateway_requests_total", "GET", "unmatched", "404"] == 1
    assert found["gateway_request_duration_seconds_count", "GET", "/work/{number}"] == 11
    assert found["gateway_node_up",] == 1 and found["keeper_up",] == 1 and found["node_ready",] == 1
    assert found["calls_received_total", "back"] == 10 and found["calls_made_total", "gateway"] == 11
    assert found["shards", "gateway", "ready"] == 1
    assert "/work/3" not in text and "/no/such" not in text
    assert strict[0] == 200 and strict[1]["content-type"].startswith("application/openmetrics-text")
    assert any(family.name == "shardwright_gateway_requests" for family in parse_openmetrics(strict[2]))
    assert far[0] == 403 and "shardwright_" not in far[2]


def test_health_and_readiness_are_told(app: Path, tmp_path: Path) -> None:
    with shardwright.start(app, state=tmp_path / "s") as node:
        address = address_of(node)
        assert get(address, "/_shardwright/health")[0] == 200
        status, _, body = get(address, "/_shardwright/ready")
        assert status == 200 and json.loads(body)["status"] == "ready"


def test_sockets_of_a_supervisor_take_the_place_of_the_address(app: Path, tmp_path: Path) -> None:
    """As systemd does it: the socket is there before the node, and stays when the gateway or the node goes."""
    manifest = app / "shardwright.toml"
    manifest.write_text(manifest.read_text().replace("127.0.0.1:0", "127.0.0.1:1"))  # nobody may use that one
    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', "
        "LISTEN_FDNAMES='gateway'); os.execv(sys.executable, [sys.executable, '-m', 'shardwright', 'run', sys.argv[2]])"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"

        def start() -> subprocess.Popen[Any]:
            return subprocess.Popen(
                [sys.executable, "-c", code, str(listener.fileno()), str(app)],
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, env=environment(tmp_path),
            )  # fmt: skip

        for _ in range(2):
            node = start()
            try:
                assert get(address, "/work/1")[2] == "1"  # it waits in the backlog until there is a gateway
                (gateway,) = [
                    shard["pid"] for shard in json.loads(ps(tmp_path))["shards"] if shard["component"] == "gateway"
                ]
                os.kill(gateway, signal.SIGKILL)
                assert get(address, "/work/2")[2] == "2"
                children = psutil.Process(node.pid).children(recursive=True)
                node.send_signal(signal.SIGTERM)
                assert node.wait(30) == 0
                assert not psutil.wait_procs(children, timeout=20)[1]
            finally:
                if node.poll() is None:
                    node.kill()
                    node.wait(10)


def ps(tmp_path: Path) -> str:
    from cli_apps import shardwright as command

    return command(tmp_path, "ps", "--json").stdout
