"""numpy, when it is first needed: its import takes a tenth of a second, which the node's loop does not wait for."""

from __future__ import annotations

import asyncio
import importlib

_loaded = False


def loaded() -> bool:
    """Whether decisions over arrays can be taken at once."""
    return _loaded


async def load() -> None:
    """Import it on a thread; at once when that was done before. Raises ImportError."""
    global _loaded
    if not _loaded:
        await asyncio.get_running_loop().run_in_executor(None, _load)
        _loaded = True


def _load() -> None:
    for name in ("_limits", "_spares"):
        importlib.import_module(f"shardwright.controller.{name}")
