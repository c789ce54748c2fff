"""Limits, adoption and what a backend says of the machine: checks for `check_sandbox_backend`."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from unittest import SkipTest

import msgspec.structs
import psutil

from shardwright.contracts.sandbox import Exit
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.testing._sandbox_trial import (
    SLEEP,
    SandboxTrial,
    assert_limits,
    end,
    pair,
    stat_fields,
)

_MEBIBYTE = 1 << 20
_MOST_FORKS = 400

# -- limits ----------------------------------------------------------------------------------------------------


def resize_reads_back(trial: SandboxTrial) -> None:
    """Also: a memory ceiling below use is refused, whole, and one that has ended cannot be resized."""
    ceiling = Resources(cpu=1.0, memory_bytes=128 * _MEBIBYTE)
    code = f"block = b'x' * {64 * _MEBIBYTE}\nsay(len(block))"
    sandbox, answers = trial.launch(trial.spec(code + SLEEP, ceiling=ceiling))
    answers.next()
    wanted = Limits(Resources(cpu=0.25, memory_bytes=32 * _MEBIBYTE), Resources(cpu=0.75, memory_bytes=96 * _MEBIBYTE))
    assert_limits(sandbox.resize(wanted), wanted)
    raised = sandbox.resize(Limits(ceiling=Resources(memory_bytes=256 * _MEBIBYTE)))
    expected = Limits(wanted.guarantee, Resources(cpu=0.75, memory_bytes=256 * _MEBIBYTE))
    assert_limits(raised, expected)
    try:
        sandbox.resize(Limits(ceiling=Resources(cpu=0.5, memory_bytes=16 * _MEBIBYTE)))
    except SandboxError as error:
        assert "in use" in error.message, error.message
    else:
        raise AssertionError("a memory ceiling below use was taken")
    assert_limits(sandbox.resize(Limits()), expected)
    assert sandbox.poll() is None, "a refused resize must harm nobody"
    sandbox.kill()
    end(sandbox)
    try:
        sandbox.resize(wanted)
    except SandboxError:
        return
    raise AssertionError("a sandbox that has ended was resized")


def ceilings_end_the_greedy_alone(trial: SandboxTrial) -> None:
    """Who takes more memory than its ceiling is ended; who has as many processes as it may makes no more; others live."""
    ceiling = Resources(memory_bytes=64 * _MEBIBYTE)
    echo = "say('here')\nwhile sys.stdin.buffer.read(1): say(os.waitpid(os.fork() or os._exit(0), 0)[1])"
    read_end, write_end = os.pipe()
    try:
        neighbour, answers = trial.launch(trial.spec(echo, descriptors={0: read_end}, ceiling=ceiling))
        assert answers.next() == "here"
        code = (
            "count = 0\n"
            "try:\n"
            f"    while count < {_MOST_FORKS}:\n"
            "        if os.fork() == 0:\n"
            "            while True: time.sleep(100)\n"
            "        count += 1\n"
            "except OSError: pass\n"
            "say(count)"
        )
        many = None
        if "pids" in trial.enforces:
            many, counts = trial.launch(trial.spec(code + SLEEP, max_pids=24, ceiling=ceiling))
            assert counts.next() == 23
        code = f"blocks = [b'x' * {_MEBIBYTE} + bytes([n]) for n in range(256)]\nsys.exit(3)"
        greedy, _ = trial.launch(trial.spec(code, ceiling=ceiling))
        assert end(greedy) == Exit(-signal.SIGKILL, out_of_memory=True)
        os.write(write_end, b"?")
        assert answers.next() == 0, "a neighbour starts processes while another may not"
        assert neighbour.poll() is None and (many is None or many.poll() is None)
    finally:
        os.close(read_end)
        os.close(write_end)


def cpu_ceiling_holds(trial: SandboxTrial) -> None:
    """Half a core within a tenth; a busy machine may give less, so that the best of a dozen windows counts for that."""
    code = "os.fork()\nsay(1)\nwhile True: pass"
    sandbox, answers = trial.launch(trial.spec(code, guarantee=Resources(cpu=2.0), ceiling=Resources(cpu=0.5)))
    answers.next()
    answers.next()
    best = 0.0
    for _ in range(12):
        first, start = sandbox.usage(), time.monotonic()
        time.sleep(1.5)  # the window; shorter ones are judged by where they begin in the quota's period
        last, stop = sandbox.usage(), time.monotonic()
        assert first is not None and last is not None
        cores = (last.cpu_s - first.cpu_s) / (stop - start)
        assert cores <= 0.55, f"took {cores:.3f} cores of 0.5"
        best = max(best, cores)
        if best >= 0.45 and last.throttled_s > 0:
            return
    raise AssertionError(f"got {best:.3f} cores of 0.5, or was never held back")


IO_WINDOWS = 6


def io_ceiling_holds(trial: SandboxTrial) -> None:
    """Direct writes to a disk, at a ceiling that is set, and then lowered, while it runs."""
    code = """
import mmap
block = mmap.mmap(-1, 1 << 16)
while True:
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < 1.0:
        count += os.pwrite(4, block, count % (1 << 22))
    say(count / (time.monotonic() - begun))
"""
    with tempfile.NamedTemporaryFile(dir="/var/tmp") as file:
        try:
            descriptor = os.open(file.name, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:  # buffered writes are not the shard's on version 1
            raise SkipTest(f"{file.name} permits no direct I/O: {error.strerror}") from error
        try:
            sandbox, answers = trial.launch(
                trial.spec(code, descriptors={4: descriptor}, ceiling=Resources(io_bytes_s=8 * _MEBIBYTE))
            )
            for rate in (8 * _MEBIBYTE, 3 * _MEBIBYTE):
                read_back = sandbox.resize(Limits(ceiling=Resources(io_bytes_s=rate)))
                assert read_back.ceiling.io_bytes_s == rate, read_back
                answers.next()  # began under the earlier ceiling
                most = 0.0
                for _ in range(IO_WINDOWS):
                    seen = answers.next()
                    assert isinstance(seen, float) and seen <= 1.15 * rate, f"{seen:.0f} bytes a second of {rate}"
                    most = max(most, seen)
                    if most >= 0.7 * rate:  # it is a ceiling, and no stop; a busy machine may take a window
                        break
                assert most >= 0.7 * rate, f"{most:.0f} bytes a second at most, of {rate}"
        finally:
            os.close(descriptor)
        trial.note(sandbox)


# -- adoption --------------------------------------------------------------------------------------------------


def adopted_after_a_restart(trial: SandboxTrial) -> None:
    """By the handle alone, as a successor would; the first object is dropped without a word. Not by a wrong handle."""
    limits = Resources(memory_bytes=128 * _MEBIBYTE)
    sandbox, answers = trial.launch(trial.spec("say(1)" + SLEEP, ceiling=limits))
    answers.next()
    other = msgspec.structs.replace(sandbox.handle, start_ticks=sandbox.handle.start_ticks + 1)
    assert trial.backend.adopt(other) is None
    assert trial.backend.adopt(other, Limits()) is None
    assert sandbox.poll() is None, "a process that is not meant must not be touched"
    adopted = trial.backend.adopt(sandbox.handle)
    assert adopted is not None
    trial.track(adopted)
    assert adopted.handle == sandbox.handle
    assert adopted.poll() is None
    usage = adopted.usage()
    assert usage is not None and usage.memory_bytes > 0
    if "memory" in trial.enforces:
        wanted = Limits(ceiling=Resources(memory_bytes=96 * _MEBIBYTE))
        assert_limits(adopted.resize(wanted), wanted)
    adopted.kill()
    ended = end(adopted)
    assert ended is not None and ended.status in (-signal.SIGKILL, None), ended
    adopted.delete()
    sandbox.delete()
    assert trial.backend.adopt(sandbox.handle) is None


def adopted_from_a_template(trial: SandboxTrial) -> None:
    """A process that a running guest forked gets a box of its own; ending the one does not end the other."""
    code = (
        "ready, go = os.pipe()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.setsid()\n"
        "    say(['shard', os.getpid()])\n"
        "else:\n"
        "    say(['template', pid])\n"
    )
    template, answers = trial.launch(trial.spec(code + SLEEP))
    assert {pair(answers.next())[0] for _ in range(2)} == {"template", "shard"}
    # what the guest calls its child may be a number of a pid namespace of its own
    (pid,) = (child.pid for child in psutil.Process(template.handle.pid).children())
    stat = stat_fields(pid)
    handle = msgspec.structs.replace(
        template.handle,
        shard=ShardId(f"{template.handle.shard}-forked"),
        pid=pid,
        start_ticks=int(stat[19]),
        control_groups=(),
    )
    wanted = Limits(ceiling=Resources(cpu=1.0, memory_bytes=64 * _MEBIBYTE))
    shard = trial.backend.adopt(handle, wanted)
    assert shard is not None
    trial.track(shard)
    if trial.enforces:
        assert shard.handle.control_groups and not set(shard.handle.control_groups) & set(
            template.handle.control_groups
        )
        assert_limits(shard.resize(Limits()), wanted)
    shard.kill()
    assert end(shard) is not None
    shard.delete()
    assert template.poll() is None
    again = trial.backend.adopt(handle, wanted)
    assert again is None, "its pid is a zombie of the template's, or gone: there is nothing to adopt"


def machine_is_told(trial: SandboxTrial) -> None:
    capacity = trial.backend.capacity()
    assert capacity.cpu is not None and capacity.cpu > 0
    assert capacity.memory_bytes is not None and capacity.memory_bytes > _MEBIBYTE
    fingerprint = trial.backend.fingerprint()
    assert fingerprint.findings
    for finding in fingerprint.findings:
        assert finding.name and (finding.present or finding.remedy), f"{finding} says no remedy"
    assert fingerprint.usable
