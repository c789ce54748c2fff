"""Which processes belong to which sandbox where no control group tells, and how they are ended.

Sessions and process groups do not tell: a child may leave them, and its parent too. Resource limits do: they pass on to
every descendant, and only root may raise them again. So each sandbox gets a limit of its own that limits nothing (of
RLIMIT_RTTIME, some hundred thousand years of real-time computing), its *mark*. Nothing but a descendant of this process
is ever signalled; orphans are descendants as long as this process is a sub-reaper.
"""

from __future__ import annotations

import itertools
import os
import resource
import signal
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from shardwright.sandbox._linux import _pidfd
from shardwright.sandbox._linux._procfs import children, process_stat, read_text

_TOP = 1 << 62
_SPAN = 1 << 33
_ROUNDS = 50
_QUIET_ROUNDS = 2  # who is adopted while we look is seen by the next look
_numbers = itertools.count(1)


def new_mark() -> int | None:
    """A mark that no other sandbox of this process has; None where real-time computing is limited already.

    Beneath the mark of another process of ours, should this one run in a sandbox itself.
    """
    hard = resource.getrlimit(resource.RLIMIT_RTTIME)[1]
    top = _TOP if hard == resource.RLIM_INFINITY or hard > _TOP else hard - _SPAN
    return top - next(_numbers) if top > _SPAN else None


def mark(pid: int, number: int) -> bool:
    """Mark a process, and all that it starts from now on. False when it is gone or not permitted."""
    try:
        resource.prlimit(pid, resource.RLIMIT_RTTIME, (number, number))
    except OSError:
        return False
    return True


def mark_of(pid: int) -> int | None:
    """The mark of a process, be it another's; None when it has none, or is gone."""
    for line in (read_text(f"/proc/{pid}/limits") or "").splitlines():
        if line.startswith("Max realtime timeout"):
            hard = line.split()[4]
            return int(hard) if hard.isdecimal() else None
    return None


def below(pids: Iterable[int], spared: Collection[int] = ()) -> Iterator[int]:
    """These processes and their descendants, but for those ``spared`` and theirs."""
    todo, seen = list(pids), set(spared)
    while todo:
        pid = todo.pop()
        if pid not in seen:
            seen.add(pid)
            yield pid
            todo.extend(children(pid))


def end(find: Callable[[], Iterable[int]], belongs: Callable[[int], bool] = lambda pid: True) -> None:
    """SIGKILL to every descendant of this process that ``find`` names and ``belongs``, until no new one shows.

    Both are asked again and again. Does not wait for their end.
    """
    done: set[tuple[int, int]] = set()
    quiet = 0
    for _ in range(_ROUNDS):
        found = [pid for pid in find() if _end_one(pid, belongs, done)]
        quiet = 0 if found else quiet + 1
        if quiet == _QUIET_ROUNDS:
            return


def _end_one(pid: int, belongs: Callable[[int], bool], done: set[tuple[int, int]]) -> bool:
    stat = process_stat(pid)
    if stat is None or stat.state in "ZX" or (pid, stat.start_ticks) in done:
        return False
    descriptor = _pidfd.open_verified(pid, stat.start_ticks)
    if descriptor is None:
        return False
    try:
        # it has not ended after it was looked at: so that pid was its own all the time
        if not (belongs(pid) and _is_descendant(pid)) or _pidfd.has_ended(descriptor):
            return False
        done.add((pid, stat.start_ticks))
        return _pidfd.send(descriptor, signal.SIGKILL)
    except PermissionError:  # somebody else by now; nothing that we could do
        return False
    finally:
        os.close(descriptor)


def _is_descendant(pid: int) -> bool:
    own = os.getpid()
    while pid > 1:
        stat = process_stat(pid)
        if stat is None or pid == own:
            return False
        if stat.parent == own:
            return True
        pid = stat.parent
    return False


def end_descendants(timeout_s: float) -> bool:
    """End every descendant of this process and wait for them. False when some are left after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    own = os.getpid()
    while True:
        end(lambda: below(children(own)))
        left = False
        for pid in children(own):
            try:
                left |= os.waitpid(pid, os.WNOHANG)[0] == 0
            except ChildProcessError:
                continue
        if not left and not children(own):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)  # the end of a child's child tells nobody: asking again is the only way
