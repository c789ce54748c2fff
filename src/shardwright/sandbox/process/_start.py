"""From fork to exec: what the child does to itself before the guest's first instruction.

The child puts itself into its control groups by descriptors that the parent opened, so no hand-shake is needed and
nothing of the guest ever runs outside. What goes wrong comes back over a pipe that exec closes.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import resource
import select
import signal
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from msgspec import Struct

from shardwright.errors import SandboxError
from shardwright.sandbox._linux import _libc

_EXEC_TIMEOUT_S = 30.0


class Plan(Struct, frozen=True):
    """Everything that the child needs, worked out before the fork."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    working_directory: str
    descriptors: Mapping[int, int]
    entrances: tuple[int, ...]
    end_with_parent: bool
    mark: int | None = None


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """No handler runs inside; one that is due runs, and may raise, at the end."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def start(plan: Plan) -> int:
    """Fork and exec. Returns the child's pid (a session leader) once the program has been loaded.

    Raises SandboxError that says which step failed; then the child is gone and waited for. To be called with
    ``signals_blocked`` (the child must not run the parent's handlers), from a process with a single thread.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    try:
        pid = os.fork()
        if pid == 0:
            _become(plan, write_end, parent)
    except OSError as error:
        os.close(read_end)
        os.close(write_end)
        raise SandboxError(f"cannot fork: {error.strerror}", remedy="see the limits of processes and memory") from error
    os.close(write_end)
    failure = answer(read_end, pid)
    if failure:
        os.waitpid(pid, 0)
        raise SandboxError(failure)
    return pid


def answer(read_end: int, pid: int) -> str:
    """What the child says went wrong; nothing when exec closed the pipe."""
    chunks: list[bytes] = []
    poll = select.poll()
    poll.register(read_end, select.POLLIN)
    try:
        while True:
            if not poll.poll(_EXEC_TIMEOUT_S * 1000):
                os.kill(pid, signal.SIGKILL)  # our child, not waited for: the pid is still its own
                return f"the program was not loaded within {_EXEC_TIMEOUT_S:.0f} s"
            chunk = os.read(read_end, 4096)
            if not chunk:
                return b"".join(chunks).decode("utf-8", "replace")
            chunks.append(chunk)
    finally:
        os.close(read_end)


def _become(plan: Plan, write_end: int, parent: int) -> NoReturn:
    """Runs in the child. Never returns, never raises."""
    step = "start"
    try:
        step = "leave the signals of the parent"
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        step = "make a session of its own"
        os.setsid()
        if plan.end_with_parent:
            _libc.prctl(_libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
        step = "enter its control groups"
        for entrance in plan.entrances:
            os.write(entrance, b"0")
        step = "set its resource limits"
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if plan.mark is not None:
            resource.setrlimit(resource.RLIMIT_RTTIME, (plan.mark, plan.mark))
        step = "give up new privileges"
        _libc.prctl(_libc.PR_SET_NO_NEW_PRIVS, 1)
        step = f"enter the working directory {plan.working_directory!r}"
        os.chdir(plan.working_directory)
        step = "arrange its descriptors"
        write_end = arrange(plan.descriptors, write_end)
        step = f"run {plan.arguments[0]!r}"
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvpe(plan.arguments[0], list(plan.arguments), dict(plan.environment))
    except BaseException as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        try:
            os.write(write_end, f"the sandbox could not {step}: {reason}".encode("utf-8", "replace"))
        finally:
            os._exit(127)
    os._exit(127)


def arrange(descriptors: Mapping[int, int], write_end: int) -> int:
    """Give each descriptor its number and close all others; returns the pipe's new number."""
    free = max((2, *descriptors)) + 1
    # out of the way first: a source may have the number of another's target
    write_end = fcntl.fcntl(write_end, fcntl.F_DUPFD_CLOEXEC, free)
    sources = {target: fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, free) for target, source in descriptors.items()}
    for target, source in sources.items():
        os.dup2(source, target, inheritable=True)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for target in {0, 1, 2} - descriptors.keys():
        os.dup2(null, target, inheritable=True)
    kept = sorted({0, 1, 2, *descriptors, write_end})
    for before, after in itertools.pairwise(kept):
        os.closerange(before + 1, after)
    os.closerange(kept[-1] + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return write_end
