"""Shardwright runs an unmodified Python application as isolated, pre-warmed, right-sized shards.

``plan``, ``start`` and ``astart`` are the public face. Components need nothing from here; they may ask for the
``time_left`` of the call that runs them, and whether it was ``cancelled``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwright.guest import cancelled, time_left
    from shardwright.node import astart, plan, start

__all__ = ["astart", "cancelled", "plan", "start", "time_left"]


def __getattr__(name: str) -> Any:
    # guests import this package too: they must not pay for the node
    if name in ("cancelled", "time_left"):
        from shardwright import guest

        return getattr(guest, name)
    if name in __all__:
        from shardwright import node

        return getattr(node, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
