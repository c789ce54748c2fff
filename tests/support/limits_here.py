"""Whether this machine lets us enforce limits; a test of them cannot run where it does not."""

from __future__ import annotations

import pytest

from shardwright.sandbox.process import ProcessBackend

__all__ = ["limits_permitted", "need_limits"]


def limits_permitted() -> bool:
    """Whether control groups are (not those of an ordinary user without delegation)."""
    backend = ProcessBackend()
    try:
        return {"cpu", "memory"} <= set(backend.capabilities().enforces)
    finally:
        backend.close()


def need_limits() -> None:
    """Skip the test where control groups are not permitted (an ordinary user without delegation)."""
    backend = ProcessBackend()
    try:
        if not {"cpu", "memory"} <= set(backend.capabilities().enforces):
            pytest.skip(f"control groups are not permitted here: {backend.reason}")
    finally:
        backend.close()
