"""Large buffers in memory of their own: written once, sealed, handed over as a descriptor, and mapped by who gets it.

A *segment* is a memfd that is sealed against writing, shrinking, growing and further seals before it leaves its maker. So
nobody can change what the receiver reads, nor take it away under a mapping (reading it never ends in SIGBUS): it may be
looked at where it lies, also by one who does not trust the other side. The receiver checks all of that first.
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import stat

from shardwright.contracts.transport import Part
from shardwright.errors import ProtocolViolation

__all__ = ["SEALS", "Segment", "map_segment", "seal"]

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_NOEXEC = 0x0008  # MFD_NOEXEC_SEAL, since Linux 6.3


class Segment(mmap.mmap):
    """A private mapping of a segment: writable, and what is written stays here."""

    pristine: memoryview
    """The segment as it was sent: read-only, and unchanged by whatever is written into the mapping."""


def seal(part: Part) -> int:
    """The descriptor of a new segment that holds a copy of these bytes; the caller's to close.

    Raises OSError when memory or descriptors ran out, or the sandbox refuses memfds; nothing stays open then.
    """
    view = memoryview(part).cast("B")
    descriptor = _memfd()
    try:
        written = 0
        while written < len(view):
            written += os.write(descriptor, view[written:])
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_segment(descriptor: int, size: int) -> memoryview:
    """The bytes of a segment that a peer passed: writable memory that nobody else sees changes of. Uses the descriptor up.

    Raises ProtocolViolation when it is no sealed memory of exactly ``size`` bytes, OSError when it cannot be mapped.
    """
    try:
        _check(descriptor, size)
        segment = Segment(descriptor, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        segment.pristine = memoryview(mmap.mmap(descriptor, size, mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(descriptor)
    return memoryview(segment)


def _memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("shardwright-segment", flags | _NOEXEC)
    except OSError:
        return os.memfd_create("shardwright-segment", flags)  # an older kernel knows no such flag


@functools.cache
def _device() -> int:
    """Where this kernel keeps memfds of ordinary pages. Huge ones, which may fail when touched, are kept elsewhere."""
    descriptor = _memfd()
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)


def _check(descriptor: int, size: int) -> None:
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise ProtocolViolation("a segment that cannot carry seals") from None
    if seals & SEALS != SEALS:
        raise ProtocolViolation(f"a segment of seals {seals:#x}, which lacks {SEALS & ~seals:#x}")
    found = os.fstat(descriptor)  # after the seals: from here on nothing about it changes
    if not stat.S_ISREG(found.st_mode) or found.st_dev != _device():
        raise ProtocolViolation("a segment that is no memory of ordinary pages")
    if found.st_size != size or size <= 0:
        raise ProtocolViolation(f"a segment of {found.st_size} bytes, announced as {size}")
    if found.st_blocks * 512 < size:  # its pages would be made, and paid for, by who reads it
        raise ProtocolViolation("a segment with holes")
