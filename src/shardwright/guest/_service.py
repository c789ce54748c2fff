"""The mark on threads that others wait for: the hub, the control thread, the node's loop.

User code may come to run on them unasked, as a ``__del__`` that the garbage collector runs wherever it happens to run.
If it called another shard there, the thread that should bring the reply would wait for it.
"""

from __future__ import annotations

import threading


class _Mark(threading.local):
    work = ""


_mark = _Mark()


def serves(work: str) -> None:
    """From now on the calling thread does ``work``, for which others wait; it must never wait for another shard."""
    _mark.work = work


def service_of_this_thread() -> str:
    """What the calling thread does for others; empty for a thread that may wait."""
    return _mark.work
