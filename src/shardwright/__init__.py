"""Shardwright runs an unmodified Python application as isolated, pre-warmed, right-sized shards.

``plan``, ``start`` and ``astart`` are the public face; components themselves import nothing from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwright.node import astart, plan, start

__all__ = ["astart", "plan", "start"]


def __getattr__(name: str) -> Any:
    # guests import this package too: they must not pay for the node
    if name in __all__:
        from shardwright import node

        return getattr(node, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
