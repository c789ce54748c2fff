"""The arena as an ordinary program."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import io
import os
import subprocess
import sys
from collections import deque
from collections.abc import Generator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "arena"


def drive(visit: Generator[tuple[str, tuple[Any, ...]], Any, dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Play a visit against the plain modules; its summary, and the calls that it made."""
    calls: list[str] = []
    name, arguments = next(visit)
    while True:
        calls.append(name)
        module, function = name.split(".")
        try:
            result = getattr(importlib.import_module(f"arena.{module}"), function)(*arguments)
            if inspect.iscoroutine(result):
                result = asyncio.run(result)
        except Exception as error:
            feed = visit.throw, error
        else:
            feed = visit.send, result
        try:
            name, arguments = feed[0](feed[1])
        except StopIteration as end:
            return end.value, calls


# -- accounts


def test_login_gives_a_token_that_verifies(arena: ModuleType) -> None:
    player = arena.auth.register("ann", "secret")
    assert arena.auth.verify(arena.auth.login("ann", "secret")) == player == arena.models.Player("ann", 1)


def test_refusals_say_who_and_why(arena: ModuleType) -> None:
    auth = arena.auth
    auth.register("ann", "secret")
    token = auth.login("ann", "secret")
    for call, reason in [
        (lambda: auth.register("ann", "other"), "taken"),
        (lambda: auth.login("ann", "wrong"), "password"),
        (lambda: auth.login("bob", "secret"), "unknown"),
        (lambda: auth.verify("nonsense"), "token"),
        (lambda: auth.verify(token[:-4] + "AAAA"), "token"),
    ]:
        with pytest.raises(auth.AuthError) as refused:
            call()
        assert refused.value.reason == reason
    auth._accounts.clear()
    with pytest.raises(auth.AuthError, match="ann: token"):
        auth.verify(token)


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, arena: ModuleType) -> None:
    monkeypatch.setenv("ARENA_JWT_KEY", "k" * 32)
    auth = importlib.reload(arena.auth)
    auth.register("ann", "secret")
    token = auth.login("ann", "secret")
    again = importlib.reload(arena.auth)
    again._accounts["ann"] = (arena.models.Player("ann", 1), "")
    assert again.verify(token).name == "ann"


# -- things


def test_reserve_takes_from_the_shop_or_takes_nothing(arena: ModuleType) -> None:
    inventory = arena.inventory
    arena.auth.register("ann", "secret")
    token = arena.auth.login("ann", "secret")
    assert inventory.reserve(token, "sword", 2) == 1
    with pytest.raises(arena.models.OutOfStock) as refused:
        inventory.reserve(token, "sword", 2)
    assert (refused.value.item, refused.value.wanted, refused.value.left) == ("sword", 2, 1)
    assert str(refused.value) == "2 x sword wanted, 1 left"
    assert (inventory.stock("sword"), inventory.list_items("ann")) == (1, {"sword": 2})
    with pytest.raises(arena.auth.AuthError):
        inventory.reserve("nonsense", "sword", 1)
    with pytest.raises(ValueError, match="at least 1"):
        inventory.reserve(token, "sword", -1)


def test_transfer_moves_and_keeps_the_sum(arena: ModuleType) -> None:
    inventory = arena.inventory
    inventory.grant("ann", "rope", 3)
    inventory.transfer("ann", "bob", "rope", 2)
    assert (inventory.list_items("ann"), inventory.list_items("bob")) == ({"rope": 1}, {"rope": 2})
    with pytest.raises(arena.models.OutOfStock):
        inventory.transfer("ann", "bob", "rope", 2)
    with pytest.raises(ValueError, match="at least 1"):
        inventory.transfer("ann", "bob", "rope", -1)
    assert (inventory.list_items("ann"), inventory.list_items("bob")) == ({"rope": 1}, {"rope": 2})


def test_inventory_lasts_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arena: ModuleType) -> None:
    monkeypatch.setenv("ARENA_INVENTORY", str(tmp_path / "things.db"))
    arena.inventory.grant("ann", "rope", 3)
    arena.inventory._connection.close()
    arena.inventory._connection = None
    assert arena.inventory.list_items("ann") == {"rope": 3}


def test_a_chest_opens_once_and_within_reach_only(arena: ModuleType) -> None:
    chest = arena.maps.world_map("w1").chests[0]
    world = arena.physics._world("w1")
    world.spawn("far", *_far_from(arena, chest))
    assert not arena.inventory.collect("w1", "far", chest)
    assert not arena.inventory.collect("w1", "nobody", chest)

    world.spawn("ann", chest.x, chest.y)
    assert arena.physics.move("w1", "ann", 0, 0).found == (chest,)
    assert arena.physics.move("w1", "ann", 0, 0).found == ()
    assert not arena.inventory.collect("w1", "ann", chest)
    assert arena.inventory.list_items("ann") == {chest.item: chest.count}


def _far_from(arena: ModuleType, chest: Any) -> tuple[float, float]:
    ground = arena.maps.world_map("w1")
    cells = [(c, r) for c in range(ground.width) for r in range(ground.height) if ground.is_free((c, r))]
    column, row = max(cells, key=lambda cell: abs(cell[0] - chest.x) + abs(cell[1] - chest.y))
    return column + 0.5, row + 0.5


# -- bodies


def test_players_move_within_their_world_only(arena: ModuleType) -> None:
    physics = arena.physics
    start = physics.join("w1", "ann")
    elsewhere = physics.join("w2", "ann")
    assert physics.join("w1", "ann") == start
    moved = physics.move("w1", "ann", 3.0, 0.0).body
    assert (moved.x, moved.y) != (start.x, start.y)
    assert physics.position("w2", "ann") == elsewhere
    physics.leave("w1", "ann")
    assert physics.snapshot("w1") == () and len(physics.snapshot("w2")) == 1
    with pytest.raises(arena.models.NotInWorld):
        physics.move("w1", "ann", 1.0, 0.0)


def test_walls_hold_whatever_the_push(arena: ModuleType) -> None:
    physics = arena.physics
    ground = arena.maps.world_map("w3")
    physics.join("w3", "ann")
    for dx, dy in [(1e9, 0), (0, 1e9), (-1e9, 0), (0, -1e9), (1e9, 1e9)] * 20:
        assert ground.is_free(physics.move("w3", "ann", dx, dy).body.cell)


def test_a_world_can_be_used_as_an_object(arena: ModuleType) -> None:
    world = arena.physics.World("w9")
    world.spawn("ann", 5.5, 5.5)
    before = world.positions()["ann"]
    body = world.push("ann", 2.0, 0.0)
    assert world.step(0.1) == 2
    assert world.positions()["ann"] != before
    assert world.position("ann").player == body.player
    assert repr(world) == "World('w9', players=1, ticks=2)"


def test_steered_players_move_while_frames_pass_and_find_what_is_there(arena: ModuleType) -> None:
    physics, chest = arena.physics, arena.maps.world_map("w1").chests[0]
    world = physics._world("w1")
    world.spawn("ann", chest.x, chest.y)
    assert physics.steer("w1", "ann", 0, 0).found == ()
    frame = physics.advance("w1", 1 / 15)
    assert frame.finders == ("ann",) and [body.player for body in frame.bodies] == ["ann"]
    assert physics.steer("w1", "ann", 0, 0).found == (chest,)
    assert physics.steer("w1", "ann", 0, 0).found == () == physics.advance("w1", 1 / 15).finders
    assert arena.inventory.emptied("w1", "ann") == (chest.name,)
    start = world.position("ann")
    for way in ((4.0, 0.0), (-4.0, 0.0), (0.0, 4.0), (0.0, -4.0)):
        physics.steer("w1", "ann", *way)
        for _ in range(15):
            here = physics.advance("w1", 1 / 15).bodies[0]
        if abs(here.x - start.x) + abs(here.y - start.y) > 0.5:
            break
    else:
        raise AssertionError("ann cannot move")
    physics.steer("w1", "ann", 0, 0)
    for _ in range(30):
        here = physics.advance("w1", 1 / 15).bodies[0]
    assert abs(here.vx) + abs(here.vy) < 0.01
    with pytest.raises(arena.models.NotInWorld):
        physics.steer("w1", "nobody", 0, 0)


def test_time_passes_once_in_a_live_world(arena: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(arena.physics, "time", SimpleNamespace(monotonic=lambda: now_s))
    physics = arena.physics
    physics.join("w1", "ann")
    physics.join("w1", "bob")
    physics.steer("w1", "bob", 0, 0)
    assert physics.advance("w1", 0.1).ticks == 1
    before = physics.position("w1", "ann")
    moved = physics.move("w1", "ann", 3.0, 0.0).body
    assert (moved.x, moved.y, moved.vx) == (before.x, before.y, 3.0)  # the next frame moves it
    assert physics.advance("w1", 0.1).ticks == 2
    now_s += physics.LIVE_S  # nobody watches any more
    physics.move("w1", "ann", 3.0, 0.0)
    assert physics.step("w1") == 4
    now_s += physics.ABSENT_S
    assert [body.player for body in physics.advance("w1", 0.1).bodies] == ["ann"]  # bob was not heard of


# -- ways and pictures


def test_every_free_cell_has_a_way_to_every_other(arena: ModuleType) -> None:
    for name in ("w1", "w2", "any other"):
        ground = arena.maps.world_map(name)
        cells = [(c, r) for r in range(ground.height) for c in range(ground.width) if ground.is_free((c, r))]
        start = cells[0]
        for goal in cells[1::7]:
            way = arena.ai.route(ground, start, goal)
            assert way[-1] == goal and len(way) == _shortest(ground, start)[goal]
            steps = zip((start, *way), way, strict=False)
            assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 and ground.is_free(b) for a, b in steps)


def _shortest(ground: Any, start: tuple[int, int]) -> dict[tuple[int, int], int]:
    lengths, edge = {start: 0}, deque([start])
    while edge:
        column, row = cell = edge.popleft()
        for other in ((column + 1, row), (column - 1, row), (column, row + 1), (column, row - 1)):
            if ground.is_free(other) and other not in lengths:
                lengths[other] = lengths[cell] + 1
                edge.append(other)
    return lengths


def test_no_way_into_a_wall(arena: ModuleType) -> None:
    ground = arena.maps.world_map("w1")
    assert arena.ai.route(ground, (5, 5), (0, 0)) == ()
    assert arena.ai.route(ground, (5, 5), (5, 5)) == ()


def test_minimap_is_a_picture_of_the_world(arena: ModuleType) -> None:
    ground = arena.maps.world_map("w1")
    body = arena.models.Body("ann", 5.5, 5.5)
    png = arena.render.minimap(ground, (body,), "ann")
    assert png == arena.render.minimap(ground, (body,), "ann") != arena.render.minimap(ground, ())
    picture = Image.open(io.BytesIO(png))
    assert picture.size == (64, 64) and picture.getpixel((0, 0)) == arena.render.WALL


# -- talk


def test_listeners_wait_for_the_next_message(arena: ModuleType) -> None:
    chat = arena.chat

    async def talk() -> None:
        assert await chat.recent("w1") == ()
        waiting = asyncio.create_task(chat.wait("w1", after=0, timeout_s=30))
        while not chat._waiting:
            await asyncio.sleep(0)
        message = await chat.post("w1", "ann", " hello ")
        assert await waiting == (message,) == await chat.recent("w1")
        assert (message.number, message.text) == (1, "hello")
        assert await chat.wait("w1", after=1, timeout_s=0) == ()
        assert await chat.recent("w2") == ()
        with pytest.raises(ValueError, match="characters"):
            await chat.post("w1", "ann", "x" * 201)

    asyncio.run(talk())
    assert chat._waiting.get("w1", []) == []


# -- the game


def test_a_player_enters_acts_and_leaves(arena: ModuleType) -> None:
    game, models = arena.game, arena.models
    view = game.enter("ann", "w1")
    assert (view.player.name, view.world, view.score, view.items, view.others) == ("ann", "w1", 20, {}, ())
    game.enter("bob", "w1")
    assert [body.player for body in game.look("ann").others] == ["bob"]
    assert game.act("ann", "buy", "apple", 2).items == {"apple": 2}
    assert game.act("ann", models.Action.GIVE, "bob", "apple", 1).score == 18
    assert game.look("bob").items == {"apple": 1}
    with pytest.raises(models.TooPoor):
        game.act("ann", "buy", "sword", 2)
    with pytest.raises(models.OutOfStock):
        game.act("ann", "buy", "lantern", 1)
    assert game.look("ann").score == 18
    for action, details in [("fly", ()), ("move", ("up",)), ("buy", ("apple", -1))]:
        with pytest.raises(ValueError):
            game.act("ann", action, *details)
    assert game.enter("ann", "w2").others == ()
    assert game.look("bob").others == ()
    assert game.leave("ann") == 18
    with pytest.raises(models.NotEntered):
        game.look("ann")


def test_walking_arrives(arena: ModuleType) -> None:
    game = arena.game
    here = game.enter("ann", "w1").here
    chest = arena.maps.world_map("w1").chests[1]
    goal = (int(chest.x), int(chest.y))
    found = []
    for _ in range(400):
        view = game.act("ann", "walk", *goal)
        found += view.found
        if view.here.cell == goal:
            break
    assert view.here.cell == goal != here.cell
    assert chest in found and view.score == 20 + 5 * len(found)


def test_a_name_belongs_to_its_password(arena: ModuleType) -> None:
    arena.game.enter("ann", "w1", "secret")
    with pytest.raises(arena.auth.AuthError, match="ann: password"):
        arena.game.enter("ann", "w1", "guess")


def test_players_hear_each_other_once(arena: ModuleType) -> None:
    game = arena.game
    game.enter("ann", "w1")
    game.enter("bob", "w1")

    async def talk() -> None:
        said = await game.say("ann", "hello")
        assert await game.listen("bob") == (said,)
        assert await game.listen("bob") == ()

    asyncio.run(talk())


def test_a_seat_outlives_the_parts_behind_it(arena: ModuleType) -> None:
    game = arena.game
    game.enter("ann", "w1")
    arena.auth._accounts.clear()
    arena.physics._worlds.clear()
    assert game.act("ann", "move", 1, 1).player.name == "ann"
    arena.physics._worlds.clear()
    assert game.look("ann").here == arena.physics.position("w1", "ann")


# -- visitors and the match


def test_visitors_play_without_trouble(arena: ModuleType) -> None:
    calls: set[str] = set()
    refused: set[str] = set()
    found = 0
    for number in range(12):
        summary, made = drive(arena.visitors.visit(f"player-{number}", rounds=80))
        assert summary["trouble"] == {} and summary["calls"] == len(made) == 82
        assert (made[0], made[-1]) == ("game.enter", "game.leave")
        calls.update(made)
        refused.update(summary["refused"])
        found += sum(summary["items"].values())
    assert calls == set(arena.tools.CALLS)
    assert {"OutOfStock", "TooPoor"} <= refused
    assert found > 0
    assert arena.physics._opened  # somebody met a chest: physics and inventory called each other


def test_a_visitor_comes_in_again_and_counts_trouble(arena: ModuleType) -> None:
    visit = arena.visitors.visit("ann", rounds=3)
    assert next(visit) == ("game.enter", ("ann", visit.gi_frame.f_locals["world"]))
    view = arena.game.enter("ann", "w1")
    assert visit.send(view)[0] != "game.enter"
    assert visit.throw(arena.models.NotEntered("ann"))[0] == "game.enter"
    assert visit.throw(ConnectionError("gone"))[0] == "game.enter"
    assert visit.send(view) == ("game.leave", ("ann",))
    with pytest.raises(StopIteration) as end:
        visit.send(7)
    summary = end.value.value
    assert (summary["score"], summary["refused"], summary["trouble"]) == (
        7,
        {"NotEntered": 1},
        {"ConnectionError": 1},
    )


def test_a_match_is_the_same_every_time(arena: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert arena.tools.main(["--players", "4", "--rounds", "40"]) == 0
    here = capsys.readouterr().out
    command = [sys.executable, "-m", "arena", "--players", "4", "--rounds", "40"]
    environment = {"PYTHONHASHSEED": "7", "PATH": os.defpath}
    done = subprocess.run(command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", here)
    assert "4 players, 168 calls, sha256 " in here


def test_a_match_needs_players(arena: ModuleType) -> None:
    with pytest.raises(SystemExit) as stopped:
        arena.tools.main(["--players", "0"])
    assert stopped.value.code == 2
