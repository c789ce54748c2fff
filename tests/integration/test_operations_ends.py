"""How ``shardwright run`` lives under a supervisor: what it is told, how it ends, and with which status."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from queue import SimpleQueue

import psutil
import pytest

from cli_apps import Background, background, shardwright, write_app

MANIFEST = """
[app]
name = "kept"
[components.front]
code = "front"
[components.back]
code = "back"
"""
FRONT = """
import back
def work(number):
    print("front", number)
    return back.work(number)
def stuck():
    import time
    print("stuck", flush=True)
    time.sleep(60)
"""
BACK = """
import logging
def work(number):
    logging.warning("back %s", number)
    return number
"""


@pytest.fixture
def app(tmp_path: Path) -> str:
    return str(write_app(tmp_path / "kept", MANIFEST, front=FRONT, back=BACK))


class Supervisor:
    """Hears what it is told, at once, as systemd does."""

    def __init__(self, sock: socket.socket) -> None:
        self.address = str(sock.getsockname())
        self._sock = sock
        self._told: SimpleQueue[dict[str, str]] = SimpleQueue()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        while message := self._sock.recv(4096):
            self._told.put(dict(line.split("=", 1) for line in message.decode().split("\n")))

    def next(self) -> dict[str, str]:
        return self._told.get(timeout=30)

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        with closing(Supervisor(sock)) as hears:
            yield hears


@contextmanager
def running(tmp_path: Path, app: str, *more: str, **environment: str) -> Iterator[Background]:
    with background(tmp_path, "run", app, *more, more=environment) as node:
        node.wait_for("is ready")
        yield node


def processes(node: Background) -> list[psutil.Process]:
    return psutil.Process(node.process.pid).children(recursive=True)


def all_end(children: list[psutil.Process]) -> bool:
    assert len(children) >= 3  # keeper, and shards or templates
    _, alive = psutil.wait_procs(children, timeout=20)
    return not alive


# -- what a supervisor is told -------------------------------------------------------------------------------------


def test_a_supervisor_hears_of_readiness_of_life_and_of_the_end(
    app: str, tmp_path: Path, supervisor: Supervisor
) -> None:
    given = {"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "100000"}
    with background(tmp_path, "run", app, more=given) as node:
        told = supervisor.next()
        assert told == {"READY": "1", "MAINPID": str(node.process.pid), "STATUS": "kept is ready"}
        assert shardwright(tmp_path, "ready", "kept").returncode == 0
        assert [supervisor.next() for _ in range(3)] == [{"WATCHDOG": "1"}] * 3
        assert shardwright(tmp_path, "reload", "kept").returncode == 0
        states = []
        while "READY" not in states:
            states.append(next(iter(supervisor.next())))
        assert [state for state in states if state != "WATCHDOG"] == ["RELOADING", "READY"]
        node.process.send_signal(signal.SIGTERM)
        while "STOPPING" not in (told := supervisor.next()):
            assert told == {"WATCHDOG": "1"}
        assert node.end() == 0


def test_a_node_that_lost_its_keeper_feeds_no_watchdog_and_ends_with_status_1(app: str, tmp_path: Path) -> None:
    with running(tmp_path, app) as node:
        children = processes(node)
        keeper = next(child for child in children if "shardwright.node._keeper" in " ".join(child.cmdline()))
        keeper.kill()
        assert node.end() == 1
        assert any("its keeper died, and every shard with it" in line for line in node.seen)
        assert all_end(children)


# -- how it ends ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_gracefully(app: str, tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, app) as node:
        children = processes(node)
        assert node.end(number) == 0
        assert all_end(children)
        assert not any("Traceback" in line for line in node.seen)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(app: str, tmp_path: Path, second: signal.Signals) -> None:
    """A call that does not end holds a graceful stop up for its grace; nobody has to wait for that."""
    with running(tmp_path, app) as node, background(tmp_path, "call", "kept", "front.stuck") as call:
        node.wait_for("stuck")
        children = processes(node)
        node.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while node.process.poll() is None:  # it takes a moment until the second one is no longer just noted
            assert time.monotonic() < deadline
            node.process.send_signal(second)
            time.sleep(0.01)
        assert node.end() in (-second, 0)  # 0: it had ended in the meantime
        assert all_end(children)
        call.end()


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGKILL])
def test_what_cannot_be_handled_leaves_nothing_behind(app: str, tmp_path: Path, number: signal.Signals) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    try:
        with running(tmp_path, app) as node:
            children = processes(node)
            assert node.end(number) == -number
            assert all_end(children)
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def test_the_exit_status_says_what_kind_of_end_it_was(app: str, tmp_path: Path) -> None:
    broken = write_app(tmp_path / "broken", MANIFEST.replace("code", "coed"), front=FRONT, back=BACK)
    greedy = write_app(tmp_path / "greedy", MANIFEST + 'resources = { memory = "900TiB" }\n', front=FRONT, back=BACK)
    raising = write_app(tmp_path / "raising", MANIFEST, front=FRONT, back="raise ValueError(1)\n")
    nosecret = write_app(tmp_path / "nosecret", MANIFEST + 'secrets = { A = "file:gone" }\n', front=FRONT, back=BACK)
    statuses = {
        "usage": shardwright(tmp_path, "run", app, "--no-such-option").returncode,
        "no manifest": shardwright(tmp_path, "run", str(tmp_path)).returncode,
        "manifest error": shardwright(tmp_path, "run", str(broken)).returncode,
        "no capacity": shardwright(tmp_path, "run", str(greedy)).returncode,
        "code that cannot be imported": shardwright(tmp_path, "run", str(raising)).returncode,
        "a secret that is not there": shardwright(tmp_path, "run", str(nosecret)).returncode,
        "no node answers": shardwright(tmp_path, "ready").returncode,
    }
    assert statuses == {
        "usage": 2,
        "no manifest": 2,
        "manifest error": 2,
        "no capacity": 2,
        "code that cannot be imported": 2,
        "a secret that is not there": 2,
        "no node answers": 3,
    }


def test_a_port_in_use_is_said_with_status_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        way_in = (
            f'[gateway]\nbind = "127.0.0.1:{port}"\n[[routes]]\npath = "/"\nmethods = ["GET"]\ncall = "front.work"\n'
        )
        app = write_app(tmp_path / "taken", MANIFEST + way_in, front=FRONT, back=BACK)
        found = shardwright(tmp_path, "run", str(app))
    assert found.returncode == 2
    assert "another process listens there already" in found.stderr and f":{port}" in found.stderr
    assert "Traceback" not in found.stderr


# -- readiness -----------------------------------------------------------------------------------------------------


def test_ready_waits_for_a_node_that_comes_and_says_what_lacks(app: str, tmp_path: Path) -> None:
    with background(tmp_path, "ready", "kept", "--wait", "60") as waiting, running(tmp_path, app) as node:
        assert waiting.end() == 0 and waiting.seen == ["ready"]
        told = shardwright(tmp_path, "ready", "--json")
        assert json.loads(told.stdout) == {"alive": True, "ready": True, "reasons": []}
        shards = json.loads(shardwright(tmp_path, "ps", "--json").stdout)["shards"]
        back = next(shard["pid"] for shard in shards if shard["component"] == "back")
        (Path(app) / "back.py").write_text("raise SystemExit(1)")  # forks of the template do not care
        os.kill(back, signal.SIGKILL)
        assert shardwright(tmp_path, "ready", "--wait", "30").returncode == 0  # relaunched
        assert node.end(signal.SIGTERM) == 0
        assert shardwright(tmp_path, "ready", "--wait", "0.1").returncode == 3


# -- lines ---------------------------------------------------------------------------------------------------------


def test_every_line_is_json_where_that_is_asked_for(app: str, tmp_path: Path) -> None:
    with background(tmp_path, "run", app, "--log-format", "json", "--log-level", "debug") as node:
        node.wait_for('"event": "kept is ready"')
        assert shardwright(tmp_path, "call", "kept", "front.work", "5", "--session", "one").returncode == 0
        node.wait_for("back 5")
        shards = json.loads(shardwright(tmp_path, "ps", "--json").stdout)["shards"]
        os.kill(next(shard["pid"] for shard in shards if shard["component"] == "back"), signal.SIGKILL)
        node.wait_for('"kind": "loss"')
        assert node.end(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in node.seen]
    kinds = {line.get("kind") for line in lines}
    assert {"node", "launch", "ready", "lease", "loss", "stop"} - kinds <= {"stop"}
    assert all(line["level"] and line["timestamp"].endswith("Z") for line in lines)
    mine = [line for line in lines if line["event"].endswith(" 5") and "shard" in line and "kind" not in line]
    assert {line["component"] for line in mine} == {"front", "back"}
    (trace,) = {line["trace_id"] for line in mine}
    assert {line["session"] for line in mine} == {"one"} and len(trace) == 32
    assert next(line for line in lines if line.get("kind") == "loss")["level"] == "warning"


def test_logs_of_one_trace(app: str, tmp_path: Path) -> None:
    with running(tmp_path, app) as node:
        for number in ("7", "8"):
            assert shardwright(tmp_path, "call", "kept", "front.work", number).returncode == 0
            node.wait_for(f"back {number}")
        everything = [json.loads(line) for line in shardwright(tmp_path, "logs", "--json").stdout.splitlines()]
        trace = next(line["trace_id"] for line in everything if line["text"] == "front 7")
        for given in (trace, trace[:12].upper()):
            found = shardwright(tmp_path, "logs", "--trace", given, "--json").stdout.splitlines()
            assert sorted(json.loads(line)["text"] for line in found) == ["WARNING:root:back 7", "front 7"]
        assert shardwright(tmp_path, "logs", "--trace", "0" * 32).stdout == ""
        assert node.end(signal.SIGTERM) == 0


def test_our_lines_are_quiet_unless_asked_and_pretty_where_wanted(app: str, tmp_path: Path) -> None:
    with running(tmp_path, app) as node:
        assert node.end(signal.SIGTERM) == 0
        assert [line for line in node.seen if "kept is ready" not in line] == []
    with running(tmp_path, app, "--log-level", "info", "--log-format", "pretty") as node:
        assert node.end(signal.SIGTERM) == 0
    launched = [line for line in node.seen if "kind=launch" in line]
    assert launched and all("component=" in line and "\x1b" not in line for line in launched)


# -- sockets of a supervisor ---------------------------------------------------------------------------------------


def test_a_socket_that_is_none_ends_the_start_with_a_clear_message(app: str, tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
        "os.execv(sys.executable, [sys.executable, '-m', 'shardwright', 'run', sys.argv[2]])"
    )
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as datagrams:
        found = subprocess.run(
            [sys.executable, "-c", code, str(datagrams.fileno()), app],
            pass_fds=[datagrams.fileno()], capture_output=True, text=True, timeout=60,
            env={**os.environ, "LISTEN_FDS": "1"},
        )  # fmt: skip
    assert found.returncode in (1, 2)
    assert "descriptor 3, of those handed over, does not listen for streams" in found.stderr
    assert "Traceback" not in found.stderr
