"""Other code behind a gateway that serves: no request fails, while shards and the gateway itself are replaced."""

from __future__ import annotations

import http.client
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import shardwright as public
from cli_apps import write_app
from dev_terminals import begin

MANIFEST = """
[app]
name = "served"
[components.shop]
code = "shop"
[gateway]
bind = "127.0.0.1:0"
[[routes]]
path = "/price/{n}"
methods = ["GET"]
call = "shop.price"
"""
SHOP = "def price(n: int) -> int:\n    return n * 1\n\ndef other(n: int) -> int:\n    return n * 7\n"


def test_no_request_fails_while_shards_and_gateway_are_replaced(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    app = write_app(tmp_path / "app", MANIFEST, shop=SHOP)
    answers: Counter[tuple[int, bytes]] = Counter()
    stop = threading.Event()
    with public.start(app, state=tmp_path / "state") as node:
        assert node.running.ingress is not None
        address = urllib.parse.urlsplit(node.running.ingress.urls[0]).netloc

        def ask(path: str, connection: http.client.HTTPConnection) -> tuple[int, bytes]:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

        def load() -> None:
            connection = http.client.HTTPConnection(address, timeout=30)
            try:
                while not stop.is_set():
                    try:
                        answers[ask("/price/3", connection)] += 1
                    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                        connection.close()  # between two requests a server may close; the next one must be answered
                        answers[ask("/price/3", connection)] += 1
            finally:
                connection.close()

        clients = [begin(load) for _ in range(4)]
        try:
            for generation in range(2, 7):
                before = answers.total()
                while answers.total() < before + 50 and not any(client.done() for client in clients):
                    stop.wait(0.005)
                (app / "shop.py").write_text(SHOP.replace("n * 1", f"n * {generation}"))
                route = f'[[routes]]\npath = "/other{generation}/{{n}}"\nmethods = ["GET"]\ncall = "shop.other"\n'
                with (app / "shardwright.toml").open("a") as manifest:
                    manifest.write(route)
                done = node.reload()
                assert set(done.replaced) == {"shop", "gateway"} and not done.notes, done
                connection = http.client.HTTPConnection(address, timeout=30)
                assert ask(f"/other{generation}/3", connection) == (200, b"21")
                assert ask("/price/3", connection) == (200, str(3 * generation).encode())
                connection.close()
        finally:
            stop.set()
            for client in clients:
                client.result(60)
    assert set(answers) <= {(200, str(3 * generation).encode()) for generation in range(1, 7)}, answers
    assert len(answers) >= 4
    record_exercised("requests while shards and gateway were replaced", answers.total())
