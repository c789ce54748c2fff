"""pidfds: descriptors that name a process for good, however pids are used again."""

from __future__ import annotations

import os
import select
import signal

from shardwright.sandbox._linux._procfs import process_stat


def open_verified(pid: int, start_ticks: int) -> int | None:
    """A pidfd of that very process; None when it has ended, or the pid belongs to a later one.

    The start time is read after the pidfd was opened: should the pid be used again in between, the times differ.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    stat = process_stat(pid)
    if stat is None or stat.start_ticks != start_ticks or stat.state in "ZX":
        os.close(descriptor)
        return None
    return descriptor


def has_ended(descriptor: int, timeout_s: float = 0.0) -> bool:
    """Whether the process has ended (it may still await being waited for). Waits at most ``timeout_s``."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def send(descriptor: int, number: signal.Signals) -> bool:
    """Signal the process; False when it is gone. Raises PermissionError."""
    try:
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    return True


def exit_status(descriptor: int, *, reap: bool) -> int | None:
    """Exit status, or minus the signal; None while it runs, or when it is not our child.

    Without ``reap`` an ended child stays a zombie, so that its pid and its process group keep their meaning.
    """
    options = os.WEXITED | os.WNOHANG | (0 if reap else os.WNOWAIT)
    try:
        result = os.waitid(os.P_PIDFD, descriptor, options)
    except ChildProcessError:
        return None
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status
