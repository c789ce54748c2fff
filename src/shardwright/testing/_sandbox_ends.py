"""What a sandbox gets, and how it ends: checks for `check_sandbox_backend`."""

from __future__ import annotations

import os
import random
import signal
import time

import msgspec.structs
import psutil

from shardwright.contracts.sandbox import Exit, Sandbox
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.testing._sandbox_trial import (
    PATIENCE_S,
    SLEEP,
    SandboxTrial,
    alive,
    end,
    readable,
)

_CYCLES = {False: 16, True: 200}  # by whether the long form is run
_CYCLES_S = {False: 2.0, True: 8.0}
_LEAST_CYCLES = 8  # of a backend whose starts are slow, and on a busy machine

# -- what a guest gets -----------------------------------------------------------------------------------------


def guest_gets_what_it_was_given(trial: SandboxTrial) -> None:
    """Its answers come through a descriptor; its environment and its descriptors are these and no others."""
    wanted = {"COLOUR": "blue", "EMPTY": "", "UMLAUT": "ä=b"}
    read_end, write_end = os.pipe()
    stray = os.open("/", os.O_RDONLY)
    os.set_inheritable(stray, True)
    try:
        code = (
            "fds = {}\n"
            "for fd in range(1024):\n"
            "    try: fds[fd] = os.readlink(f'/proc/self/fd/{fd}') if os.fstat(fd) else ''\n"
            "    except OSError: pass\n"
            "environment = open('/proc/self/environ', 'rb').read().decode()\n"
            "say([os.getpid(), environment, fds, os.read(9, 5).decode()])"
        )
        os.write(write_end, b"hello")
        # 4 is the number that the pipe to answer on may have outside: mapping must not mix them up
        sandbox, answers = trial.launch(
            trial.spec(code + SLEEP, environment=wanted, descriptors={9: read_end, 4: read_end})
        )
        reply = answers.next()
        assert isinstance(reply, list)
        pid, environment, found, text = reply
        assert isinstance(pid, int) and pid > 0
        given = dict(entry.split("=", 1) for entry in environment.split("\0") if entry)
        assert given == wanted, given
        assert set(found) == {"0", "1", "2", "3", "4", "9"}, found
        assert {found["0"], found["1"], found["2"]} == {"/dev/null"}, found
        assert text == "hello"
        assert sandbox.poll() is None
        assert sandbox.handle.backend == trial.backend.name
        usage = sandbox.usage()
        assert usage is not None and usage.memory_bytes > 0 and usage.threads >= 1, usage
    finally:
        for descriptor in (read_end, write_end, stray):
            os.close(descriptor)


# -- how it ends -----------------------------------------------------------------------------------------------


def exit_is_told_and_ends_orphans(trial: SandboxTrial) -> None:
    """The first process ends by itself; what it started must not outlive ``delete``."""
    read_end, write_end = os.pipe()
    try:
        code = "if os.fork() == 0:\n    say(os.getpid())\n    while True: time.sleep(100)\nos.read(0, 1)\nsys.exit(7)\n"
        sandbox, answers = trial.launch(trial.spec(code, descriptors={0: read_end}))
        answers.next()
        family = _family(sandbox)
        assert len(family) == 2, family
        os.write(write_end, b"!")
        assert end(sandbox) == Exit(7)
    finally:
        os.close(read_end)
        os.close(write_end)
    assert sandbox.poll() == Exit(7), "the answer must not change"
    assert sandbox.usage() is None
    sandbox.delete()
    left = alive(family, PATIENCE_S)
    assert not left, f"delete left {left}"


def signal_is_told(trial: SandboxTrial) -> None:
    sandbox, _ = trial.launch(trial.spec("os.kill(os.getpid(), signal.SIGTERM)" + SLEEP))
    assert end(sandbox) == Exit(-signal.SIGTERM)


def kill_ends_the_tree_and_is_told(trial: SandboxTrial) -> None:
    """Also: ``kill`` and ``delete`` may be called again, and leave no control group."""
    escape = "os.setsid()" if trial.enforces else "pass"
    code = (
        f"for depth in range(3):\n    if os.fork() == 0:\n        {escape}\n    else:\n        break\nsay(os.getpid())"
    )
    sandbox, answers = trial.launch(trial.spec(code + SLEEP))
    for _ in range(4):
        answers.next()
    family = _family(sandbox)
    within = "kernel" in trial.capabilities.isolates  # then its processes are another kernel's, and go with that
    assert len(family) >= (2 if within else 4), family
    sandbox.kill()
    assert end(sandbox) == Exit(-signal.SIGKILL)
    sandbox.kill()
    left = alive(family, PATIENCE_S)
    assert not left, f"kill left {left}"
    sandbox.delete()
    sandbox.delete()
    sandbox.kill()
    assert sandbox.usage() is None
    for folder in sandbox.handle.control_groups:
        assert not os.path.exists(folder), folder


def _family(sandbox: Sandbox) -> set[psutil.Process]:
    """Its first process, and all that descend from it."""
    first = psutil.Process(sandbox.handle.pid)
    return {first, *first.children(recursive=True)}


def quick_cycles_leave_nothing(trial: SandboxTrial) -> None:
    """Start and kill at random moments of a start: mostly before the interpreter is up."""
    source = random.Random(20)
    spec = trial.spec(SLEEP)
    begun_s = time.monotonic()
    for cycle in range(_CYCLES[trial.long]):
        if cycle >= _LEAST_CYCLES and time.monotonic() - begun_s > _CYCLES_S[trial.long]:
            break  # a backend whose starts are slow, or a busy machine
        sandbox = trial.backend.launch(msgspec.structs.replace(spec, shard=ShardId(f"{spec.shard}-{cycle:02x}")))
        trial.note(sandbox)
        try:
            readable(sandbox.fileno(), source.random() * 0.01)
            assert sandbox.poll() is None
            if source.random() < 0.5:
                sandbox.kill()
        finally:
            sandbox.delete()


def bad_specs_are_refused(trial: SandboxTrial) -> None:
    good = trial.spec("pass")
    bad = {
        "program": msgspec.structs.replace(good, arguments=("/nonexistent/program",)),
        "directory": msgspec.structs.replace(good, working_directory="/nonexistent/directory"),
        "arguments": msgspec.structs.replace(good, arguments=()),
    }
    for what, spec in bad.items():
        try:
            sandbox = trial.backend.launch(spec)
        except SandboxError as error:
            assert error.message, what
            if what != "arguments":
                assert "/nonexistent/" in error.message, error.message
        else:
            trial.track(sandbox)
            raise AssertionError(f"a bad {what} was not refused")
    # the id of a refused launch is free again
    sandbox, _ = trial.launch(good)
    assert end(sandbox) == Exit(0)
