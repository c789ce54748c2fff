"""What a caller may use of this shard: the plan's edge says so, and the callee holds every caller to it.

The caller's own side is not believed, for its process may be in an enemy's hands: it can put any number of an entry point and
any name of an attribute into a message. An object behind a handle is open to whoever knows its number, which is random
and came with the handle: all methods of its class, and its public attributes.
"""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.endpoint import Peer
from shardwright.model.shard import ALL_PUBLIC, EntryPoint, ShardDefinition, ShardPlan


class Permits(Struct, frozen=True):
    """What one component may use of another. ``uses`` is None for the node itself, which may use everything."""

    uses: frozenset[str] | None

    def may_call(self, entry: EntryPoint, *, bound: bool = False) -> bool:
        """``bound``: on an object that the caller has a handle of."""
        if bound or self.may_read(entry.module, entry.qualname.partition(".")[0]):
            return True
        return self.uses is not None and f"{entry.module}:{entry.qualname}" in self.uses

    def may_read(self, module: str, name: str) -> bool:
        uses = self.uses
        if uses is None or f"{module}:{name}" in uses:
            return True
        return not name.startswith("_") and (f"{module}:*" in uses or ALL_PUBLIC in uses)

    def may_read_attribute(self, name: str) -> bool:
        """Of an object that the caller has a handle of."""
        return self.uses is None or not name.startswith("_") or f".{name}" in self.uses


def permits_of(plan: ShardPlan, definition: ShardDefinition, peer: Peer) -> Permits:
    """What the plan permits that peer. Who is no component of the plan speaks for the node, which vouched for it."""
    if str(peer.shard) == str(peer.component) or all(peer.component != each.component for each in plan.definitions):
        return Permits(None)
    edge = plan.edge(peer.component, definition.component)
    return Permits(frozenset(edge.uses if edge is not None else ()))
