"""The process backend on this machine: what the conformance suite cannot ask of every backend."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec.structs
import pytest

from shardwright.contracts.sandbox import Exit, LaunchSpec, Sandbox
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.sandbox._linux import _procfs
from shardwright.sandbox._linux._cgroup import NoCgroups
from shardwright.sandbox.process import ProcessBackend
from waiting import eventually

MIB = 1 << 20
PATIENCE_S = 20.0


@pytest.fixture
def backend() -> Iterator[ProcessBackend]:
    made = ProcessBackend()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def limiting(backend: ProcessBackend) -> ProcessBackend:
    if not {"cpu", "memory", "pids"} <= set(backend.capabilities().enforces):
        pytest.skip(f"control groups are not permitted here: {backend.reason}")
    return backend


def shell(script: str, name: str = "it-1", **changes: object) -> LaunchSpec:
    spec = LaunchSpec(ShardId(name), ("/bin/sh", "-c", script), {"PATH": "/usr/bin:/bin"}, "/")
    return msgspec.structs.replace(spec, **changes)  # type: ignore[arg-type]


def readable(descriptor: int, timeout_s: float = PATIENCE_S) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


@contextlib.contextmanager
def running(backend: ProcessBackend, spec: LaunchSpec) -> Iterator[tuple[Sandbox, int]]:
    """A sandbox, and a descriptor to read its standard output from."""
    read_end, write_end = os.pipe()
    try:
        sandbox = backend.launch(msgspec.structs.replace(spec, descriptors={**spec.descriptors, 1: write_end}))
    finally:
        os.close(write_end)
        if sys.exc_info()[0] is not None:
            os.close(read_end)
    try:
        yield sandbox, read_end
    finally:
        os.close(read_end)
        sandbox.delete()


def output(descriptor: int) -> str:
    chunks = []
    while readable(descriptor) and (chunk := os.read(descriptor, 65536)):
        chunks.append(chunk)
    return b"".join(chunks).decode()


def is_gone(pid: int) -> bool:
    stat = _procfs.process_stat(pid)
    return stat is None or stat.state == "Z"


def test_guest_starts_clean(backend: ProcessBackend) -> None:
    """Nothing of the parent's signals, privileges and session reaches it."""
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        with running(backend, shell("exec cat /proc/self/status /proc/self/limits")) as (sandbox, reader):
            text = output(reader)
            pid = sandbox.handle.pid
            assert os.getsid(pid) == pid
    finally:
        signal.signal(signal.SIGINT, old)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    status = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    of_libc = 0b11 << 31  # signals 32 and 33: no program can change them by way of libc, so a parent's stay
    for name in ("SigBlk", "SigIgn", "SigCgt"):
        assert int(status[name], 16) & ~of_libc == 0, (name, status[name])
    assert status["NoNewPrivs"].strip() == "1"
    limits = {line[:25].strip(): line[25:].split()[:2] for line in text.splitlines() if line.startswith("Max ")}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"][0] == limits["Max open files"][1]


def test_limits_hold_before_the_first_instruction(limiting: ProcessBackend) -> None:
    with running(limiting, shell("exec cat /proc/self/cgroup")) as (sandbox, reader):
        text = output(reader)
        folder = f"/{limiting.groups.owner}/it-1"
        assert text.count(folder) >= len(sandbox.handle.control_groups) >= 1


def test_ceiling_too_small_to_load_anything(limiting: ProcessBackend) -> None:
    spec = shell("exit 0", limits=Limits(ceiling=Resources(memory_bytes=64 * 1024)))
    sandbox = limiting.launch(spec)
    try:
        assert readable(sandbox.fileno())
        assert sandbox.poll() == Exit(-signal.SIGKILL, out_of_memory=True)
    finally:
        sandbox.delete()


def test_any_sequence_of_limits_reads_back(limiting: ProcessBackend) -> None:
    """Raised and lowered at random: the order of writes is right for every pair."""
    source = random.Random(7)
    sandbox = limiting.launch(shell("exec sleep 1000"))
    try:
        for _ in range(60):
            wanted = Limits(
                Resources(cpu=source.randint(1, 200) / 100, memory_bytes=source.randint(1, 400) * MIB),
                Resources(cpu=source.randint(1, 200) / 100, memory_bytes=source.randint(8, 400) * MIB),
            )
            found = sandbox.resize(wanted)
            assert found.ceiling == wanted.ceiling
            assert found.guarantee.memory_bytes == wanted.guarantee.memory_bytes
            assert found.guarantee.cpu == pytest.approx(wanted.guarantee.cpu, abs=0.01)
        assert sandbox.resize(Limits()) == found
    finally:
        sandbox.delete()


def test_few_descriptors_are_held(limiting: ProcessBackend) -> None:
    """Hundreds of sandboxes fit into the usual limit of 1024: only files in frequent use stay open."""
    before = len(os.listdir("/proc/self/fd"))
    sandbox = limiting.launch(
        shell("exec sleep 1000", limits=Limits(ceiling=Resources(cpu=1.0, memory_bytes=64 * MIB)))
    )
    try:
        assert len(os.listdir("/proc/self/fd")) == before + 1, "the pidfd"
        sandbox.usage()
        assert len(os.listdir("/proc/self/fd")) <= before + 6
        sandbox.resize(Limits(ceiling=Resources(cpu=0.5)))
        kept = len(os.listdir("/proc/self/fd"))
        sandbox.resize(Limits(ceiling=Resources(cpu=0.75)))
        sandbox.usage()
        assert len(os.listdir("/proc/self/fd")) == kept, "they are used again"
    finally:
        sandbox.delete()
    assert len(os.listdir("/proc/self/fd")) == before


def test_same_shard_twice_is_refused(limiting: ProcessBackend) -> None:
    first = limiting.launch(shell("exec sleep 1000"))
    try:
        with pytest.raises(SandboxError, match="there already"):
            limiting.launch(shell("exec sleep 1000"))
        assert first.poll() is None
    finally:
        first.delete()


def test_impossible_limits_leave_nothing(limiting: ProcessBackend) -> None:
    with pytest.raises(SandboxError, match="cannot set"):
        limiting.launch(shell("exit 0", limits=Limits(ceiling=Resources(memory_bytes=-5))))
    assert limiting.launch(shell("exit 0")).delete() is None


def test_groups_made_inside_the_sandbox_go_with_it(limiting: ProcessBackend) -> None:
    """A guest of root's may make groups beneath its own."""
    sandbox = limiting.launch(shell("exec sleep 1000"))
    try:
        inner = Path(sandbox.handle.control_groups[0]) / "inner"
        inner.mkdir()
        (inner / "cgroup.procs").write_text(str(sandbox.handle.pid))
    finally:
        sandbox.delete()
    assert not inner.parent.exists()


def test_orphans_are_waited_for(limiting: ProcessBackend) -> None:
    """This process is a sub-reaper, as the keeper is: the orphans of a sandbox come to it."""
    with running(limiting, shell("setsid sleep 1000 & echo $!; exec sleep 1000")) as (sandbox, reader):
        assert readable(reader)
        orphan = int(os.read(reader, 100))
        sandbox.kill()
        assert eventually(lambda: limiting.reap_orphans() == 1), "it comes to us once its parent is gone too"
        assert _procfs.process_stat(orphan) is None
        assert sandbox.poll() == Exit(-signal.SIGKILL), "its own status is not taken away"


def test_other_children_are_left_to_their_owners(backend: ProcessBackend) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    try:
        assert eventually(lambda: is_gone(pid))
        assert backend.reap_orphans(keep=[pid]) == 0
    finally:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5


def test_signal_handler_that_raises_leaves_nothing() -> None:
    """A signal that arrives during a start is let in at its end (in a process whose only thread this is)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, b"%d" % _interrupted_starts())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        assert int(os.read(reader, 100)) > 0
    finally:
        os.waitpid(pid, 0)
        os.close(reader)


def _interrupted_starts() -> int:
    class Interrupted(Exception):
        pass

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    hits = 0
    backend = ProcessBackend()
    signal.signal(signal.SIGALRM, interrupt)
    before = set(os.listdir("/proc/self/fd"))
    for delay_us in range(100, 6000, 200):
        try:
            signal.setitimer(signal.ITIMER_REAL, delay_us / 1e6)
            sandbox = backend.launch(shell("exec sleep 1000", name=f"it-{delay_us}"))
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupted:
            hits += 1
        else:
            sandbox.delete()
    gc.collect()
    left = set(os.listdir("/proc/self/fd")) - before
    backend.close()
    return -1 if len(left) > 1 else hits  # one is that of the listing itself


def test_released_sandbox_runs_on(backend: ProcessBackend) -> None:
    sandbox = backend.launch(shell("exec sleep 1000"))
    handle = sandbox.handle
    sandbox.release()
    sandbox.release()
    with pytest.raises(SandboxError, match="was deleted"):
        sandbox.fileno()
    successor = ProcessBackend()
    try:
        adopted = successor.adopt(handle)
        assert adopted is not None
        assert adopted.poll() is None
        adopted.delete()
    finally:
        successor.close()
    assert eventually(lambda: is_gone(handle.pid))


@pytest.mark.parametrize("change", [{"version": 99}, {"backend": "docker"}])
def test_handle_of_another_maker_is_refused(backend: ProcessBackend, change: dict[str, object]) -> None:
    sandbox = backend.launch(shell("exec sleep 1000"))
    try:
        with pytest.raises(SandboxError, match="cannot be adopted"):
            backend.adopt(msgspec.structs.replace(sandbox.handle, **change))  # type: ignore[arg-type]
    finally:
        sandbox.delete()


def test_forged_control_groups_of_a_handle_are_not_opened(limiting: ProcessBackend) -> None:
    sandbox = limiting.launch(shell("exec sleep 1000"))
    try:
        forged = msgspec.structs.replace(sandbox.handle, control_groups=("/sys/fs/cgroup/memory", "/etc"))
        adopted = limiting.adopt(forged)
        assert adopted is not None
        assert adopted.handle.control_groups == ()
        with pytest.raises(SandboxError, match="no control group"):
            adopted.resize(Limits())
        adopted.release()
    finally:
        sandbox.delete()


def test_adopting_with_impossible_limits_changes_nothing(limiting: ProcessBackend) -> None:
    impossible = Limits(ceiling=Resources(memory_bytes=-5))
    sandbox = limiting.launch(shell("exec sleep 1000"))
    try:
        with pytest.raises(SandboxError, match="cannot set"):
            limiting.adopt(sandbox.handle, impossible)
        stranger = msgspec.structs.replace(sandbox.handle, shard=ShardId("it-2"), control_groups=())
        with pytest.raises(SandboxError, match="cannot set"):
            limiting.adopt(stranger, impossible)
        assert sandbox.poll() is None
        inside = Path(f"/proc/{sandbox.handle.pid}/cgroup").read_text()
        assert "/it-1" in inside and "/it-2" not in inside
    finally:
        sandbox.delete()


def test_without_control_groups_the_process_is_measured() -> None:
    backend = ProcessBackend(NoCgroups("switched off by a test"))
    assert backend.reason == "switched off by a test"
    assert backend.sweep() == ()
    sandbox = backend.launch(shell("while :; do :; done", limits=Limits(ceiling=Resources(cpu=0.5))))
    try:
        assert eventually(lambda: (sandbox.usage() or pytest.fail("gone")).cpu_s > 0.02)
        with pytest.raises(SandboxError, match="no control group"):
            sandbox.resize(Limits())
    finally:
        sandbox.delete()
        backend.close()


# -- the keeper's own death, and another user: in forked children -------------------------------------------------


@contextlib.contextmanager
def keeper(work: Callable[[], str]) -> Iterator[tuple[int, str]]:
    """A forked process that does its work, says a line and waits; its pid and the line. Ended with SIGKILL."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read_end)
            os.write(write_end, work().encode() + b"\n")
            os.close(write_end)
            signal.pause()
        except BaseException as error:
            os.write(write_end, f"error: {error!r}\n".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        assert readable(read_end)
        yield pid, os.read(read_end, 65536).decode().strip()
    finally:
        os.close(read_end)
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_guests_end_with_the_keeper() -> None:
    def work() -> str:
        return str(ProcessBackend(NoCgroups("test")).launch(shell("exec sleep 1000")).handle.pid)

    with keeper(work) as (pid, line):
        guest = int(line)
        assert not is_gone(guest)
        kill(pid)
        assert eventually(lambda: is_gone(guest))


def test_sweep_removes_what_a_dead_keeper_left(limiting: ProcessBackend) -> None:
    kept: list[ProcessBackend] = []

    def work() -> str:
        kept.append(ProcessBackend(end_with_parent=False))
        sandbox = kept[0].launch(shell("setsid sleep 1000 & exec sleep 1000", name="left-1"))
        return " ".join([kept[0].groups.owner, str(sandbox.handle.pid), *sandbox.handle.control_groups])

    with keeper(work) as (pid, line):
        owner, guest, *folders = line.split()
        outer = {str(Path(folder).parent) for folder in folders}
        # other runs on this machine may leave something meanwhile: only ours is looked at
        assert not outer & set(limiting.sweep()), "its owner lives"
        kill(pid)
        assert not outer & set(limiting.sweep(alive=[owner])), "it is spared by name"
        assert not is_gone(int(guest))
        assert outer <= set(limiting.sweep())
        assert not any(Path(folder).exists() for folder in outer)
        assert eventually(lambda: is_gone(int(guest)))
        assert not outer & set(limiting.sweep())


def test_sweep_leaves_what_is_not_certainly_dead(limiting: ProcessBackend) -> None:
    sandbox = limiting.launch(shell("exec sleep 1000"))
    try:
        base = Path(sandbox.handle.control_groups[0]).parent.parent
        others = [base / "shardwright-demo", base / "shardwright-999999999-1-12345", base / "shardwrightx"]
        for other in others:
            other.mkdir()
        try:
            limiting.sweep()
            assert all(other.is_dir() for other in others)
            assert sandbox.poll() is None
        finally:
            for other in others:
                other.rmdir()
    finally:
        sandbox.delete()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_ordinary_user_falls_back_and_is_told() -> None:
    def work() -> str:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        backend = ProcessBackend()
        fingerprint = backend.fingerprint()
        missing = [finding for finding in fingerprint.findings if not finding.present]
        assert fingerprint.usable
        assert all(finding.remedy for finding in missing), missing
        assert {"control groups", "capabilities"} <= {finding.name for finding in missing}, missing
        sandbox = backend.launch(shell("exit 4", limits=Limits(ceiling=Resources(cpu=0.5))))
        assert readable(sandbox.fileno())
        ended = sandbox.poll()
        sandbox.delete()
        return f"{backend.reason}|{backend.capabilities().enforces}|{ended}"

    with keeper(work) as (_, line):
        reason, enforces, ended = line.split("|")
        assert "Permission denied" in reason
        assert enforces == "()"
        assert ended == "exited with status 4"
