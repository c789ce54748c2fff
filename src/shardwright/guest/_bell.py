"""What wakes a sleeping thread."""

from __future__ import annotations

import threading

_LONGEST_WAIT_S = 1e9  # what a lock still accepts
_SIGNALS_S = 0.1  # as SW_SIGNALS_NS in transport/shm/_bell.h, which says why, for rings


def heeding_signals(thread: int, timeout_s: float | None) -> float | None:
    """For how long that thread may sleep in one go, which looks again when it wakes without a reason.

    A signal that comes when the main thread has let go of the interpreter, and does not sleep yet, ends no sleep: its
    handler would wait for whatever ends that.
    """
    if thread != threading.main_thread().ident or (timeout_s is not None and timeout_s <= _SIGNALS_S):
        return timeout_s
    return _SIGNALS_S


class Bell:
    """Wakes one thread. Rung while nobody waits, it wakes the next one that does; ringing twice is ringing once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout_s: float | None) -> bool:
        return self._lock.acquire(True, -1 if timeout_s is None else min(timeout_s, _LONGEST_WAIT_S))

    def ring(self) -> None:
        if self._lock.locked():
            try:
                self._lock.release()
            except RuntimeError:
                pass  # another was quicker
