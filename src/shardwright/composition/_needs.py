"""Which components a session needs before its first call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from shardwright.composition._values import Need
from shardwright.model.ids import ComponentName
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import ShardPlan


def needs_of(
    plan: ShardPlan, entry_components: Iterable[str], keys: Mapping[str, str] | None = None
) -> tuple[Need, ...]:
    """What a session that calls ``entry_components`` needs: everything reachable from them, in the plan's order.

    Shared and session-scoped components always; a keyed one when ``keys`` gives its key (otherwise the key is known at
    the call alone, and ``Composer.acquire`` binds it then); request-scoped ones never, they are taken per call. Cycles
    are fine. Raises KeyError for a component that the plan does not have.
    """
    keys = keys or {}
    reached: set[ComponentName] = set()
    for name in entry_components:
        reached |= plan.closure(plan.definition(name).component)
    needs = []
    for definition in plan.definitions:
        name, kind = definition.component, definition.scope.kind
        if name not in reached or kind is ScopeKind.REQUEST:
            continue
        if kind is not ScopeKind.KEY:
            needs.append(Need(name))
        elif name in keys:
            needs.append(Need(name, keys[name]))
    return tuple(needs)
