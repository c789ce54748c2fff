"""The page about the node in a real browser: what it shows, whom it lets in, whether everybody can use it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright
from browser import Windows, barriers, chromium, open_windows
from cli_apps import write_app
from shardwright.node import Node

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")]

MANIFEST = """
[app]
name = "looked-at"
[components.front]
code = "front"
resources = { cpu = 0.05, memory = "16MiB" }
limits = { cpu = 1.0, memory = "512MiB" }
secrets = { KEY = "file:key" }
[components.cart]
code = "cart"
scope = "session"
state = "memory"
[gateway]
bind = "127.0.0.1:0"
token = "env:TOKEN"
[[routes]]
path = "/greet/{name}"
methods = ["GET"]
call = "front.greet"
"""
FRONT = "import cart\ndef greet(name: str) -> str:\n    cart.add(name)\n    return name\n"
CART = "things = []\ndef add(thing):\n    things.append(thing)\n"
TOKEN = "a-token-for-whoever-operates-this"
SECRET = "swordfish-swordfish"
FAR = {"x-forwarded-for": "192.0.2.7"}
Record = Callable[[str, int], None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    app = write_app(tmp_path / "app", MANIFEST, front=FRONT, cart=CART)
    (app / "key").write_text(SECRET)
    with shardwright.start(app, state=tmp_path / "s", environment={"TOKEN": TOKEN}) as started:
        yield started


@pytest.fixture
def windows() -> Iterator[Windows]:
    executable = chromium()
    assert executable is not None
    with open_windows(executable) as found:
        yield found


def get(node: Node, path: str, **headers: str) -> tuple[int, bytes]:
    request = urllib.request.Request(node.urls[0] + path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()


def status(node: Node) -> dict[str, Any]:
    code, body = get(node, "/_shardwright/status")
    assert code == 200
    found: dict[str, Any] = json.loads(body)
    return found


def test_what_the_node_tells(node: Node) -> None:
    with node.session(f"visit of {SECRET} with {TOKEN}") as visit:
        visit.call("front.greet", "ada")
        code, body = get(node, "/_shardwright/status")
        told = json.loads(body)
        assert code == 200
    assert (told["app"], told["ready"], told["reasons"]) == ("looked-at", True, [])
    shards = {shard["component"]: shard for shard in told["shards"]}
    assert set(shards) == {"front", "cart", "gateway"}
    assert shards["front"]["status"] == "ready"
    assert shards["front"]["guarantee"] == {"cpu": 0.05, "memory_bytes": 16 * 2**20}
    assert shards["front"]["ceiling"] == {"cpu": 1.0, "memory_bytes": 512 * 2**20}
    assert shards["front"]["usage"]["memory_bytes"] > 2**20
    assert shards["front"]["usage"]["cpu"] >= 0
    masked = "visit of [secret] with [secret]"
    assert shards["cart"]["sessions"] == [masked]
    held = sorted([shards["cart"]["shard"], shards["front"]["shard"]])
    assert [each["shards"] for each in told["sessions"] if each["session"] == masked] == [held]
    assert 0 < len(told["decisions"]) <= 50
    assert {"launch", "ready"} <= {each["kind"] for each in told["decisions"]}
    walls = [each["wall_s"] for each in told["decisions"]]
    assert walls == sorted(walls, reverse=True)
    assert SECRET.encode() not in body
    assert TOKEN.encode() not in body


def test_what_is_recorded_is_told_without_secrets(node: Node) -> None:
    async def record() -> None:
        node.running.core.record("note", f"what is {TOKEN}?")

    node.running.submit(record()).result()
    until_s = time.monotonic() + 20
    while "what is [secret]?" not in {each["reason"] for each in status(node)["decisions"]}:
        assert time.monotonic() < until_s
        time.sleep(0.05)  # it answers from one look for a while


def test_the_page_shows_it_anew_and_keeps_nobody_out(
    node: Node, windows: Windows, tmp_path: Path, record_exercised: Record
) -> None:
    looked = 0
    try:
        for width, dark in ((1280, False), (1280, True), (390, False), (390, True)):
            window = windows.open(node.urls[0] + "/_shardwright", width=width, dark=dark, phone=width < 500)
            window.until("document.querySelectorAll('#shards td').length > 0")
            assert window.ask("document.title") == "looked-at on shardwright"
            name = f"visitor-{width}-{dark}"
            with node.session(name) as visit:
                visit.call("front.greet", "grace")
                window.until(f"document.querySelector('#sessions').innerText.includes('{name}')")
            window.until(f"!document.querySelector('#sessions').innerText.includes('{name}')")
            assert window.ask("document.documentElement.scrollWidth <= window.innerWidth"), "the page itself scrolls"
            if width < 500:
                fits = "[...document.querySelectorAll('.wide')].every(box => box.scrollWidth <= box.clientWidth)"
                assert window.ask(fits), "a table scrolls sideways"
            assert barriers(window, at_least=("moderate", "serious", "critical")) == []
            window.page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
            window.page.get_by_role("button", name="Pause").click()
            paused = window.ask("document.querySelector('#state').textContent")
            with node.session("unseen") as visit:
                visit.call("front.greet", "alan")
                window.page.wait_for_timeout(1500)
                assert window.ask("document.querySelector('#state').textContent") == paused
            assert window.complaints == []
            looked += 1
    finally:
        windows.close()
    record_exercised("windows that looked at the page about the node", looked)


def test_who_comes_by_a_proxy_is_asked_for_the_token(node: Node, windows: Windows) -> None:
    assert get(node, "/_shardwright/status", **FAR)[0] == 401
    assert get(node, "/metrics", **FAR)[0] == 401
    assert get(node, "/metrics", authorization=f"Bearer {TOKEN}", **FAR)[0] == 200
    try:
        window = windows.open(node.urls[0] + "/_shardwright")
        window.page.context.set_extra_http_headers(FAR)
        window.page.goto(node.urls[0] + "/_shardwright")
        window.until("!document.querySelector('#door').hidden")
        assert window.ask("document.querySelectorAll('td').length") == 0
        assert barriers(window) == []
        for given, shown in (("wrong", "That is not the token."), (TOKEN, "")):
            window.page.get_by_label("Token").fill(given)
            window.page.get_by_role("button", name="Open").click()
            window.until(f"document.querySelector('#trouble').textContent === '{shown}'")
        window.until("document.querySelectorAll('#shards td').length > 0")
        assert window.ask("document.querySelector('#door').hidden")
        assert [text for text in window.complaints if "401" not in text] == []
    finally:
        windows.close()
