"""What conformance checks of sandboxes stand on: a backend under test, guests that answer, a count of what is left."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import time
from collections.abc import Callable, Mapping
from types import TracebackType

import msgspec.structs
import psutil

from shardwright.contracts.sandbox import Exit, LaunchSpec, Sandbox, SandboxBackend
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources

__all__ = ["Answers", "SandboxTrial"]

PATIENCE_S = 20.0
_ANSWER = 3  # the descriptor that guests answer on

_PRELUDE = f"""
import json, os, signal, sys, time
def say(value):
    os.write({_ANSWER}, json.dumps(value).encode() + b"\\n")
"""
SLEEP = "\nwhile True: time.sleep(100)\n"


class SandboxTrial:
    """A backend under test, and everything started with it; a context manager that checks that nothing is left."""

    def __init__(self, factory: Callable[[], SandboxBackend], python: tuple[str, ...], *, long: bool = False) -> None:
        self.long = long
        self._descriptors = _descriptors()
        self._children = set(psutil.Process().children(recursive=True))
        self._python = python
        self._started: list[tuple[Sandbox, Answers]] = []
        self._folders: set[str] = set()
        self._firsts: set[psutil.Process] = set()
        self.backend = factory()
        self.capabilities = self.backend.capabilities()
        self.enforces = frozenset(self.capabilities.enforces)
        self._count = 0

    def __enter__(self) -> SandboxTrial:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with contextlib.ExitStack() as clean_up:  # whatever fails, everything is tried
            if error is None:
                clean_up.callback(self.assert_nothing_left)
            clean_up.callback(getattr(self.backend, "close", lambda: None))
            for sandbox, answers in self._started:
                clean_up.callback(sandbox.delete)
                clean_up.callback(answers.close)

    def spec(
        self,
        code: str,
        *,
        environment: Mapping[str, str] | None = None,
        descriptors: Mapping[int, int] | None = None,
        ceiling: Resources | None = None,
        guarantee: Resources | None = None,
        max_pids: int = 64,
    ) -> LaunchSpec:
        """A guest that runs Python code, in which ``say(value)`` answers."""
        self._count += 1
        return LaunchSpec(
            shard=ShardId(f"trial-{os.getpid():x}-{self._count:04x}"),
            arguments=(*self._python, "-c", _PRELUDE + code),
            environment=environment or {},
            working_directory="/",
            descriptors=descriptors or {},
            limits=Limits(guarantee or Resources(), ceiling or Resources()),
            max_pids=max_pids,
        )

    def launch(self, spec: LaunchSpec) -> tuple[Sandbox, Answers]:
        """Start it with a pipe to answer on; deleted at the end of the trial."""
        read_end, write_end = os.pipe()
        try:
            sandbox = self.backend.launch(
                msgspec.structs.replace(spec, descriptors={**spec.descriptors, _ANSWER: write_end})
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._folders.update(sandbox.handle.control_groups)
        with contextlib.suppress(psutil.NoSuchProcess):  # who may be nobody's child, as in a container of a daemon's
            self._firsts.add(psutil.Process(sandbox.handle.pid))
        answers = Answers(read_end)
        self._started.append((sandbox, answers))
        return sandbox, answers

    def note(self, sandbox: Sandbox) -> None:
        """The check deletes this sandbox itself; its control groups must be gone in the end."""
        self._folders.update(sandbox.handle.control_groups)

    def track(self, sandbox: Sandbox) -> Sandbox:
        """A sandbox adopted by the check itself, to be deleted at the end."""
        self._folders.update(sandbox.handle.control_groups)
        read_end, write_end = os.pipe()
        os.close(write_end)
        self._started.append((sandbox, Answers(read_end)))
        return sandbox

    def assert_nothing_left(self) -> None:
        """No process, control group or descriptor more than before. Zombies count as ended."""
        fresh = set(psutil.Process().children(recursive=True)) - self._children
        left = alive(fresh | self._firsts, PATIENCE_S)
        assert not left, f"processes left running: {left}"
        folders = sorted(folder for folder in self._folders if os.path.exists(folder))
        assert not folders, f"control groups left: {folders}"
        if _descriptors() - self._descriptors:
            gc.collect()  # what a cycle still holds is not left
        descriptors = _descriptors() - self._descriptors
        assert not descriptors, f"descriptors left open: {sorted(descriptors)}"


class Answers:
    """The lines that a guest says, as values."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def next(self, timeout_s: float = PATIENCE_S) -> object:
        """The next one. Raises EOFError when the guest closed its side, AssertionError when nothing came."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready = readable(self._descriptor, deadline - time.monotonic())
            assert ready, f"the guest said nothing within {timeout_s} s"
            chunk = os.read(self._descriptor, 65536)
            if not chunk:
                raise EOFError("the guest closed its side")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def readable(descriptor: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def end(sandbox: Sandbox) -> Exit | None:
    assert readable(sandbox.fileno(), PATIENCE_S), f"{sandbox!r} did not end"
    return sandbox.poll()


def alive(processes: set[psutil.Process], timeout_s: float) -> list[str]:
    """Those that have not ended in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [process for process in processes if not _has_ended(process)]
        if not left or time.monotonic() > deadline:
            return [repr(process) for process in left]
        time.sleep(0.005)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _descriptors() -> set[str]:
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} -> {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:  # the descriptor of the listing itself
            continue
    return found


def stat_fields(pid: int) -> list[str]:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    return text[text.rindex(")") + 2 :].split()


def pair(value: object) -> tuple[str, int]:
    assert isinstance(value, list) and len(value) == 2, value
    return str(value[0]), int(value[1])


def assert_limits(found: Limits, wanted: Limits) -> None:
    """What is stated in ``wanted`` was found, within a page of memory and a hundredth of a core."""
    for which in ("guarantee", "ceiling"):
        asked: Resources = getattr(wanted, which)
        got: Resources = getattr(found, which)
        if asked.cpu is not None:
            assert got.cpu is not None and abs(got.cpu - asked.cpu) <= 0.01, (which, got, asked)
        if asked.memory_bytes is not None:
            assert got.memory_bytes is not None and abs(got.memory_bytes - asked.memory_bytes) <= 65536, (which, got)
