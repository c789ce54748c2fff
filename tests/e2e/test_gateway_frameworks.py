"""A FastAPI, a Flask and a Django application, unmodified: whole under uvicorn or gunicorn, and cut into web, logic and data.

One client does the same with both and must see the same.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import protocol_servers as servers
from guest_apps import running
from protocol_wire import Wire
from shardwright.node import Node

APPS = Path(__file__).parent / "apps_web"
PATIENCE_S = 20.0
FILE = (
    b'--B\r\nContent-Disposition: form-data; name="file"; filename="words.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"%s\r\n--B--\r\n"
)
Record = Callable[[str, int], None]


class Client:
    """A browser of a few lines; keeps what it saw. Signed cookies hold the time: of those the name and attributes count."""

    def __init__(self, address: servers.Address) -> None:
        self.address = address
        self.connection = http.client.HTTPConnection(*address, timeout=PATIENCE_S)
        self.cookies: dict[str, str] = {}
        self.seen: list[Any] = []

    def ask(self, method: str, target: str, body: bytes | None = None, kind: str = "", **headers: str) -> bytes:
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if kind:
            headers["Content-Type"] = kind
        self.connection.request(method, target, body=body, headers=headers)
        answer = self.connection.getresponse()
        found = answer.read()
        shown = []
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                cookie, _, attributes = value.partition(";")
                key, _, secret = cookie.partition("=")
                self.cookies[key] = secret
                shown.append(("set-cookie", f"{key};{re.sub('expires=[^;]*', '', attributes)}"))
            elif name.lower() == "allow":  # a set, whose order says nothing
                shown.append(("allow", ", ".join(sorted(value.split(", ")))))
            elif name.lower() not in ("date", "server", "connection", "transfer-encoding", "shardwright-trace"):
                shown.append((name.lower(), value))
        self.seen.append((method, target, answer.status, sorted(shown), found))
        return found

    def json(self, method: str, target: str, value: Any) -> bytes:
        return self.ask(method, target, json.dumps(value).encode(), "application/json")

    def form(self, target: str, text: str) -> bytes:
        return self.ask("POST", target, text.encode(), "application/x-www-form-urlencoded")

    def upload(self, target: str, content: bytes) -> bytes:
        return self.ask("POST", target, FILE % content, "multipart/form-data; boundary=B")

    def until(self, target: str, expected: Any) -> None:
        """Work behind a response is done soon."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := json.loads(self.ask("GET", target))) != expected:
            assert time.monotonic() < deadline, found
            self.seen.pop()


def fastapi(client: Client) -> None:
    ask = client.ask
    ask("GET", "/notes")
    ask("POST", "/login/ada")
    client.json("POST", "/notes", {"title": " First ", "text": "to #learn and #write"})
    client.until("/done", ["CREATED 1"])  # else the work behind the next response may be done first
    client.json("POST", "/notes", {"title": "Second", "text": "to #learn"})
    client.json("POST", "/notes", {"title": "", "text": 5, "more": 1})
    client.json("POST", "/notes", {"title": "long", "text": "x" * 201})
    ask("POST", "/notes", b"{nonsense", "application/json")
    for target in ("/notes", "/notes?tag=write", "/notes?tag=much-too-long", "/notes/1", "/notes/77", "/notes/x"):
        ask("GET", target)
    ask("DELETE", "/notes/2")
    ask("DELETE", "/notes/2")
    ask("PUT", "/notes/1")
    client.upload("/words", b"one two two three three three " * 3000)
    client.upload("/nowhere", b"x")
    ask("POST", "/words", b"", "multipart/form-data; boundary=B")
    ask("GET", "/export")
    ask("HEAD", "/export")
    ask("GET", "/openapi.json")
    ask("OPTIONS", "/notes", Origin="http://elsewhere.test")
    client.until("/done", ["CREATED 1", "CREATED 2"])
    with contextlib.closing(Wire(client.address)) as wire:
        answer = wire.shake_hands("ws", "/search", ("Sec-WebSocket-Protocol", "other, search"))
        client.seen.append((answer.status, answer.header("sec-websocket-protocol")))
        for word in (b"learn", b"nowhere"):
            wire.say("text", word)
        client.seen.append(wire.frames(2))
        wire.say("text", b"")
        client.seen.append(wire.frames(1))
        wire.say("close", b"\x0f\xa0")
    with contextlib.closing(Wire(client.address)) as wire:
        wire.shake_hands("ws", "/search")
        wire.say("close", b"\x0f\xa5bye")
        client.seen.append(wire.frames())
    client.until("/done", ["CREATED 1", "CREATED 2", "SEARCHED 4005"])


def flask(client: Client) -> None:
    ask = client.ask
    ask("GET", "/")
    client.form("/topics/cats", "text=nobody+says+this")
    client.form("/login", "user=ada+%3Cb%3E")
    ask("GET", "/")
    ask("GET", "/")
    for text in ("first+%26+best", "second", "third"):
        client.form("/topics/cats", f"text={text}")
    client.form("/topics/cats", "text=++")
    client.form("/topics/not+a+name", "text=x")
    for target in ("/topics/cats", "/topics/dogs", "/no/such/page", "/topics/cats.txt?for=you", "/"):
        ask("GET", target)
    ask("HEAD", "/topics/cats")
    ask("DELETE", "/topics/cats")
    ask("OPTIONS", "/topics/cats")
    client.upload("/digest", bytes(range(256)) * 2000)
    client.form("/digest", "file=none")


def django(client: Client) -> None:
    ask = client.ask
    ask("GET", "/")
    ask("GET", "/products/1")
    ask("GET", "/products/1/")
    ask("GET", "/products/99/")
    ask("GET", "/products/x/")
    client.form("/offer/", "name=rug&price=9.99&stock=2")
    client.form("/offer/", "name=rug&price=1&stock=2")
    client.form("/offer/", "name=much-too-long-a-name&price=-1&stock=")
    ask("GET", "/offer/")
    for number in (1, 1, 3):
        ask("POST", f"/basket/{number}/")
    ask("GET", "/")
    ask("POST", "/buy/")
    ask("POST", "/basket/2/")
    ask("POST", "/basket/2/")
    ask("POST", "/buy/")
    ask("GET", "/export.csv")
    client.upload("/import/", b"mug,3.20,5\ncup,2.80,4\n")
    ask("GET", "/export.csv")
    ask("HEAD", "/export.csv")
    ask("GET", "/", Host="elsewhere.test")


SCRIPTS = {"fastapi": fastapi, "flask": flask, "django": django}
WHOLE = {
    "fastapi": (servers.uvicorn, "notes.web.main:app"),
    "flask": (servers.gunicorn, "board.web:app"),
    "django": (servers.gunicorn, "shop.web.wsgi:application"),
}
WHERE = {"fastapi": "/where", "flask": "/where", "django": "/where/"}


@contextlib.contextmanager
def client_of(address: servers.Address) -> Iterator[Client]:
    client = Client(address)
    try:
        yield client
    finally:
        client.connection.close()


def received(node: Node) -> dict[str, int]:
    """How many calls the shards of each component began to run."""
    found = re.findall(
        r'^shardwright_calls_received_total\{component="(\w+)"\} ([0-9.]+)$', node.metrics().decode(), re.M
    )
    return {component: int(float(count)) for component, count in found}


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_unmodified_application_in_three_shards(name: str, tmp_path: Path, record_exercised: Record) -> None:
    serve, app = WHOLE[name]
    script = SCRIPTS[name]
    with serve(servers.copied(APPS / f"{name}_notes", tmp_path / "whole"), app) as address, client_of(address) as whole:
        assert len(set(json.loads(whole.ask("GET", WHERE[name])).values())) == 1
        whole.seen.clear()
        script(whole)
    folder = servers.copied(APPS / f"{name}_notes", tmp_path / "cut")
    with running(folder) as node, client_of(servers.address_of(node)) as cut:
        processes = json.loads(cut.ask("GET", WHERE[name]))
        shards = {shard.component: shard.pid for shard in node.shards()}
        assert processes == {part: shards[part] for part in ("web", "logic", "data")}
        assert len(set(processes.values())) == 3
        cut.seen.clear()
        before = received(node)
        script(cut)
        for ours, theirs in zip(cut.seen, whole.seen, strict=True):
            assert ours == theirs
        crossed = {part: count - before.get(part, 0) for part, count in received(node).items()}
        assert crossed["web"] >= len(SCRIPTS) and crossed["logic"] > 5 and crossed["data"] > 5
    record_exercised(f"requests to {name}, the same cut and whole", len(whole.seen))
    record_exercised(f"calls between the shards of {name}", crossed["logic"] + crossed["data"])


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_mistake_in_a_view(name: str, tmp_path: Path) -> None:
    """The frameworks answer it themselves, or the server does: 500 both times, and not a word of what happened."""
    serve, app = WHOLE[name]
    target = "/broken/" if name == "django" else "/broken"
    folder = servers.copied(APPS / f"{name}_notes", tmp_path / "whole")
    with serve(folder, app) as address, client_of(address) as whole:
        whole.ask("GET", target)
    with (
        running(servers.copied(APPS / f"{name}_notes", tmp_path / "cut")) as node,
        client_of(servers.address_of(node)) as cut,
    ):
        cut.ask("GET", target)
        assert b"mistake" not in cut.seen[0][4]
    assert cut.seen[0] == whole.seen[0]
