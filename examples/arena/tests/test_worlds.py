"""Moving about, and talking."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest
from arena.models import Action, NotEntered, NotInWorld, View
from arena.physics import World

from arena import ai, chat, game, maps, physics, render


@pytest.fixture
def world(name: Callable[[str], str]) -> str:
    return name("world")


@pytest.fixture
def player(world: str, name: Callable[[str], str]) -> Iterator[str]:
    player = name("ann")
    game.enter(player, world)
    yield player
    game.leave(player)


def test_a_push_moves(world: str) -> None:
    before = physics.join(world, "ann")
    moved = physics.move(world, "ann", 3.0, 0.0)
    assert moved.body.vx != 0.0 or moved.body.x != before.x
    assert physics.position(world, "ann") == moved.body
    assert [body.player for body in physics.snapshot(world)] == ["ann"]


def test_who_left_is_not_there(world: str) -> None:
    physics.join(world, "ann")
    physics.leave(world, "ann")
    with pytest.raises(NotInWorld, match="ann"):
        physics.position(world, "ann")


def test_a_world_of_ones_own(world: str) -> None:
    mine = World(world)
    column, row = maps.gate(world, "ann")
    mine.spawn("ann", column + 0.5, row + 0.5)
    assert mine.step(0.1) == 1
    assert set(mine.positions()) == {"ann"}
    assert "players=1" in repr(mine)


def test_a_player_sees_itself(player: str, world: str) -> None:
    view = game.look(player)
    assert isinstance(view, View)
    assert (view.player.name, view.world, view.score) == (player, world, game.FIRST_SCORE)


def test_nobody_plays_without_entering() -> None:
    with pytest.raises(NotEntered):
        game.look("nobody")


def test_walking_follows_the_way(player: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = game.look(player).here
    asked = []

    def route(ground: object, start: tuple[int, int], goal: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        asked.append((start, goal))
        return ()

    monkeypatch.setattr(ai, "route", route)
    assert game.act(player, Action.WALK, 3, 3).here.cell == here.cell
    assert asked == [(here.cell, (3, 3))]


def test_the_way_is_a_way(world: str) -> None:
    ground = maps.world_map(world)
    free = [(c, r) for r in range(ground.height) for c in range(ground.width) if ground.is_free((c, r))]
    way = ai.route(ground, free[0], free[-1])
    assert way[-1] == free[-1]
    assert all(ground.is_free(cell) for cell in way)


def test_the_map_is_a_picture(player: str, world: str) -> None:
    assert game.minimap(player).startswith(b"\x89PNG")
    assert render.minimap(maps.world_map(world), physics.snapshot(world)) != game.minimap(player)


def test_talk(player: str) -> None:
    async def talk() -> list[str]:
        await game.say(player, " hello ")
        return [message.text for message in await game.listen(player)]

    assert asyncio.run(talk()) == ["hello"]


def test_too_much_talk(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "LONGEST_TEXT", 3)
    with pytest.raises(ValueError, match="1 to 3"):
        asyncio.run(chat.post(world, "ann", "hello"))
