"""Shared memory between two shards of one node: the part that needs the C extension.

A channel's memory is a *memfd* sealed at its size and handed over by SCM_RIGHTS. ``_channel`` says how channels are used.
The extension is optional: where it was not built, or the kernel refuses, ``available()`` is false, ``reason()`` says why
and what to do, and channels go over sockets.
"""

from __future__ import annotations

import functools
import importlib
import os
import platform
from typing import TYPE_CHECKING, Any

from shardwright.errors import ProtocolViolation, SandboxError

try:
    from shardwright.transport.shm import _ring
except ImportError as error:  # not built, or built for another interpreter
    _ring = None  # type: ignore[assignment]
    _import_failure = str(error) or "no reason given"
else:
    _import_failure = ""

if TYPE_CHECKING:
    from shardwright.transport.shm._channel import RingChannel
    from shardwright.transport.shm._transport import RingTransport

    Baton = _ring.Baton
    Desk = _ring.Desk
    Door = _ring.Door
    Doorbell = _ring.Doorbell
    Line = _ring.Line
    Outlet = _ring.Outlet
    Patience = _ring.Patience
    Waiter = _ring.Waiter
    BUSY = _ring.BUSY
    FULL = _ring.FULL
    READS = _ring.READS
    SENT = _ring.SENT
    TIMED_OUT = _ring.TIMED_OUT
    TOO_LARGE = _ring.TOO_LARGE
    WOKEN = _ring.WOKEN

WIDE_BYTES = 2**20
"""Of each way, where large values are what is sent: one of 1 MiB took 230 µs to its reader, and 320 with the usual 64 KiB."""

__all__ = [
    "BUSY",
    "FULL",
    "READS",
    "SENT",
    "TIMED_OUT",
    "TOO_LARGE",
    "WIDE_BYTES",
    "WOKEN",
    "Baton",
    "Desk",
    "Door",
    "Doorbell",
    "Line",
    "Outlet",
    "Patience",
    "RingChannel",
    "RingTransport",
    "Waiter",
    "available",
    "check_memfd",
    "create_memfd",
    "reason",
    "seals",
]
_OF_THE_EXTENSION = frozenset(__all__[: __all__.index("available")])

_REBUILD = "install a C compiler and Python's headers (Debian: gcc python3-dev), then reinstall shardwright from source"


def __getattr__(name: str) -> Any:
    """What needs the extension, imported when it is asked for: SandboxError where the extension is missing."""
    if name not in _OF_THE_EXTENSION:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _ring is None:
        raise SandboxError("shared memory is not available", remedy=reason())
    home = {"RingChannel": "_channel", "RingTransport": "_transport"}.get(name, "_ring")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)


def available() -> bool:
    """Whether shared-memory channels can be made by this process; never raises."""
    return not reason()


@functools.cache
def reason() -> str:
    """Why shared memory is not available, with the remedy; empty where it is. Asked of the kernel once."""
    if platform.system() != "Linux":
        return "shared-memory channels need Linux"
    if _import_failure:
        return f"the C extension was not built ({_import_failure}); {_REBUILD}"
    try:
        os.close(_ring.create_memfd("shardwright-probe", 1))
    except OSError as error:
        return f"the kernel refuses a sealed memfd ({error.strerror}); allow memfd_create and fcntl in the sandbox"
    return ""


def create_memfd(name: str, size_bytes: int) -> int:
    """Make a zeroed memory of exactly ``size_bytes`` and return its descriptor, which the caller owns.

    It is closed on exec and sealed: neither side can shrink or grow it, or add seals. ``name`` (at most 249
    bytes of UTF-8, no NUL) only shows in ``/proc``. Nothing stays open on failure.

    Raises ``ValueError`` for a size below 1 or a name with a NUL, ``SandboxError`` where the extension is
    missing, and ``OSError`` from the kernel (no descriptors or memory left, name too long).
    """
    if _ring is None:
        raise SandboxError("shared memory is not available", remedy=reason())
    return _ring.create_memfd(name, size_bytes)


def seals(fd: int) -> int:
    """The seals of ``fd`` as ``F_SEAL_*`` bits (see ``fcntl``); ``OSError`` where it cannot carry any."""
    if _ring is None:
        raise SandboxError("shared memory is not available", remedy=reason())
    return _ring.seals(fd)


def check_memfd(fd: int, size_bytes: int) -> None:
    """Verify a descriptor that a peer passed, before it is mapped.

    After return ``fd`` is known to be a readable and writable memory of exactly ``size_bytes`` that nobody can
    resize or seal further. ``fd`` stays open and the caller's in every case.

    Raises ``ProtocolViolation`` with what is wrong, ``SandboxError`` where the extension is missing, ``OSError``
    for a closed descriptor.
    """
    if _ring is None:
        raise SandboxError("shared memory is not available", remedy=reason())
    try:
        _ring.check_memfd(fd, size_bytes)
    except ValueError as error:
        raise ProtocolViolation(f"the peer's shared memory is refused: {error}") from error
