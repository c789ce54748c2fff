"""Shards with a network of their own: they reach what is declared, at their rate, and nothing else.

``SWT_LONG=1 ./scripts/test tests/integration/test_network_nodes.py`` measures the rate for longer, with bounds on both sides.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import shardwright

LONG = os.environ.get("SWT_LONG") == "1"
RATE = 10_000_000
MANIFEST = """
[app]
name = "networked"
[components.forked]
code = "forked"
isolation = "namespace"
scope = "session"
network = {{ egress = ["{place}", "127.0.0.1:{local}", "db.internal:5432"] }}
limits = {{ network = "10Mbit/s" }}
[components.spawned]
code = "spawned"
isolation = "namespace"
start = "spawn"
network = {{ egress = ["{place}"] }}
"""
CODE = '''
import socket, time


def ask(host, port):
    with socket.create_connection((host, port), 5) as connection:
        connection.sendall(b"?")
        return connection.recv(1)


def names():
    with open("/proc/net/dev") as file:
        return socket.gethostbyname("db.internal"), sorted(line.split(":")[0].strip() for line in file if ":" in line)


def sent():
    """Bytes that left by the link, headers and all."""
    with open("/proc/net/dev") as file:
        return next(int(line.split()[9]) for line in file if line.split()[0] == "eth0:")


def flood(host, port, seconds):
    """Sends as much as goes; how many bytes a second left by the link, once its first burst was out."""
    with socket.create_connection((host, port), 5) as connection:
        connection.sendall(b"!" * 100_000)
        begun, first = time.monotonic(), sent()
        while time.monotonic() - begun < seconds:
            connection.sendall(b"!" * 10_000)
        return (sent() - first) / (time.monotonic() - begun)
'''


@pytest.fixture
def address() -> str:
    """Of this machine, and not of its loopback."""
    found = [each for several in psutil.net_if_addrs().values() for each in several if each.family == socket.AF_INET]
    away = [each.address for each in found if not each.address.startswith("127.")]
    if os.geteuid() != 0 or not away:
        pytest.skip("it takes root, and a network, to link shards to it")
    return away[0]


@pytest.fixture
def places(address: str) -> Iterator[tuple[int, int, int]]:
    """Ports of a place away, of one at home, and of one that nobody declares. They answer ? by + and swallow all else."""
    stop = threading.Event()

    def serve(server: socket.socket) -> None:
        while not stop.is_set():
            connection, _ = server.accept()
            with connection:
                while piece := connection.recv(65536):
                    if piece == b"?":
                        connection.sendall(b"+")

    servers = [
        socket.create_server((address, 0)),
        socket.create_server(("127.0.0.1", 0)),
        socket.create_server((address, 0)),
    ]
    threads = [threading.Thread(target=serve, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    ports = [server.getsockname() for server in servers]
    yield ports[0][1], ports[1][1], ports[2][1]
    stop.set()
    for server, thread, place in zip(servers, threads, ports, strict=True):
        socket.create_connection(place[:2]).close()
        thread.join()
        server.close()


def relay_of(parent: psutil.Process) -> psutil.Process:
    (found,) = [each for each in parent.children() if any("_relay" in word for word in each.cmdline())]
    return found


def test_shards_reach_what_is_declared_at_their_rate(
    tmp_path: Path, address: str, places: tuple[int, int, int], record_exercised: Callable[[str, int], None]
) -> None:
    away, home, undeclared = places
    (tmp_path / "shardwright.toml").write_text(MANIFEST.format(place=f"{address}:{away}", local=home))
    for name in ("forked", "spawned"):
        (tmp_path / f"{name}.py").write_text(CODE)
    with shardwright.start(tmp_path, state=tmp_path / "state") as node:
        with node.session("one") as session:
            call = session.call
            assert call("forked.ask", address, away) == call("spawned.ask", address, away) == b"+"
            assert call("forked.ask", "127.0.0.1", home) == b"+", "a place on the machine's own loopback"
            name, interfaces = call("forked.names")
            assert name.startswith("198.18.") and interfaces == ["eth0", "lo"]
            for host, port, refused in (
                (address, undeclared, PermissionError),
                ("192.0.2.1", away, OSError),  # a port that is declared, of another host: there is no way to it
                ("169.254.83.1", away, OSError),  # the other end of the link
                ("db.internal", 5432, OSError),  # declared, and not there
            ):
                with pytest.raises(refused):
                    call("forked.ask", host, port)
            with pytest.raises(OSError, match=r"refused|unreachable"):
                call("spawned.ask", "127.0.0.1", away)
            seconds = 8.0 if LONG else 0.8
            rate = call("forked.flood", address, away, seconds) * 8
            assert rate <= 1.05 * RATE + (0 if LONG else 0.1 * RATE), f"{rate:.0f} bit/s"
            assert not LONG or rate >= 0.95 * RATE, f"{rate:.0f} bit/s"
            record_exercised("kbit/s through a link of 10,000", round(rate / 1000))
            (shard,) = [each.id for each in node.shards() if each.component == "forked"]
            assert node.resize(shard, ceiling={"network": "40Mbit/s"})[shard].ceiling.network_bits_s == 40_000_000
            if LONG:
                rate = call("forked.flood", address, away, seconds) * 8
                assert 0.95 * 4 * RATE <= rate <= 1.05 * 4 * RATE, f"{rate:.0f} bit/s"
        relay_of(psutil.Process()).send_signal(signal.SIGKILL)
        with node.session("two") as session:
            assert session.call("forked.ask", address, away) == b"+", "by another relay"
            with pytest.raises(OSError, match=r"unreachable|timed out|No route|reset|refused"):
                session.call("spawned.ask", address, away)
        said = [entry.reason for entry in node.running.core.journal.tail(100, kind="failure")]
        assert any("relay of networks ended: " in each for each in said), said
