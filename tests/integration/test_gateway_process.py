"""The gateway's process: its sockets, its sessions, its death and its end, and who else may ask for sessions."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import journal_rows, running, write_application
from shardwright.errors import ManifestError, NodeError
from shardwright.node import Node

PATIENCE_S = 20.0
MANIFEST = """
    [app]
    name = "door"
    [components.stock]
    code = "stock"
    [components.cart]
    code = "cart"
    scope = "session"
    state = "memory"
    [gateway]
    bind = "127.0.0.1:0"
    EXTRA
    [[routes]]
    path = "/stock/{n}"
    methods = ["GET"]
    call = "stock.get"
    [[routes]]
    path = "/slow/{token}"
    call = "stock.slow"
    [[routes]]
    path = "/spit/{how}"
    call = "stock.spit"
    [[routes]]
    path = "/cart/{n}"
    call = "cart.add"
"""
STOCK = """
    import gc, os, time

    def get(n: int) -> int:
        return n + 1

    def slow(token: str) -> str:
        open(token + ".begun", "w").close()
        while not os.path.exists(token + ".go"):
            time.sleep(0.005)
        return token

    def where() -> str:
        return os.getcwd()

    def spit(how: str) -> str:
        for channel in [each for each in gc.get_objects() if type(each).__name__ in ("SocketChannel", "RingChannel")]:
            if how == "bytes":
                channel.send([b"\\xff" * 4096])
            else:
                channel.send([b"no envelope"])
        return "spat"

    def forge(name: str) -> str:
        from shardwright.guest import BeginSession, ControlSocket, EndSession, UseSessions
        control = next(each for each in gc.get_objects() if isinstance(each, ControlSocket) and each.fileno() >= 0)
        control.send(BeginSession(1, name))
        control.send(UseSessions((1, 2, 3)))
        control.send(EndSession(name))
        return "sent"
"""
CART = """
    ITEMS = []

    def add(n: int) -> list[int]:
        ITEMS.append(n)
        return ITEMS
"""


def application(folder: Path, extra: str = "", bind: str = "127.0.0.1:0") -> Path:
    manifest = MANIFEST.replace("EXTRA", extra).replace("127.0.0.1:0", bind)
    return write_application(folder / "app", manifest, stock=STOCK, cart=CART)


class Browser:
    """One client with its cookies, over one connection that it makes anew when it is closed."""

    def __init__(self, node: Node) -> None:
        self.address = node.urls[0].removeprefix("http://")
        self.connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        self.cookie = ""

    def get(self, path: str) -> tuple[int, bytes]:
        self.connection.request("GET", path, headers={"Cookie": self.cookie} if self.cookie else {})
        answer = self.connection.getresponse()
        body = answer.read()
        given = answer.getheader("Set-Cookie")
        if given:
            self.cookie = given.partition(";")[0]
        return answer.status, body

    def get_again(self, path: str) -> tuple[int, bytes]:
        """The same, on a new connection when the old one is gone."""
        try:
            return self.get(path)
        except (OSError, http.client.HTTPException):
            self.connection.close()
            return self.get(path)


@pytest.fixture
def browser() -> Iterator[Callable[[Node], Browser]]:
    """Makes browsers, and closes them."""
    made: list[Browser] = []

    def make(node: Node) -> Browser:
        made.append(Browser(node))
        return made[-1]

    yield make
    for each in made:
        each.connection.close()


Open = Callable[[Node], Browser]


def eventually(holds: Callable[[], Any]) -> Any:
    end_s = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < end_s, "it did not come"
        time.sleep(0.002)
    return found


def pid_of(node: Node, component: str) -> int:
    return next((shard.pid for shard in node.shards() if shard.component == component and shard.pid), 0)


def sessions(node: Node) -> set[str]:
    return {session.name for session in node.running.core.sessions()}


def test_sessions_survive_the_death_of_the_gateway_under_load(
    tmp_path: Path, browser: Open, record_exercised: Any
) -> None:
    with running(application(tmp_path)) as node:
        visitors = [browser(node) for _ in range(4)]
        for n, visitor in enumerate(visitors):
            assert visitor.get(f"/cart/{n}") == (200, f"[{n}]".encode())
        before = sessions(node)
        stop = threading.Event()
        answered, cut, wrong = [0], [0], list[object]()

        def load() -> None:
            client = browser(node)
            while not stop.is_set():
                try:
                    found = client.get("/stock/1")
                    answered[0] += 1
                    if found != (200, b"2"):
                        wrong.append(found)
                except (OSError, http.client.HTTPException):
                    cut[0] += 1  # it was in flight
                    client.connection.close()

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        kills = 5
        longest_s = 0.0
        try:
            for _ in range(kills):
                pid, seen = eventually(lambda: pid_of(node, "gateway")), answered[0]
                eventually(lambda seen=seen: answered[0] > seen + 20)
                os.kill(pid, signal.SIGKILL)
                killed_s = time.monotonic()
                client = browser(node)
                assert client.get_again("/stock/7") == (200, b"8")
                longest_s = max(longest_s, time.monotonic() - killed_s)
                eventually(lambda pid=pid: pid_of(node, "gateway") not in (0, pid))
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE_S)
        assert not wrong and cut[0] <= kills * len(threads) * 2
        for n, visitor in enumerate(visitors):
            assert visitor.get_again(f"/cart/{n + 10}") == (200, f"[{n},{n + 10}]".encode())
        assert sessions(node) == before | {"gateway"}
        record_exercised("kills of the gateway under load", kills)
        record_exercised("milliseconds that the gateway was away at most", int(longest_s * 1000))


def test_what_connects_while_the_gateway_is_away_is_answered_by_the_next(tmp_path: Path, browser: Open) -> None:
    with running(application(tmp_path)) as node:
        pid = eventually(lambda: pid_of(node, "gateway"))
        os.kill(pid, signal.SIGSTOP)  # it accepts nothing any more
        clients = [browser(node) for _ in range(10)]
        for client in clients:
            client.connection.connect()
            client.connection.request("GET", "/stock/1")
        os.kill(pid, signal.SIGKILL)
        assert [client.connection.getresponse().read() for client in clients] == [b"2"] * 10
        for client in clients:
            client.connection.close()


def test_a_request_in_flight_ends_before_the_node_does(tmp_path: Path, browser: Open) -> None:
    token = str(tmp_path / "token")
    with running(application(tmp_path)) as node:
        found: list[tuple[int, bytes]] = []
        client = browser(node)
        asking = threading.Thread(target=lambda: found.append(client.get(f"/slow/{token.replace('/', '%2F')}")))
        asking.start()
        eventually(lambda: os.path.exists(token + ".begun"))
        closing = threading.Thread(target=node.close)
        closing.start()
        refused = False
        while not refused:  # from now on nobody is let in
            try:
                with socket.create_connection(tuple(client.address.rsplit(":", 1)), timeout=0.2) as more:
                    more.sendall(b"GET /stock/1 HTTP/1.1\r\nHost: h\r\n\r\n")
                    refused = more.recv(100)[:12] != b"HTTP/1.1 200"
            except OSError:
                refused = True
        assert not found
        Path(token + ".go").touch()
        asking.join(PATIENCE_S)
        closing.join(PATIENCE_S)
        assert found and found[0][0] == 200
        client.connection.close()


def test_idle_sessions_end_and_used_ones_do_not(tmp_path: Path, browser: Open) -> None:
    with running(application(tmp_path, 'session_idle = "2s"')) as node:
        used, idle = browser(node), browser(node)
        assert idle.get("/cart/1")[0] == 200
        (name,) = sessions(node) - {"gateway"}
        used.get("/cart/0")
        count = 1
        while name in sessions(node):
            assert used.get(f"/cart/{count}")[0] == 200
            count += 1
        status, body = used.get("/cart/99")
        assert status == 200 and body.startswith(b"[0,1,") and body.endswith(b",99]")
        assert idle.get("/cart/5") == (200, b"[5]")  # its state is gone with its session
        assert any(kind == "expire" for kind in _kinds(node))


def _kinds(node: Node) -> set[str]:
    return {recorded.event.kind for recorded in node.running.events.since(0)}


def test_nobody_but_the_gateway_gets_sessions(tmp_path: Path, browser: Open) -> None:
    with running(application(tmp_path)) as node:
        with node.session("mine") as session:
            assert session.call("stock.forge", "stolen") == "sent"
            assert session.call("stock.forge", "mine") == "sent"
            assert session.call("stock.get", 1) == 2  # the shard lives on
            refused = eventually(
                lambda: [e for e in node.running.events.since(0) if "is not the gateway" in e.event.message]
            )
            assert refused
            assert sessions(node) <= {"mine", "gateway"}
        assert browser(node).get("/stock/1") == (200, b"2")


def test_a_name_of_the_users_own_session_is_not_given_to_the_gateway(tmp_path: Path) -> None:
    from shardwright.guest import BeginSession

    with running(application(tmp_path)) as node, node.session("mine"):
        answers: list[Any] = []

        class Port:
            component, shard = "gateway", "gateway-0"

            def begun(self, answer: Any) -> None:
                answers.append(answer)

        node.running._loop.call_soon_threadsafe(
            node.running.core.gateway_sessions.on_ask, Port(), BeginSession(1, "mine")
        )
        eventually(lambda: answers)
        assert answers[0].session == 0 and answers[0].code == "SW601"


def test_a_port_in_use_is_said_and_nothing_is_left(tmp_path: Path, browser: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(NodeError, match=f"127.0.0.1:{port}: another process listens there already") as refused,
            running(application(tmp_path, bind=f"127.0.0.1:{port}")),
        ):
            pass
    assert "choose another" in refused.value.remedy
    with running(application(tmp_path, bind=f"127.0.0.1:{port}")) as node:
        assert node.urls == (f"http://127.0.0.1:{port}",)
        assert browser(node).get("/stock/1") == (200, b"2")


@pytest.mark.parametrize(
    ("bind", "words"),
    [("192.0.2.1:0", "this machine has no such address"), ("no-such-host.invalid:0", "cannot listen on")],
)
def test_an_address_of_another_machine_is_said(tmp_path: Path, bind: str, words: str) -> None:
    with pytest.raises(NodeError, match=words), running(application(tmp_path, "plaintext = true", bind)):
        pass


def test_plaintext_for_other_machines_must_be_asked_for(tmp_path: Path, browser: Open) -> None:
    with pytest.raises(ManifestError, match="nothing is encrypted"), running(application(tmp_path, bind="0.0.0.0:0")):
        pass
    with running(application(tmp_path, "plaintext = true", "0.0.0.0:0")) as node:
        assert browser(node).get("/stock/1") == (200, b"2")


def test_files_of_a_certificate_that_do_not_serve_are_named(tmp_path: Path) -> None:
    tls = 'tls = { certificate = "cert.pem", key = "key.pem" }'
    folder = application(tmp_path, tls)
    with pytest.raises(NodeError, match=r"cert\.pem cannot be read"), running(folder):
        pass
    (folder / "cert.pem").write_text("no certificate")
    (folder / "key.pem").write_text("no key")
    with pytest.raises(NodeError, match="cannot serve TLS") as refused, running(folder):
        pass
    assert isinstance(refused.value.remedy, str) and "PEM" in refused.value.remedy
    assert not isinstance(refused.value.__cause__, ssl.SSLError)


def test_the_key_of_the_cookies_is_nobody_elses_and_stays(tmp_path: Path, browser: Open) -> None:
    folder = application(tmp_path)
    with running(folder) as node:
        client = browser(node)
        client.get("/cart/1")
        cookie = client.cookie
        assert cookie
        key = folder / ".state" / "cookies.key"
        assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
        first = key.read_bytes()
        assert first not in b"".join(str(row).encode() for row in journal_rows(folder))
    with running(folder) as node:
        assert key.read_bytes() == first
        client = browser(node)
        client.cookie = cookie
        assert client.get("/cart/2") == (200, b"[2]")  # a new node has a new session of that name
        assert client.cookie == cookie
    key.chmod(0o644)
    with pytest.raises(NodeError, match="open to other users"), running(folder):
        pass


def test_the_gateway_finds_no_code_of_the_application(tmp_path: Path, browser: Open) -> None:
    """A module of the application shadows nothing that the gateway imports, and is not on its path."""
    folder = application(tmp_path)
    for name in ("h11", "httptools", "uvicorn", "msgspec_gateway", "hmac"):
        (folder / f"{name}.py").write_text("raise RuntimeError('user code in the gateway')\n")
    with running(folder) as node:
        assert browser(node).get("/stock/1") == (200, b"2")
        pid = eventually(lambda: pid_of(node, "gateway"))
        opened = []
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                opened.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        assert not [path for path in opened if "sqlite" in path or path.endswith(".key")]


def test_clients_that_keep_no_cookie_cannot_begin_sessions_without_end(
    tmp_path: Path, browser: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardwright.node._gateway_sessions.MOST_WITH_SHARDS", 3)
    with running(application(tmp_path)) as node:
        kept = browser(node)
        assert kept.get("/cart/1") == (200, b"[1]")
        answers = [browser(node).get("/cart/1") for _ in range(5)]
        assert [status for status, _ in answers] == [200, 200, 503, 503, 503]
        assert b"no room for this session" in answers[-1][1]
        assert kept.get("/cart/2") == (200, b"[1,2]"), "who has one goes on"
        assert browser(node).get("/stock/1") == (200, b"2"), "and so does what needs none"


def test_after_a_reload_a_route_leads_to_the_function_that_it_names_and_no_other(tmp_path: Path, browser: Open) -> None:
    """Functions that sort before and between those that were there: entry points are known by number between processes."""
    folder = application(tmp_path)
    manifest, stock = folder / "shardwright.toml", folder / "stock.py"
    with running(folder) as node:
        visitor = browser(node)
        assert visitor.get("/stock/1") == (200, b"2")
        for name in ("about", "gone", "hello"):
            stock.write_text(stock.read_text() + f"\ndef {name}(n: int) -> str: return '{name} %d' % n\n")
            stock.write_text(stock.read_text() + f"\ndef {name}_hidden(n: int) -> str: return 'nobody names it'\n")
            node.running.submit(node.running.reload()).result(PATIENCE_S)
            assert visitor.get_again("/stock/1") == (200, b"2")
            manifest.write_text(manifest.read_text() + f'\n[[routes]]\npath = "/{name}/{{n}}"\ncall = "stock.{name}"\n')
            node.running.submit(node.running.reload()).result(PATIENCE_S)
            assert visitor.get_again("/stock/1") == (200, b"2")
            assert visitor.get_again(f"/{name}/1") == (200, f'"{name} 1"'.encode())
            assert node.running.plan.routes[0].name == "stock.get"


def test_after_a_reload_a_gateway_that_dies_is_there_again(tmp_path: Path, browser: Open) -> None:
    folder = application(tmp_path)
    stock = folder / "stock.py"
    with running(folder) as node:
        visitor = browser(node)
        for turn in range(2):
            stock.write_text(stock.read_text() + f"\nTURN = {turn}\n")
            assert node.running.submit(node.running.reload()).result(PATIENCE_S).replaced
            for _ in range(2):
                pid = eventually(lambda: pid_of(node, "gateway"))
                os.kill(pid, signal.SIGKILL)
                eventually(lambda pid=pid: pid_of(node, "gateway") not in (0, pid))
                assert visitor.get_again("/stock/1") == (200, b"2")


def test_other_routes_are_taken_up_without_one_failed_request(
    tmp_path: Path, browser: Open, record_exercised: Any
) -> None:
    folder = application(tmp_path)
    manifest = folder / "shardwright.toml"
    with running(folder) as node:
        stop = threading.Event()
        answered, wrong = [0], list[object]()

        def load() -> None:
            client = browser(node)
            while not stop.is_set():
                try:
                    found = client.get("/stock/1")
                except (OSError, http.client.HTTPException) as error:
                    wrong.append(repr(error))
                    client.connection.close()
                else:
                    answered[0] += 1
                    if found != (200, b"2"):
                        wrong.append(found)

        visitor = browser(node)
        assert visitor.get("/cart/1") == (200, b"[1]")
        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for n in range(3):
                seen = answered[0]
                eventually(lambda seen=seen: answered[0] > seen + 20)
                assert browser(node).get(f"/more{n}/1")[0] == 404
                more = f'\n[[routes]]\npath = "/more{n}/{{n}}"\ncall = "stock.get"\n'
                manifest.write_text(manifest.read_text() + more)
                reloaded = node.running.submit(node.running.reload()).result(PATIENCE_S)
                assert set(reloaded.replaced) == {"gateway"}
                assert browser(node).get(f"/more{n}/1") == (200, b"2")
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE_S)
        assert not wrong
        assert visitor.get_again("/cart/2") == (200, b"[1,2]")
        record_exercised("requests while the gateway was replaced thrice", answered[0])


def test_the_gateway_serves_beside_shards_in_one_process(tmp_path: Path, browser: Open) -> None:
    folder = application(tmp_path)
    manifest = folder / "shardwright.toml"
    with shardwright.start(folder, inproc=True, state=folder / ".state") as node:
        visitor = browser(node)
        assert visitor.get("/stock/1") == (200, b"2")
        assert visitor.get("/cart/1") == (200, b"[1]")
        assert {shard.pid for shard in node.shards()} == {os.getpid()}
        manifest.write_text(manifest.read_text() + '\n[[routes]]\npath = "/more/{n}"\ncall = "stock.get"\n')
        reloaded = node.running.submit(node.running.reload()).result(PATIENCE_S)
        assert set(reloaded.replaced) == {"gateway"}
        assert visitor.get_again("/more/1") == (200, b"2")
        assert visitor.get("/cart/2") == (200, b"[1,2]")
        token = str(tmp_path / "token")
        found: list[tuple[int, bytes]] = []
        asking = threading.Thread(target=lambda: found.append(visitor.get(f"/slow/{token.replace('/', '%2F')}")))
        asking.start()
        eventually(lambda: os.path.exists(token + ".begun"))
        closing = threading.Thread(target=node.close)
        closing.start()
        Path(token + ".go").touch()
        asking.join(PATIENCE_S)
        closing.join(PATIENCE_S)
        assert found and found[0][0] == 200


@pytest.mark.parametrize("how", ["bytes", "messages"])
def test_a_shard_that_sends_garbage_is_cut_off_and_the_gateway_lives(tmp_path: Path, browser: Open, how: str) -> None:
    with running(application(tmp_path)) as node:
        client = browser(node)
        assert client.get("/cart/1") == (200, b"[1]")
        pid = eventually(lambda: pid_of(node, "gateway"))
        status, body = client.get(f"/spit/{how}")
        assert status in (502, 503) and b"stock-" not in body  # which shard it was is for the log
        assert client.get("/stock/1") == (200, b"2")
        assert client.get("/cart/2") == (200, b"[1,2]")
        assert pid_of(node, "gateway") == pid
        notes = eventually(lambda: [e for e in node.running.events.since(0) if "was cut off" in e.event.message])
        assert "violation: stock-" in notes[0].event.message
