"""Limits of running boxes changed, and what becomes of them: ``python -m shardwright.node._resize_trial ROUNDS``.

Writes one JSON object, resource -> amounts asked, what was then measured, how long a change took. What the keeper calls is
called as the keeper calls it, with boxes of the same backend; it is a process of its own because a keeper is one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from shardwright.contracts.sandbox import LaunchSpec, Sandbox
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.node._keeper_client import python_command
from shardwright.sandbox import ShapedLink
from shardwright.sandbox.process import ProcessBackend

SETTLE_S, WINDOW_S = 0.2, 1.0
CPU = (0.5, 0.2)
IO = (20 * 2**20, 8 * 2**20)
NETWORK = (10_000_000, 40_000_000)
_PYTHON = (sys.executable, "-I", "-S", "-c")
_SPIN = "while True: pass"
_SLEEP = "import time\nwhile True: time.sleep(100)"
_WRITE = """
import mmap, os, sys
block = mmap.mmap(-1, 1 << 17)
descriptor = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR | os.O_DIRECT, 0o600)
at = 0
while True:
    os.pwrite(descriptor, block, at % (1 << 24))
    at += 1 << 17
"""
_NEWNET = 0x40000000
_PIECE = 65536


def resize_trial(rounds: int) -> dict[str, list[dict[str, Any]]]:
    """What was measured, by resource; a resource that cannot be limited here has one entry that says why."""
    command = python_command("shardwright.node._resize_trial", str(rounds))
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd="/")
    found: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return found


def main(rounds: int) -> None:
    backend = ProcessBackend()
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for resource, measure in (("cpu", _cpu), ("memory", _memory), ("io", _io), ("network", _network)):
            if resource != "network" and resource not in backend.capabilities().enforces:
                found[resource] = [{"unmeasured": backend.reason or "this machine does not limit it"}]
                continue
            try:
                found[resource] = list(measure(backend, rounds))
            except SandboxError as error:
                found[resource] = [{"unmeasured": error.message}]
    finally:
        backend.close()
    json.dump(found, sys.stdout)


def _cpu(backend: ProcessBackend, rounds: int) -> Iterator[dict[str, Any]]:
    """A busy loop: its cores in windows of a second; and from the change until the kernel first held it back."""
    with _box(backend, "spin", (*_PYTHON, _SPIN), Resources(cpu=1.0)) as sandbox:
        time.sleep(SETTLE_S)
        for cores in CPU:
            before = _throttled(sandbox)
            begun_s = time.perf_counter()
            sandbox.resize(Limits(ceiling=Resources(cpu=cores)))
            while _throttled(sandbox) <= before and time.perf_counter() - begun_s < WINDOW_S:
                time.sleep(0.0005)
            held_s = time.perf_counter() - begun_s
            time.sleep(SETTLE_S)
            used = _window(lambda: _cpu_s(sandbox))
            applied = _applied(rounds, lambda n: sandbox.resize(Limits(ceiling=Resources(cpu=(0.5, 0.4)[n % 2]))))
            yield {"asked": cores, "measured": used, "effect_ms": held_s * 1e3, **applied}


def _memory(backend: ProcessBackend, rounds: int) -> Iterator[dict[str, Any]]:
    with _box(backend, "idle", (*_PYTHON, _SLEEP), Resources(memory_bytes=256 * 2**20)) as sandbox:
        yield _applied(
            rounds, lambda n: sandbox.resize(Limits(ceiling=Resources(memory_bytes=(128 + 64 * (n % 2)) * 2**20)))
        )


def _io(backend: ProcessBackend, rounds: int) -> Iterator[dict[str, Any]]:
    """Direct writes: bytes a second in windows of a second."""
    with (
        tempfile.NamedTemporaryFile(dir="/var/tmp") as file,
        _box(backend, "write", (*_PYTHON, _WRITE, file.name), Resources(io_bytes_s=64 * 2**20)) as sandbox,
    ):
        for rate in IO:
            sandbox.resize(Limits(ceiling=Resources(io_bytes_s=rate)))
            time.sleep(SETTLE_S)
            wrote = _window(lambda: _written(sandbox.handle.pid))
            applied = _applied(rounds, lambda n: sandbox.resize(Limits(ceiling=Resources(io_bytes_s=IO[n % 2]))))
            yield {"asked": rate, "measured": wrote, **applied}


def _network(_: ProcessBackend, rounds: int) -> Iterator[dict[str, Any]]:
    """Bytes from another network namespace to ours, over a link of that rate."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        _send(reader)
    os.close(reader)
    link = None
    try:
        _wait_for_namespace(pid)
        link = ShapedLink(f"swt{os.getpid()}", pid, "169.254.83.1", "169.254.83.2", NETWORK[0])
        with socket.create_server(("169.254.83.1", 0)) as server:
            os.write(writer, str(server.getsockname()[1]).encode())
            connection, _address = server.accept()
            with connection:
                for rate in NETWORK:
                    begun_s = time.perf_counter()
                    link.set_rate(rate)
                    changed_s = time.perf_counter() - begun_s
                    _received(connection, SETTLE_S)
                    got = _received(connection, WINDOW_S)
                    yield {"asked": rate, "measured": got * 8, "effect_ms": changed_s * 1e3}
        yield _applied(min(rounds, 50), lambda n: link.set_rate(NETWORK[n % 2]))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(writer)
        if link is not None:
            link.close()


def _send(reader: int) -> None:
    """In a network namespace of its own: as much as goes."""
    try:
        if ctypes.CDLL(None, use_errno=True).unshare(ctypes.c_int(_NEWNET)):
            os._exit(1)
        port = int(os.read(reader, 16))
        with socket.create_connection(("169.254.83.1", port)) as connection:
            piece = b"\0" * _PIECE
            while True:
                connection.sendall(piece)
    finally:
        os._exit(1)


def _wait_for_namespace(pid: int) -> None:
    """Raises SandboxError when it does not leave ours."""
    own = os.readlink("/proc/self/ns/net")
    end_s = time.monotonic() + 2.0
    while os.readlink(f"/proc/{pid}/ns/net") == own:
        if os.waitpid(pid, os.WNOHANG)[0] or time.monotonic() > end_s:
            raise SandboxError("no network namespace can be made here")
        time.sleep(0.001)


def _received(connection: socket.socket, seconds: float) -> float:
    """Bytes a second."""
    begun_s = now_s = time.perf_counter()
    count = 0
    while now_s - begun_s < seconds:
        count += len(connection.recv(_PIECE))
        now_s = time.perf_counter()
    return count / (now_s - begun_s)


@contextlib.contextmanager
def _box(backend: ProcessBackend, name: str, arguments: tuple[str, ...], ceiling: Resources) -> Iterator[Sandbox]:
    sandbox = backend.launch(LaunchSpec(ShardId(f"resize-{name}"), arguments, {}, "/", limits=Limits(ceiling=ceiling)))
    try:
        yield sandbox
    finally:
        sandbox.delete()


def _applied(rounds: int, change: Callable[[int], object]) -> dict[str, Any]:
    taken = []
    for number in range(rounds):
        begun_s = time.perf_counter()
        change(number)
        taken.append(time.perf_counter() - begun_s)
    return {"apply_us": statistics.median(taken) * 1e6, "apply_min_us": min(taken) * 1e6}


def _window(amount: Callable[[], float]) -> float:
    """By how much it grew in a second."""
    first, begun_s = amount(), time.perf_counter()
    time.sleep(WINDOW_S)
    last, ended_s = amount(), time.perf_counter()
    return (last - first) / (ended_s - begun_s)


def _cpu_s(sandbox: Sandbox) -> float:
    usage = sandbox.usage()
    return usage.cpu_s if usage is not None else 0.0


def _throttled(sandbox: Sandbox) -> float:
    usage = sandbox.usage()
    return usage.throttled_s if usage is not None else 0.0


def _written(pid: int) -> float:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("write_bytes")))


if __name__ == "__main__":
    main(int(sys.argv[1]))
