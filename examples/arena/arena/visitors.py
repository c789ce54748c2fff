"""Scripted visitors for demonstrations and load.

``visit`` knows neither where the game runs nor how fast: it names calls and is sent their results.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Generator
from typing import Any

from arena.models import Action, ArenaError, NotEntered, View

WORLDS = ("w1", "w2", "w3", "w4", "w5")

Call = tuple[str, tuple[Any, ...]]  # "game.look", ("player-7",)
_Choice = tuple[str, tuple[Any, ...], int]  # call, details, how often among the sum of all

_CHOICES: tuple[_Choice, ...] = (
    ("game.act", (Action.MOVE,), 45),
    ("game.look", (), 20),
    ("game.act", (Action.WALK,), 15),
    ("game.act", (Action.BUY, "apple", 1), 6),
    ("game.act", (Action.BUY, "sword", 100), 1),  # more than the score pays for, ever
    ("game.act", (Action.BUY, "lantern", 1), 2),  # out of stock, always
    ("game.act", (Action.GIVE,), 2),
    ("game.say", ("hello",), 3),
    ("game.listen", (), 3),
    ("game.minimap", (), 3),
)


def visit(player: str, rounds: int) -> Generator[Call, Any, dict[str, Any]]:
    """Enter, play ``rounds`` calls, leave. Yields a call; wants its result by ``send``, or its exception by ``throw``.

    The same player plays the same calls against the same answers. Refusals by the rules (ArenaError) are part of the
    game and counted in ``refused``; any other exception counts in ``trouble``, by the name of its type, and the visitor
    goes on. Returns ``{"player", "world", "calls", "score", "items", "refused", "trouble"}``.
    """
    chance = random.Random(f"arena visitor {player}")
    world = WORLDS[zlib.crc32(player.encode()) % len(WORLDS)]
    refused: Counter[str] = Counter()
    trouble: Counter[str] = Counter()
    score, items = 0, {}
    goal = (10, 10)
    inside = False
    for turn in range(rounds + 2):
        if turn == rounds + 1:
            call: Call = ("game.leave", (player,))
        elif not inside:
            call = ("game.enter", (player, world))
        else:
            call = _next_call(chance, player, goal)
        try:
            result = yield call
        except ArenaError as error:
            refused[type(error).__name__] += 1
            inside = inside and not isinstance(error, NotEntered)  # the game forgot us: come in again
        except Exception as error:
            trouble[type(error).__name__] += 1
        else:
            inside = True
            if call[0] == "game.leave":
                score = result
            elif isinstance(result, View):
                score, items = result.score, result.items
                if result.here.cell == goal or chance.random() < 0.1:
                    goal = (chance.randrange(1, 19), chance.randrange(1, 19))
    return {
        "player": player,
        "world": world,
        "calls": rounds + 2,
        "score": score,
        "items": items,
        "refused": dict(sorted(refused.items())),
        "trouble": dict(sorted(trouble.items())),
    }


def _next_call(chance: random.Random, player: str, goal: tuple[int, int]) -> Call:
    (name, details, _weight) = chance.choices(_CHOICES, weights=[weight for *_, weight in _CHOICES])[0]
    if details == (Action.MOVE,):
        details = (*details, round(chance.uniform(-8, 8), 2), round(chance.uniform(-8, 8), 2))
    elif details == (Action.WALK,):
        details = (*details, *goal)
    elif details == (Action.GIVE,):
        details = (*details, "the keeper", "apple", 1)
    return name, (player, *details)
