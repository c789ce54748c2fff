"""The command line: a scripted match, played here and now."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from arena import game, visitors

CALLS: dict[str, Callable[..., Any]] = {
    "game.enter": game.enter,
    "game.act": game.act,
    "game.look": game.look,
    "game.minimap": game.minimap,
    "game.say": game.say,
    "game.listen": game.listen,
    "game.leave": game.leave,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Play a match and print how it ended; the exit status is 1 if a visitor met trouble, else 0."""
    parser = argparse.ArgumentParser(prog="arena", description="Play a scripted match.")
    parser.add_argument("--players", type=int, default=6, metavar="N", help="visitors (default: 6)")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="calls of each (default: 60)")
    options = parser.parse_args(argv)
    if min(options.players, options.rounds) < 1:
        parser.error("--players and --rounds must be at least 1")
    results = play([f"player-{number}" for number in range(1, options.players + 1)], options.rounds)
    for result in sorted(results, key=lambda result: (-result["score"], result["player"])):
        items = ", ".join(f"{count} {item}" for item, count in result["items"].items()) or "nothing"
        print(f"{result['player']:<12} {result['world']:<4} score {result['score']:>4}   owns {items}")
    digest = hashlib.sha256(repr(results).encode()).hexdigest()
    print(f"{len(results)} players, {sum(result['calls'] for result in results)} calls, sha256 {digest}")
    return 1 if any(result["trouble"] for result in results) else 0


def play(players: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Let the players play against each other, one call each in turn; their summaries, in the order given."""
    results: dict[str, dict[str, Any]] = {}
    visits = {player: visitors.visit(player, rounds) for player in players}
    answers: dict[str, tuple[bool, Any]] = dict.fromkeys(players, (True, None))
    with asyncio.Runner() as runner:
        while visits:
            for player, visit in list(visits.items()):
                worked, answer = answers[player]
                try:
                    name, arguments = visit.send(answer) if worked else visit.throw(answer)
                except StopIteration as end:
                    results[player] = end.value
                    del visits[player]
                    continue
                answers[player] = _call(runner, name, arguments)
    return [results[player] for player in players]


def _call(runner: asyncio.Runner, name: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        result = CALLS[name](*arguments)
        return True, runner.run(_finish(result)) if inspect.isawaitable(result) else result
    except Exception as error:  # whatever it is, it is the visitor's to judge
        return False, error


async def _finish(result: Awaitable[Any]) -> Any:
    return await result
