"""The gateway under what lasts: idle WebSockets, clients that never finish a request, its own death under load.

Here in short, by counts. The long forms, with figures that only a quiet machine can be held to: SWT_LONG=1.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import resource
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
import pytest

from guest_apps import running, write_application
from shardwright.node import Node

LONG = bool(os.environ.get("SWT_LONG"))
PATIENCE_S = 120.0 if LONG else 30.0
WEBSOCKETS = 10_000 if LONG else 500
SLOW = 1_000 if LONG else 200
REQUESTS = 2_000 if LONG else 200
KILLS = 10 if LONG else 2
KIB = 1024
Record = Callable[[str, int], None]

MANIFEST = """
    [app]
    name = "endurance"
    [components.live]
    code = "live:app"
    [components.stock]
    code = "stock"
    [components.cart]
    code = "cart"
    scope = "session"
    state = "memory"
    [gateway]
    bind = "127.0.0.1:0"
    header_timeout = "2s"
    [[routes]]
    path = "/live"
    app = "live"
    [[routes]]
    path = "/stock/{n}"
    call = "stock.get"
    [[routes]]
    path = "/cart/{n}"
    call = "cart.add"
"""
LIVE = """
    async def app(scope, receive, send):
        if scope["type"] != "websocket":
            raise RuntimeError("just WebSockets live here")
        await receive()
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "bytes": event["bytes"]})
"""
STOCK = """
    def get(n: int) -> int:
        return n + 1
"""
CART = """
    ITEMS = []

    def add(n: int) -> list[int]:
        ITEMS.append(n)
        return ITEMS
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node that serves, where a process may have as many sockets as the machine lets it have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with running(write_application(tmp_path / "app", MANIFEST, live=LIVE, stock=STOCK, cart=CART)) as node:
            yield node
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def address_of(node: Node) -> tuple[str, int]:
    host, _, port = node.urls[0].removeprefix("http://").partition(":")
    return host, int(port)


def pid_of(node: Node, component: str) -> int:
    return next((shard.pid for shard in node.shards() if shard.component == component and shard.pid), 0)


def connected(node: Node, index: int) -> socket.socket:
    """A connection from one of many addresses of loopback: one alone has too few ports."""
    return socket.create_connection(
        address_of(node), timeout=PATIENCE_S, source_address=(f"127.0.1.{index % 200 + 1}", 0)
    )


# -- WebSockets ------------------------------------------------------------------------------------------------------

HANDSHAKE = (
    b"GET /live HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASK = b"\0\0\0\0"  # which leaves everything as it is


@dataclass
class Idlers:
    """WebSockets of one thread, which answers their pings and does nothing else with them."""

    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    open: list[socket.socket] = field(default_factory=list)
    echoed: list[bytes] = field(default_factory=list)
    ended: int = 0

    def add(self, node: Node, count: int) -> None:
        for _ in range(count):
            connection = connected(node, len(self.open))
            self.open.append(connection)
            connection.sendall(HANDSHAKE)
            answer = b""
            while not answer.endswith(b"\r\n\r\n"):
                piece = connection.recv(1)
                assert piece, f"WebSocket {len(self.open)} was refused: {answer!r}"
                answer += piece
            assert answer.startswith(b"HTTP/1.1 101 "), answer
            connection.setblocking(False)
            self.selector.register(connection, selectors.EVENT_READ)
            self.attend(0)

    def attend(self, seconds: float) -> None:
        """Answer what arrives, for so long."""
        end_s = time.monotonic() + seconds
        while True:
            for key, _ in self.selector.select(max(0.0, end_s - time.monotonic())):
                self._hear(key.fileobj)  # type: ignore[arg-type]
            if time.monotonic() >= end_s:
                return

    def _hear(self, connection: socket.socket) -> None:
        frames = connection.recv(4096)
        if not frames:
            self.ended += 1
            self.selector.unregister(connection)
        while frames:
            length = frames[1]
            payload, opcode = frames[2 : 2 + length], frames[0] & 0x0F
            assert length < 126
            if opcode == 9:
                connection.send(bytes([0x8A, 0x80 | length]) + MASK + payload)
            elif opcode == 2:
                self.echoed.append(payload)
            frames = frames[2 + length :]

    def say(self, index: int, word: bytes) -> None:
        self.open[index].send(bytes([0x82, 0x80 | len(word)]) + MASK + word)

    def close(self) -> None:
        self.selector.close()
        for connection in self.open:
            connection.close()


def rss(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_idle_websockets_cost_little_memory(node: Node, record_exercised: Record) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > WEBSOCKETS + 1000, "this machine permits too few descriptors"
    with contextlib.closing(Idlers()) as idlers:
        idlers.add(node, 50)  # what the first ones bring with them is not counted
        gateway, shard = pid_of(node, "gateway"), pid_of(node, "live")
        before = rss(gateway), rss(shard)
        idlers.add(node, WEBSOCKETS - 50)
        if LONG:
            idlers.attend(45)  # two rounds of pings and more
        each_gateway = (rss(gateway) - before[0]) / (WEBSOCKETS - 50)
        each_shard = (rss(shard) - before[1]) / (WEBSOCKETS - 50)
        record_exercised("idle WebSockets held", WEBSOCKETS)
        record_exercised("bytes: gateway's memory per idle WebSocket", round(each_gateway))
        record_exercised("bytes: shard's memory per idle WebSocket", round(each_shard))
        record_exercised("KiB: gateway's whole memory with them", rss(gateway) // KIB)
        record_exercised("KiB: shard's whole memory with them", rss(shard) // KIB)
        assert each_gateway < 30 * KIB
        assert not LONG or rss(gateway) < 300 * 1024 * KIB

        asked = range(0, WEBSOCKETS, 7)
        for index in asked:
            idlers.say(index, b"%d" % index)
        end_s = time.monotonic() + PATIENCE_S
        while len(idlers.echoed) < len(asked) and time.monotonic() < end_s:
            idlers.attend(0.05)
        assert sorted(map(int, idlers.echoed)) == list(asked), "they live, each of them"
        assert idlers.ended == 0


# -- clients that take their time ------------------------------------------------------------------------------------


def asked(node: Node, count: int, until: Callable[[], bool] = lambda: True) -> list[float]:
    """How long each of at least so many requests took, one after the other on one connection. All must be answered well."""
    times: list[float] = []
    connection = http.client.HTTPConnection(*address_of(node), timeout=PATIENCE_S)
    try:
        for n in itertools.count():
            if n >= count and until():
                return times
            begun_s = time.perf_counter()
            connection.request("GET", f"/stock/{n}")
            answer = connection.getresponse()
            assert (answer.status, answer.read()) == (200, b"%d" % (n + 1))
            times.append(time.perf_counter() - begun_s)
    finally:
        connection.close()
    raise AssertionError("not reached")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slow_clients_slow_nobody_and_are_cut_off(node: Node, record_exercised: Record) -> None:
    alone = asked(node, REQUESTS)
    slow = [connected(node, index) for index in range(SLOW)]
    stopped = threading.Event()
    dripped = [0]

    def drip() -> None:
        """Each client sends one more byte of a head that never ends, again and again."""
        while not stopped.is_set():
            for connection in slow:
                with contextlib.suppress(OSError):  # it was cut off
                    connection.send(b"x")
                    dripped[0] += 1
            stopped.wait(0.3)

    for index, connection in enumerate(slow):
        connection.sendall(b"GET /stock/%d HTTP/1.1\r\nhost: localhost\r\nx-slow: " % index)
    cut: list[bool] = []
    threads = [
        threading.Thread(target=drip),
        threading.Thread(target=lambda: cut.extend(_was_cut(connection) for connection in slow)),
    ]
    for thread in threads:
        thread.start()
    try:
        beside = asked(node, REQUESTS, lambda: len(cut) == SLOW)
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        for connection in slow:
            connection.close()
    assert all(cut), f"{cut.count(False)} were not cut off"
    assert dripped[0] >= SLOW
    assert asked(node, 10)
    record_exercised("slow clients, each cut off", len(cut))
    record_exercised("requests answered beside them", len(beside))
    record_exercised("µs: median request without slow clients", round(median(alone) * 1e6))
    record_exercised("µs: median request beside them", round(median(beside) * 1e6))
    record_exercised("µs: worst request beside them", round(max(beside) * 1e6))
    # every client drips for all of the time: what is asked meanwhile has its turn in between
    assert not LONG or sorted(beside)[int(len(beside) * 0.99)] < 10 * sorted(alone)[int(len(alone) * 0.99)]


def _was_cut(connection: socket.socket) -> bool:
    """Whether it is told 408 and closed, or just closed, in time."""
    connection.settimeout(PATIENCE_S)
    said = b""
    try:
        while piece := connection.recv(4096):
            said += piece
    except TimeoutError:
        return False
    except ConnectionError:  # a byte was on its way when it was closed
        return True
    return said.startswith(b"HTTP/1.1 408 ")


# -- its death -------------------------------------------------------------------------------------------------------


class Customer(threading.Thread):
    """Fills a cart of its own, request after request, and expects to find in it whatever was acknowledged."""

    def __init__(self, node: Node, stopped: threading.Event) -> None:
        super().__init__()
        self.address = address_of(node)
        self.stopped = stopped
        self.acknowledged: list[int] = []
        self.cart: list[int] = []
        self.failed = 0
        self.wrong: list[str] = []
        self.answers_s: list[float] = []

    def run(self) -> None:
        cookie, n = "", 0
        connection = http.client.HTTPConnection(*self.address, timeout=PATIENCE_S)
        while not self.stopped.is_set():
            n += 1
            try:
                connection.request("GET", f"/cart/{n}", headers={"Cookie": cookie} if cookie else {})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException):
                self.failed += 1
                connection.close()
                continue
            given = answer.getheader("Set-Cookie")
            cookie = given.partition(";")[0] if given else cookie
            if answer.status != 200:
                self.wrong.append(f"{answer.status} {body!r}")
                continue
            self.answers_s.append(time.monotonic())
            self.acknowledged.append(n)
            self.cart = json.loads(body)
        connection.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_gateway_comes_back_with_all_sessions(node: Node, record_exercised: Record) -> None:
    stopped = threading.Event()
    customers = [Customer(node, stopped) for _ in range(8)]
    gaps_s: list[float] = []
    for customer in customers:
        customer.start()
    try:
        for _ in range(KILLS):
            served = [len(customer.answers_s) for customer in customers]
            _until(lambda served=served: all(len(c.answers_s) > n + 20 for c, n in zip(customers, served, strict=True)))
            pid = pid_of(node, "gateway")
            killed_s = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            _until(
                lambda killed_s=killed_s, pid=pid: (
                    _back(customers, killed_s) and pid_of(node, "gateway") not in (0, pid)
                )
            )
            # the last to be answered again: all of them are served
            gaps_s.append(max(min(s for s in c.answers_s if s > killed_s + 0.001) - killed_s for c in customers))
    finally:
        stopped.set()
        for customer in customers:
            customer.join()
    for customer in customers:
        assert not customer.wrong, customer.wrong[:3]
        assert set(customer.acknowledged) <= set(customer.cart), "what was acknowledged is in the cart"
        assert sorted(set(customer.cart)) == customer.cart, "once, and in order"
    record_exercised("kills of the gateway under load", len(gaps_s))
    record_exercised("requests answered meanwhile", sum(len(customer.acknowledged) for customer in customers))
    record_exercised("requests lost in flight", sum(customer.failed for customer in customers))
    record_exercised("ms: median until all clients were served again", round(median(gaps_s) * 1e3))
    record_exercised("ms: longest until all clients were served again", round(max(gaps_s) * 1e3))
    assert not LONG or max(gaps_s) < 0.5, gaps_s


def _back(customers: list[Customer], since_s: float) -> bool:
    """Whether each was answered since; an answer that was on its way does not count."""
    return all(customer.answers_s and customer.answers_s[-1] > since_s + 0.001 for customer in customers)


def _until(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.002)
