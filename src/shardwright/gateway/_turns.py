"""An event loop that says when a turn is over: all that was ready has run, and it is about to wait.

What a turn gathered for a shard is sent there. A callback at the next turn could do so as well, but that is a turn more for
each message, with a system call of its own, and costs as much as all else that the gateway does for a small request.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any

__all__ = ["TurnLoop", "at_end_of_turn", "look_in_turns", "run_in_turns"]

Action = Callable[[], bool]
"""Done when a turn is over. Must not raise; True: it has scheduled something on the loop, which is not to wait now."""


class _TurnSelector(selectors.DefaultSelector):
    """A loop selects once a turn, when nothing is left to run."""

    def __init__(self) -> None:
        super().__init__()
        self.actions: list[Action] = []
        self.look: Action | None = None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        while self.actions:
            actions, self.actions = self.actions, []
            for action in actions:
                if action():
                    timeout = 0
        if self.look is not None and self.look():
            timeout = 0
            while self.actions:
                actions, self.actions = self.actions, []
                for action in actions:
                    action()
        return super().select(timeout)


class TurnLoop(asyncio.SelectorEventLoop):
    """asyncio's loop, and ``at_end``."""

    def __init__(self) -> None:
        self._turns = _TurnSelector()
        super().__init__(self._turns)

    def at_end(self, action: Action) -> None:
        """Do it when this turn is over, once. From the loop's own thread."""
        self._turns.actions.append(action)


def look_in_turns(loop: asyncio.AbstractEventLoop, look: Action | None) -> None:
    """At the end of each turn look whether something is there, if that loop can; None: no more."""
    if isinstance(loop, TurnLoop):
        loop._turns.look = look


def at_end_of_turn(loop: asyncio.AbstractEventLoop) -> Callable[[Action], Any]:
    """Where to hand actions in; on a loop of another kind they are done at its next turn."""
    return loop.at_end if isinstance(loop, TurnLoop) else loop.call_soon


def run_in_turns(main: Coroutine[Any, Any, None]) -> None:
    """``asyncio.run``, on such a loop."""
    with asyncio.Runner(loop_factory=TurnLoop) as runner:
        runner.run(main)
