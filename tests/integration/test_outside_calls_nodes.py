"""Code that runs outside any call, in real nodes: objects that call as they go, threads, background tasks, half lines."""

from __future__ import annotations

from pathlib import Path

import pytest

import shardwright
from guest_apps import running, write_application
from waiting import eventually

BOTH = pytest.mark.parametrize("inproc", [False, True], ids=["process", "inproc"])
MANIFEST = """
[app]
name = "outside"
[components.a]
code = "a"
scope = "session"
[components.b]
code = "b"
scope = "session"
state = "memory"
[components.maker]
code = "maker"
state = "memory"
[components.world]
code = "world"
scope = "key:k"
state = "memory"
"""
FILES = {
    "a": """
from concurrent.futures import ThreadPoolExecutor

import b


def counts():
    found = [b.bump()]
    with ThreadPoolExecutor(1) as pool:
        found.append(pool.submit(b.bump).result())
        found.append(pool.submit(b.bump).result())
    return [*found, b.bump()]
""",
    "b": """
n = 0


def bump():
    global n
    n += 1
    return n
""",
    "maker": """
import asyncio

import witness
import world

seen = []
task = None


class Box:
    def __init__(self, n):
        self.n = n

    def __del__(self):
        witness.gone(self.n)


async def background():
    while True:
        try:
            seen.append(await world.step(k="x"))
        except Exception as error:
            seen.append(f"{type(error).__name__}: {error}")
        await asyncio.sleep(0.02)


async def begin():
    global task
    task = asyncio.create_task(background())


async def end():
    task.cancel()


def latest():
    return seen[-1] if seen else 0


def half(text, end):
    print(text, end=end)


def use():
    return 1
""",
    "world": "n = 0\n\n\nasync def step(k):\n    global n\n    n += 1\n    return n\n",
    "witness": """
import maker

seen = []


def gone(n):
    seen.append(n)


def work():
    box = maker.Box(4)
    del box
    return maker.use()


def saw():
    return list(seen)
""",
}
MANIFEST += '[components.witness]\ncode = "witness"\nstate = "memory"\n'


@BOTH
def test_objects_threads_and_tasks(tmp_path: Path, inproc: bool) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, **FILES)
    with shardwright.start(folder, state=folder / ".state", inproc=inproc) as node:
        first = node.session("one")
        assert first.call("a.counts") == [1, 2, 3, 4]
        assert first.with_timeout(10).call("witness.work") == 1
        assert eventually(lambda: first.call("witness.saw") == [4])
        first.with_timeout(5).call("maker.begin")
        assert eventually(lambda: bool(first.call("maker.latest")))
        first.end()
        with node.session("two") as second:
            at = second.call("maker.latest")
            assert isinstance(at, int)
            # it goes on, for the shard itself; the world that the first session held may have begun anew
            assert eventually(lambda: isinstance(now := second.call("maker.latest"), int) and now > at)
            second.call("maker.end")


def test_what_a_call_prints_without_a_newline_is_its_own(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, **FILES)
    with running(folder) as node, node.session("one") as first, node.session("two") as second:
        first.call("maker.half", "begun by one", "")
        second.call("maker.half", "said by two", "\n")

        def lines() -> list[tuple[str, str, bool]]:
            found = node.running.core.logs.since()
            return [(line.session, line.text, line.partial) for line in found if " by " in line.text]

        assert eventually(lambda: len(lines()) == 2)
        assert lines() == [("one", "begun by one", True), ("two", "said by two", False)]
