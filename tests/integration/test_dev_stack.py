"""What every thread and task of a shard does, told while it does it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright as public
from cli_apps import shardwright, write_app
from dev_terminals import api_path, begin
from shardwright.node import ApiClient, Node, Refused

MANIFEST = """
[app]
name = "looked-at"
[components.desk]
code = "desk"
[components.other]
code = "other"
"""
DESK = """\
import asyncio
import re
import threading

held = threading.Event()


def spins(turns):
    n = 0
    while not held.is_set() and n < turns:
        n += 1
    return n


def ends():
    held.set()


def blocks(seconds):
    return held.wait(seconds)


def keeps_the_interpreter(length):
    return re.match(r"(a+)+$", "a" * length + "b")


def sleeps_in_a_thread_called(name):
    space = {"held": held}
    exec("def sleeper():\\n    held.wait(30)", space)
    threading.Thread(target=space["sleeper"], name=name, daemon=True).start()


async def outer(seconds):
    return await inner(seconds)


async def inner(seconds):
    await asyncio.sleep(seconds)
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    app = write_app(tmp_path / "app", MANIFEST, desk=DESK, other="def nothing():\n    return None\n")
    with public.start(app, state=tmp_path / "state") as node:
        yield node


def look(node: Node, shard: str) -> list[dict[str, Any]]:
    with ApiClient(api_path(node)) as client:
        found: list[dict[str, Any]] = client.ask("stack", shard=shard)["shards"]
    return found


def until_seen(node: Node, function: str, kind: str = "threads") -> dict[str, Any]:
    """The stacks of desk as soon as that function is on one; and that stack under ``seen``."""
    for _ in range(500):
        (found,) = look(node, "desk")
        for one in found[kind]:
            if any(frame["function"] == function for frame in one["frames"]):
                return {**found, "seen": one}
    raise AssertionError(f"{function} is on no stack")


def test_a_loop_that_never_lets_go_is_seen_in_the_act(node: Node) -> None:
    with node.session() as session:
        call = begin(session.call, "desk.spins", 10**12)
        found = until_seen(node, "spins")
        assert found["way"] == "frames" and not found["note"]
        last = next(frame for frame in found["seen"]["frames"] if frame["function"] == "spins")
        assert last["file"].endswith("desk.py") and last["line"] in (10, 11) and not last["ours"]
        assert last["source"] in ("while not held.is_set() and n < turns:", "n += 1")
        assert "baton" in found["seen"]["says"]
        assert any(frame["ours"] for frame in found["seen"]["frames"])
        assert not call.done()
        begin(node.close)  # it never ends by itself
        with pytest.raises(public.errors.ShardwrightError):
            call.result(30)


def test_a_blocked_thread_and_a_waiting_task_are_seen(node: Node) -> None:
    with node.session() as session:
        waits = begin(session.call, "desk.outer", 0.8)
        task = until_seen(node, "inner", "tasks")["seen"]
        functions = [frame["function"] for frame in task["frames"] if frame["file"].endswith("desk.py")]
        assert functions == ["outer", "inner"] and task["says"] == "it waits"
        assert task["frames"][-1]["source"] == "return await future"
        waits.result(20)
        blocked = begin(session.call, "desk.blocks", 0.8)
        found = until_seen(node, "blocks")
        assert any(frame["function"].endswith("wait") for frame in found["seen"]["frames"])
        assert blocked.result(20) is False


def test_what_keeps_the_interpreter_in_c_is_found_by_signal(node: Node) -> None:
    with node.session() as session:
        call = begin(session.call, "desk.keeps_the_interpreter", 28)
        for _ in range(20):
            (found,) = look(node, "desk")
            if found["way"] == "signal" or call.done():
                break
        assert found["way"] == "signal", "the call was over too soon"
        assert "interpreter" in found["note"]
        frames = [frame for thread in found["threads"] for frame in thread["frames"]]
        assert any(frame["function"] == "keeps_the_interpreter" for frame in frames)
        assert any(frame["source"].startswith('return re.match(r"(a+)+$"') for frame in frames)
        assert call.result(60) is None  # the signal did it no harm
        assert look(node, "desk")[0]["way"] == "frames"


def test_code_without_a_file_is_shown_and_no_name_makes_lines(tmp_path: Path, node: Node) -> None:
    with node.session() as session:
        session.call("desk.sleeps_in_a_thread_called", "mine\nthread of somebody else")
        shown = shardwright(tmp_path, "stack", "desk", "--app", "looked-at").stdout.splitlines()
        session.call("desk.ends")
    assert any(line.startswith("  thread mine\\u000athread of somebody else") for line in shown), shown
    assert any(line.endswith('File "<string>", line 2, in sleeper') for line in shown), shown


def test_the_command_shows_the_users_frames_and_all_as_json(
    tmp_path: Path,
    node: Node,
) -> None:
    with node.session() as session:
        call = begin(session.call, "desk.blocks", 30)
        until_seen(node, "blocks")
        shown = shardwright(tmp_path, "stack", "desk", "--app", "looked-at")
        assert shown.returncode == 0, shown.stderr
        lines = shown.stdout.splitlines()
        place = next(i for i, line in enumerate(lines) if line.rstrip().endswith('desk.py", line 20, in blocks'))
        assert lines[place + 1].strip() == "return held.wait(seconds)"
        assert "_incoming.py" not in shown.stdout and "frames of Shardwright" in shown.stdout
        full = shardwright(tmp_path, "stack", "desk", "--full", "--app", "looked-at")
        assert "_incoming.py" in full.stdout
        everything = shardwright(tmp_path, "stack", "--all", "--json", "--app", "looked-at")
        shards = json.loads(everything.stdout)["shards"]
        assert {shard["component"] for shard in shards} == {"desk", "other"}
        assert shardwright(tmp_path, "stack", "--app", "looked-at").returncode == 2
        assert shardwright(tmp_path, "stack", "dask", "--app", "looked-at").returncode == 2
        assert not call.done()
        begin(node.close)
        with pytest.raises(public.errors.ShardwrightError):
            call.result(30)


def test_in_one_process_it_works_as_well(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", MANIFEST, desk=DESK, other="def nothing():\n    return None\n")
    with public.start(app, inproc=True, state=tmp_path / "state") as node, node.session() as session:
        call = begin(session.call, "desk.blocks", 0.8)
        until_seen(node, "blocks")
        call.result(20)
        with pytest.raises(Refused, match="one process"), ApiClient(api_path(node)) as client:
            client.terminal("attach", shard="desk")
