"""What a supervisor hands over and is told: sockets, readiness, the watchdog."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.errors import NodeError
from shardwright.node._activation import inherited_sockets
from shardwright.node._notify import Notifier


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def heard(sock: socket.socket) -> dict[str, str]:
    return dict(line.split("=", 1) for line in sock.recv(4096).decode().split("\n"))


def test_a_supervisor_is_told(supervisor: socket.socket) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": supervisor.getsockname()}, os.getpid())
    assert notifier and notifier.watchdog_s is None
    notifier.ready("arena serves\n3 shards")
    assert heard(supervisor) == {"READY": "1", "MAINPID": str(os.getpid()), "STATUS": "arena serves 3 shards"}
    notifier.reloading()
    told = heard(supervisor)
    assert told["RELOADING"] == "1" and int(told["MONOTONIC_USEC"]) > 0
    notifier.status("x")
    assert heard(supervisor) == {"STATUS": "x"}
    notifier.stopping()
    assert heard(supervisor) == {"STOPPING": "1"}


def test_abstract_addresses_work() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0shardwright-test-{os.getpid()}")
        sock.settimeout(10)
        Notifier.of({"NOTIFY_SOCKET": f"@shardwright-test-{os.getpid()}"}, 1).ready()
        assert heard(sock)["READY"] == "1"


@pytest.mark.parametrize("address", ["", "relative", "@", "/", "/no/such/socket", "/dev/null", "x" * 300])
def test_a_supervisor_that_is_not_there_hinders_nothing(address: str) -> None:
    notifier = Notifier.of({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"}, 1)
    notifier.ready()
    notifier.stopping("done")


def test_the_watchdog_is_fed_while_the_loop_turns_and_the_node_is_well(supervisor: socket.socket) -> None:
    given = {"NOTIFY_SOCKET": supervisor.getsockname(), "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier.of(given, os.getpid())
    assert notifier.watchdog_s == 0.02
    states = iter([True, False, False, True])
    asked: list[bool] = []
    done = asyncio.Event()

    def healthy() -> bool:
        state = next(states, None)
        if state is None:
            done.set()
            return False
        asked.append(state)
        return state

    async def scenario() -> None:
        notifier.watch(healthy)
        await asyncio.wait_for(done.wait(), 30)
        notifier.unwatch()

    asyncio.run(scenario())
    assert asked == [True, False, False, True]
    assert [heard(supervisor) for _ in range(2)] == [{"WATCHDOG": "1"}] * 2
    supervisor.setblocking(False)
    with pytest.raises(BlockingIOError):
        supervisor.recv(1)


def test_a_watchdog_of_another_process_or_of_nonsense_is_not_ours() -> None:
    for more in ({"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "0"}):
        assert Notifier.of({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000", **more}, os.getpid()).watchdog_s is None


# -- sockets -------------------------------------------------------------------------------------------------------


def child(code: str, descriptors: list[int], **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with these descriptors from number 3 on, as a supervisor would."""
    prelude = """
    import os, sys, socket
    descriptors = [int(d) for d in sys.argv[1:]]
    high = [os.dup(d) for d in descriptors]
    high = [__import__("fcntl").fcntl(d, 0, 50) for d in high]
    os.closerange(3, 50)
    for number, descriptor in enumerate(high, 3):
        os.dup2(descriptor, number, inheritable=True)
    os.closerange(50, 100)
    from shardwright.node._activation import inherited_sockets
    environment = dict(os.environ, LISTEN_PID=str(os.getpid()))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(code), *map(str, descriptors)],
        pass_fds=descriptors, capture_output=True, text=True, timeout=60,
        env={**os.environ, **environment},
    )  # fmt: skip


def test_sockets_come_with_their_names_and_go_to_nobody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [str(one.getsockname()[1]), str(two.getsockname()[1])]
        found = child(
            """
            for name, sock in inherited_sockets(environment, os.getpid()):
                print(name, sock.getsockname()[1], sock.get_inheritable(), sock.fileno())
            """,
            [one.fileno(), two.fileno()],
            LISTEN_FDS="2",
            LISTEN_FDNAMES="web",
        )
    assert found.stdout.splitlines() == [f"web {ports[0]} False 3", f" {ports[1]} False 4"], found.stderr


@pytest.mark.parametrize("what", ["a file", "a datagram socket", "a connection", "a Unix socket"])
def test_what_is_no_listening_socket_is_refused(what: str, tmp_path: Path) -> None:
    pair = socket.socketpair()
    with (
        open(tmp_path / "file", "w") as file,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pair[0],
        pair[1],
        socket.socket() as idle,
    ):
        given = {
            "a file": file.fileno(),
            "a datagram socket": datagrams.fileno(),
            "a connection": idle.fileno(),
            "a Unix socket": pair[0].fileno(),
        }
        found = child("inherited_sockets(environment, os.getpid())", [given[what]], LISTEN_FDS="1")
    assert found.returncode == 1
    assert "NodeError: descriptor 3, of those handed over" in found.stderr


def test_what_is_meant_for_others_is_left_alone() -> None:
    assert inherited_sockets({}, 5) == ()
    assert inherited_sockets({"LISTEN_PID": "4", "LISTEN_FDS": "1"}, 5) == ()
    assert inherited_sockets({"LISTEN_PID": "5", "LISTEN_FDS": "0"}, 5) == ()
    for count in ("", "many", "-1", "1000000"):
        with pytest.raises(NodeError):
            inherited_sockets({"LISTEN_PID": "5", "LISTEN_FDS": count}, 5)
