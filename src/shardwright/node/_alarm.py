"""A timer of the kernel's that any thread sets in a microsecond, and that rouses an event loop when it is over.

To call ``loop.call_soon_threadsafe`` rouses the loop at once: it would then fight with the calling thread for the interpreter,
just while that has something better to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
from collections.abc import Callable

_CLOEXEC, _NONBLOCK, _MONOTONIC = os.O_CLOEXEC, os.O_NONBLOCK, 1


class _Setting(ctypes.Structure):
    """``struct itimerspec``."""

    _fields_ = (
        ("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long),
    )  # fmt: skip


class Alarm:
    """Calls ``ring`` on the loop ``delay_s`` after the latest ``set``. To be made on the loop. Raises OSError."""

    def __init__(self, ring: Callable[[], None], delay_s: float) -> None:
        libc = ctypes.PyDLL(None, use_errno=True)  # it never waits: the interpreter is kept
        descriptor = libc.timerfd_create(_MONOTONIC, _CLOEXEC | _NONBLOCK)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._descriptor: int | None = descriptor
        self.delay_ns = max(1, int(delay_s * 1e9))
        self._setting = ctypes.byref(_Setting(0, 0, *divmod(self.delay_ns, 10**9)))
        self._set = libc.timerfd_settime
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._due)

    def __repr__(self) -> str:
        return f"<Alarm {'closed' if self._descriptor is None else self._descriptor}>"

    @property
    def descriptor(self) -> int:
        """The timer, for who sets it without us; -1 once it is closed."""
        return -1 if self._descriptor is None else self._descriptor

    def set(self) -> None:
        """From any thread, but not while another closes it."""
        if self._descriptor is not None:
            self._set(self._descriptor, 0, self._setting, None)

    def close(self) -> None:
        """On the loop. Idempotent."""
        if self._descriptor is not None:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = None

    def _due(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(BlockingIOError):  # it was set anew meanwhile
                os.read(self._descriptor, 8)
                self._ring()
