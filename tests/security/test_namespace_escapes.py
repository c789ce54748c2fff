"""Attempts to get out: each succeeds without a sandbox, and none from a shard, or a template, at isolation `namespace`."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import escapes
import shardwright
from containers import RUNTIMES, need

REPOSITORY = Path(__file__).parent.parent.parent
MANIFEST = """
[app]
name = "escapes"
[components.hostile]
code = "hostile"
isolation = "namespace"
scope = "session"
files = { read = ["attempts/"] }
[components.other]
code = "other"
isolation = "namespace"
files = { read = ["secret"], write = ["shared/"] }
"""
IN_TEMPLATE = """
with open({path!r}) as file:
    given = json.load(file)
FROM_TEMPLATE = run(given["sources"], given["world"], True) if given else {{}}

def from_template():
    return json.dumps(FROM_TEMPLATE)

def attempt(given):
    given = json.loads(given)
    return json.dumps(run(given["sources"], given["world"], False))

def pid():
    return os.getpid()
"""
VICTIM = "import os, sys; held = os.environ['MARKER']; fd = os.memfd_create('held'); print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Things on the machine that are worth getting at."""
    names = f"swt-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        libc = ctypes.CDLL(None, use_errno=True)
        shm_id = libc.shmget(0, 4096, 0o1600)
        stack.callback(libc.shmctl, shm_id, 0, None)
        libc.shmat.restype = ctypes.c_void_p
        address = libc.shmat(shm_id, None, 0)
        ctypes.memmove(address, b"marker", 6)
        libc.shmdt(ctypes.c_void_p(address))
        queue = f"/{names}"
        descriptor = libc.mq_open(queue.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
        assert descriptor >= 0
        os.close(descriptor)
        stack.callback(libc.mq_unlink, queue.encode())
        in_memory = Path(f"/dev/shm/{names}")
        in_memory.write_text("marker")
        stack.callback(in_memory.unlink)
        port_file = Path(f"/tmp/{names}-port")
        dropped, dropped_shm = Path(f"/tmp/{names}-dropped"), Path(f"/dev/shm/{names}-dropped")
        for left in (port_file, dropped, dropped_shm):  # also when the attempts do not come to their end
            stack.callback(left.unlink, missing_ok=True)
        path_socket = f"/tmp/{names}-socket"
        stack.callback(lambda: os.unlink(path_socket))
        sockets = [
            socket.create_server(("127.0.0.1", 0)),
            _unix(f"\0{names}"),
            _unix(path_socket),
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        ]
        sockets[3].bind(("127.0.0.1", 0))
        done = threading.Event()
        threads = [threading.Thread(target=_serve, args=(each, done)) for each in sockets]
        threads.append(threading.Thread(target=_connect_to_ports, args=(port_file, done)))
        for thread in threads:
            thread.start()
        stack.callback(lambda: [each.close() for each in sockets])
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(done.set)
        victim = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", VICTIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"MARKER": "marker"}
            )
        )
        assert victim.stdout is not None and victim.stdout.readline() == b"up\n"
        disk = next((f"/dev/{each}" for each in os.listdir("/dev") if re.fullmatch(r"[vs]d[a-z]|nvme\dn\d", each)), "")
        number = os.stat(disk).st_rdev if disk else 0
        yield {
            "victim": victim.pid,
            "shm_id": shm_id,
            "queue": queue,
            "shm_file": str(in_memory),
            "tcp": sockets[0].getsockname()[1],
            "udp": sockets[3].getsockname()[1],
            "abstract": names,
            "path_socket": path_socket,
            "port_file": str(port_file),
            "dropped": str(dropped),
            "dropped_shm": str(dropped_shm),
            "disk": disk or "/dev/nodisk",
            "disk_number": [os.major(number), os.minor(number)],
            "home_entry": next(each for each in sorted(os.listdir(os.path.expanduser("~root"))) if each != ".pyenv"),
            "cgroup": "/sys/fs/cgroup/memory",
            "release_agent": "/sys/fs/cgroup/memory/release_agent",
        }


def _only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def _unix(address: str) -> socket.socket:
    server = socket.socket(socket.AF_UNIX)
    server.bind(address)
    server.listen()
    return server


def _serve(server: socket.socket, done: threading.Event) -> None:
    server.settimeout(0.05)
    while not done.is_set():
        with contextlib.suppress(TimeoutError):
            if server.type == socket.SOCK_DGRAM:
                _, where = server.recvfrom(16)
                server.sendto(b"marker", where)
            else:
                with server.accept()[0] as connection:
                    connection.sendall(b"marker")


def _connect_to_ports(path: Path, done: threading.Event) -> None:
    while not done.wait(0.05):
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection(("127.0.0.1", int(path.read_text())), 1).close()


def _application(folder: Path) -> Path:
    app = folder / "app"
    for each in ("hostile", "other", "attempts", "shared"):
        (app / each).mkdir(parents=True)
    (app / "shardwright.toml").write_text(MANIFEST)
    (app / "secret").write_text("marker")
    (app / "attempts" / "given.json").write_text("{}")
    code = IN_TEMPLATE.format(path=str(app / "attempts" / "given.json"))
    (app / "hostile" / "__init__.py").write_text(escapes.hostile_module() + code)
    (app / "other" / "__init__.py").write_text("def ping():\n    return 1\n")
    return app


def _world(machine: dict[str, Any], app: Path, state: Path) -> dict[str, Any]:
    return {
        **{key: value for key, value in machine.items() if key != "victim"},
        "secret": str(app / "secret"),
        "manifest": str(app / "shardwright.toml"),
        "state": str(state),
        "code": str(app / "hostile" / "__init__.py"),
        "package": str(app / "hostile"),
        "shared": str(app / "shared"),
        "api": "/nothing/yet",
        "pids": dict.fromkeys(escapes.TARGETS, machine["victim"]),
    }


def _outside(told: dict[str, Any], machine: dict[str, Any]) -> dict[str, Any]:
    """What the attempts say, with what can be seen from outside alone."""
    for name, key in (
        ("leave a file in /tmp for others", "dropped"),
        ("leave a file in /dev/shm for others", "dropped_shm"),
    ):
        there = Path(machine[key])
        told[f"files: {name}"] = there.exists()
        there.unlink(missing_ok=True)
    Path(machine["port_file"]).unlink(missing_ok=True)
    return told


def _succeeded(told: dict[str, Any]) -> dict[str, Any]:
    return {key: said for key, said in told.items() if said in (True, "many", "port", "outside")}


@pytest.mark.skipif(os.geteuid() != 0, reason="succeeding unsandboxed takes root")
def test_every_attempt_succeeds_without_a_sandbox_and_none_within(
    machine: dict[str, Any], tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    app, state = _application(tmp_path), tmp_path / "state"
    sources = {attempt.key: attempt.source for attempt in escapes.attempts()}
    world = _world(machine, app, state)
    given = app / "attempts" / "given.json"
    given.write_text(json.dumps({"sources": sources, "world": world}))
    with shardwright.start(app, state=state) as node, node.session("one") as one, node.session("two") as two:
        from_template = _outside(json.loads(one.call("hostile.from_template")), machine)  # while it was imported
        shards = {shard.component: shard.pid for shard in node.shards()}
        sibling = next(s.pid for s in node.shards() if s.component == "hostile" and "two" in s.sessions)
        two.call("hostile.pid")
        template = int(Path(f"/proc/{sibling}/stat").read_text().rpartition(")")[2].split()[1])
        world["api"] = str(next(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*.sock")))
        world["pids"] = {
            "a process of the machine": machine["victim"],
            "another shard": sibling,
            "the template": template,
            "the keeper": _only_child(node.running.core.launcher._keeper.pid),  # type: ignore[union-attr]
            "the node": os.getpid(),
        }
        assert shards.keys() >= {"hostile", "other"}
        (app / "shared" / "plan").write_text("x")
        plain = _outside(_unsandboxed(sources, world), machine)
        (app / "shared" / "plan").unlink()
        (app / "shared" / "plan").write_text("x")
        walled = _outside(
            json.loads(one.call("hostile.attempt", json.dumps({"sources": sources, "world": world}))), machine
        )
        assert (app / "shared" / "plan").read_text() == "x"
    if where := os.environ.get("SWT_MATRIX"):
        Path(where).write_text("\n".join(escapes.matrix(plain, walled, from_template)) + "\n")
    needs = {attempt.key: attempt.needs for attempt in escapes.attempts()}
    lacking = {key: said for key, said in plain.items() if key not in _succeeded(plain)}
    unexplained = {key: said for key, said in lacking.items() if not needs[key]}
    assert not unexplained, "does not succeed without a sandbox either: " + json.dumps(unexplained, indent=1)
    assert not _succeeded(walled), json.dumps(_succeeded(walled), indent=1)
    may = {attempt.key for attempt in escapes.attempts() if attempt.template_may}
    escaped = {key: said for key, said in _succeeded(from_template).items() if key not in may}
    assert not escaped, json.dumps(escaped, indent=1)
    assert len(plain) - len(lacking) >= 60
    record_exercised("escapes that succeed without a sandbox and not from a shard", len(plain) - len(lacking))
    record_exercised("escapes attempted by a template while it is imported", len(from_template))
    record_exercised("escapes that this machine cannot show", len(lacking))


@pytest.mark.skipif(os.geteuid() != 0, reason="containers take root")
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_attempt_succeeds_within_a_container(
    machine: dict[str, Any], tmp_path: Path, runtime: str, record_exercised: Callable[[str, int], None]
) -> None:
    """The same attempts, which the test above shows to succeed without a sandbox."""
    need(runtime)
    count = _from_a_container(machine, tmp_path, f"oci:{runtime}", f"oci:{runtime}")
    record_exercised(f"escapes attempted from a container of {runtime}", count)


def test_no_attempt_succeeds_within_a_container_of_docker(
    docker_address: str,
    machine: dict[str, Any],
    tmp_path: Path,
    record_exercised: Callable[[str, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And from one that a Docker daemon made."""
    monkeypatch.setenv("DOCKER_HOST", docker_address)
    count = _from_a_container(machine, tmp_path, "docker", f"docker:{docker_address}")
    record_exercised("escapes attempted from a container of Docker", count)


def _from_a_container(machine: dict[str, Any], tmp_path: Path, isolation: str, shown: str) -> int:
    app, state = _application(tmp_path), tmp_path / "state"
    manifest = app / "shardwright.toml"
    manifest.write_text(manifest.read_text().replace('isolation = "namespace"', f'isolation = "{isolation}"'))
    sources = {attempt.key: attempt.source for attempt in escapes.attempts()}
    world = _world(machine, app, state)
    with shardwright.start(app, state=state) as node, node.session("one") as one, node.session("two") as two:
        one.call("hostile.pid"), two.call("hostile.pid")
        running = node.shards()
        sibling = next(s.pid for s in running if s.component == "hostile" and "two" in s.sessions)
        assert {s.isolation for s in running} == {shown}
        world["api"] = str(next(Path(os.environ["XDG_RUNTIME_DIR"]).rglob("*.sock")))
        world["pids"] = {
            "a process of the machine": machine["victim"],
            "another shard": sibling,
            "the template": next(s.pid for s in running if s.component == "other"),  # there is none: any other
            "the keeper": _only_child(node.running.core.launcher._keeper.pid),  # type: ignore[union-attr]
            "the node": os.getpid(),
        }
        (app / "shared" / "plan").write_text("x")
        walled = _outside(
            json.loads(one.call("hostile.attempt", json.dumps({"sources": sources, "world": world}))), machine
        )
        assert (app / "shared" / "plan").read_text() == "x"
    assert walled.keys() == sources.keys()
    assert not _succeeded(walled), json.dumps(_succeeded(walled), indent=1)
    return len(walled)


def _unsandboxed(sources: dict[str, str], world: dict[str, Any]) -> dict[str, Any]:
    """In a process of root's without any walls, but for a mount namespace, so that what succeeds harms nobody."""
    code = escapes.hostile_module() + (
        "\ngiven = json.load(sys.stdin)\nprint(json.dumps(run(given['sources'], given['world'], True)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], input=json.dumps({"sources": sources, "world": world}), capture_output=True,
        text=True, timeout=100, check=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_the_documented_matrix_is_that_of_the_attempts() -> None:
    lines = (REPOSITORY / "docs" / "security.md").read_text().partition("<!-- matrix -->")[2].splitlines()
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines if line.startswith("| ")][1:]
    assert [row[:2] for row in rows] == [(attempt.group, attempt.name) for attempt in escapes.attempts()]
    for row in rows:
        assert row[3].startswith("blocked"), row
        assert row[4].startswith("blocked") or row[4] in escapes.TEMPLATE_MAY.values(), row
