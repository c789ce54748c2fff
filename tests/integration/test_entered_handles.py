"""``with`` an object that another component holds: it learns how the block ended, and decides, as in plain Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli_apps import environment, shardwright, write_app

MANIFEST = """
[app]
name = "doors"
main = "front:main"
[components.doors]
code = "doors"
"""
DOORS = """
class Creak(Exception):
    pass
class Door:
    def __init__(self, forgives=False):
        self.forgives = forgives
        self.seen = []
    def __enter__(self):
        self.seen.append("in")
        return self
    def __exit__(self, kind, error, trace):
        self.seen.append((kind.__name__ if kind else None, str(error)))
        return self.forgives
    async def __aenter__(self):
        return self.__enter__()
    async def __aexit__(self, kind, error, trace):
        return self.__exit__(kind, error, trace)
    def told(self):
        return self.seen
FRONT_DOOR = Door(forgives=True)
"""
FRONT = """
import asyncio
import doors
from doors import FRONT_DOOR, Creak, Door
class Mine(Exception):
    pass
async def walk(door, error):
    async with door:
        if error:
            raise error
    return "through"
def run(door, error):
    with door as same:
        assert same is door
        if error:
            raise error
    return "through"
def main():
    for error in (None, KeyError("k"), Creak("loud"), Mine("own"), KeyboardInterrupt()):
        for door in (Door(), Door(forgives=True), FRONT_DOOR, doors.FRONT_DOOR):
            for how in (run, lambda door, error: asyncio.run(walk(door, error))):
                try:
                    print(how(door, error), door.told())
                except BaseException as raised:
                    print(repr(raised), raised is error, door.told())
"""


@pytest.mark.parametrize("cut", [(), ("--inproc",)])
def test_the_object_is_told_how_the_block_ended(tmp_path: Path, cut: tuple[str, ...]) -> None:
    app = write_app(tmp_path / "doors", MANIFEST, doors=DOORS, front=FRONT)
    uncut = subprocess.run(
        [sys.executable, "-c", "import front; front.main()"], capture_output=True, text=True, timeout=60,
        env=environment(tmp_path, {"PYTHONPATH": str(app)}),
    )  # fmt: skip
    assert uncut.stdout.count("through") > 10 and uncut.stdout.count("Mine") > 10, uncut.stderr
    done = shardwright(tmp_path, "run", "-q", *cut, str(app))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == uncut.stdout
    planned = shardwright(tmp_path, "plan", str(app))
    assert "Refusals" not in planned.stdout and "Warnings" not in planned.stdout
