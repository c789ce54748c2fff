"""The keeper's guard: the process above it, which ends what a keeper that was killed leaves behind.

The kernel kills templates and shards with their keeper, but not what user code started from them in sessions of its own,
and where no control groups are permitted nobody could find those again. Orphans come to the nearest sub-reaper above:
so the keeper is forked from a process that is one, holds nothing, and does nothing but wait. Either ends with the other:
the guard when it has waited for the keeper, the keeper when the pipe from its guard closes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Collection

from shardwright.sandbox import become_subreaper
from shardwright.sandbox.process import end_descendants

__all__ = ["guarded"]

END_S = 5.0


def guarded(given_up: Collection[int]) -> int:
    """Fork; returns in the child, which is the keeper, a descriptor that polls readable when the guard has ended.

    The guard closes the descriptors ``given_up``, so that only the keeper's end is seen through them, and never returns.
    To be called while the process has one thread. Raises OSError when it cannot fork.
    """
    become_subreaper()
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        become_subreaper()  # that does not pass on
        return reader
    os.close(reader)
    for descriptor in given_up:
        os.close(descriptor)
    status = _wait(pid)
    with contextlib.suppress(OSError):  # then there is nobody left who could
        end_descendants(END_S)
    if status < 0:  # as the keeper ended, for whoever waits for us
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.stderr.flush()
    os._exit(status if status >= 0 else 128 - status)


def _wait(pid: int) -> int:
    """The exit status of the keeper. Orphans that come to us meanwhile are only reaped: the keeper ends them itself."""
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == pid:
            return os.waitstatus_to_exitcode(status)
