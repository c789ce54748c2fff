"""What isolation ``auto`` comes to on this machine: as analysis judged, where walls can be had.

Where they cannot, or a component does not start behind them, it is a process, which is told once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from shardwright.model.ids import ComponentName
from shardwright.model.shard import PLAIN, WALLS, ShardDefinition, ShardPlan


def by_analysis(definition: ShardDefinition) -> str:
    """The isolation of a definition, on a machine that permits all."""
    if definition.isolation != "auto":
        return definition.isolation
    return definition.auto.isolation if definition.auto is not None else PLAIN


def wants_walls(plan: ShardPlan) -> bool:
    """Whether ``auto`` comes to walls anywhere."""
    return any(each.isolation == "auto" and by_analysis(each) == WALLS for each in plan.definitions)


class AutoIsolations:
    """Settles ``auto`` for one node. ``try_walls`` says why there are none, or nothing; it is asked once, and only if need be.

    ``never``: why ``auto`` is to be a process whatever analysis says; empty for no reason.
    """

    def __init__(self, try_walls: Callable[[], Awaitable[str]], tell: Callable[[str], None], never: str = "") -> None:
        self._try_walls = try_walls
        self._tell = tell
        self._trouble: str | None = never or None
        self._plain: set[ComponentName] = set()
        self._started: set[ComponentName] = set()

    def __repr__(self) -> str:
        return f"<AutoIsolations: {len(self._started)} behind walls>"

    async def settle(self, plan: ShardPlan) -> None:
        """To be awaited before shards of that plan are started."""
        if self._trouble is not None or not wants_walls(plan):
            return
        self._trouble = await self._try_walls()
        if self._trouble:
            self._tell(f"isolation auto is `process` for all: this machine permits no walls: {self._trouble}")

    def of(self, definition: ShardDefinition) -> str:
        found = by_analysis(definition)
        if definition.isolation != "auto" or found == PLAIN:
            return found
        return PLAIN if self._trouble or definition.component in self._plain else found

    def started(self, component: ComponentName) -> None:
        """It is importable behind what it has."""
        self._started.add(component)

    def give_up(self, definition: ShardDefinition, why: str) -> bool:
        """A component did not start; whether it is to be tried without walls, from now on."""
        name = definition.component
        if definition.isolation != "auto" or self.of(definition) == PLAIN or name in self._started:
            return False
        self._plain.add(name)
        self._tell(f"isolation auto of {name} is `process`: behind walls it did not start: {why}")
        return True
