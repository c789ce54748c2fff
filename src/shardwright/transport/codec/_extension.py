"""The C extension, if it was built for this interpreter; None where it was not, and then Python does its work."""

from __future__ import annotations

from types import ModuleType

native: ModuleType | None
try:
    from shardwright.transport.codec import _native
except ImportError:
    native = None
else:
    native = _native

__all__ = ["native"]
