"""``verify`` cuts what static rules alone forbid, if it ran twice to the same end, and keeps what uses what changes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from cli_apps import PYTEST_ALONE, shardwright, write_app

SOURCE = """
import functools, threading

def work(count):
    total = 0
    for number in range(count):
        total = (total * 31 + number) % 1000003
    return total

def compiled(function):
    def first(*args):
        names = {"function": function}
        exec("def made(*args): return function(*args)", names)
        return names["made"](*args)
    return functools.wraps(function)(first)

@compiled
def behind(items):
    return [work(2000) + item for item in items]

def through(items):
    items.append(work(2000))
    return behind(items)

def place(items):
    return work(3000) * 0 + threading.get_native_id()

SEEN = []

def note(number):
    SEEN.append(number)

def uses_what_changes(number):
    return work(3000) + len(SEEN)

class Lazily(type):
    def __call__(cls, *args):
        if "table" not in vars(cls):
            cls.table = {number: number * number for number in range(50)}
        return type.__call__(cls, *args)

class Square(metaclass=Lazily):
    def __init__(self, add):
        self.add = add
    def of(self, number):
        work(3000)
        return self.table[number] + self.add

def pieces(count):
    for number in range(count):
        yield work(500), number
    if count == 3:
        raise ValueError("three")
"""
SUITE = """
import pytest, threading, types
from admitted import Square, note, pieces, place, through, uses_what_changes, work

BEFORE = []

def test_first():
    BEFORE.append(1)

@pytest.mark.parametrize("number", range(3))
def test_after_the_first(number):
    assert BEFORE and place([number]) == threading.get_native_id()

@pytest.mark.parametrize("number", range(6))
def test_through(number):
    items = [number]
    assert through(items) == [work(2000) + number, 2 * work(2000)] and len(items) == 2

@pytest.mark.parametrize("number", range(6))
def test_changes(number):
    note(number)
    assert uses_what_changes(number) == work(3000) + number + 1

@pytest.mark.parametrize("number", range(6))
def test_lazily(number):
    assert Square(1).of(number) == number * number + 1

@pytest.mark.parametrize("number", (2, 4, 5, 6))
def test_pieces(number):
    found = pieces(number)
    assert isinstance(found, types.GeneratorType)
    assert [item for _, item in found] == list(range(number))

def test_pieces_that_end_badly():
    seen = []
    with pytest.raises(ValueError, match="three"):
        for _, item in pieces(3):
            seen.append(item)
    assert seen == [0, 1, 2]
"""


def test_what_ran_twice_to_the_same_end_is_cut(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    app = write_app(
        tmp_path / "app",
        '[app]\nname = "admitted"\n[components.one]\ncode = "admitted"\n',
        admitted=SOURCE,
        test_it=SUITE,
    )
    command = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(app / "test_it.py"))
    done = shardwright(tmp_path, "verify", str(app), "--json", "--", *command, more=PYTEST_ALONE, timeout=240)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["equivalent"] and found["tests"] == 27
    assert found["twice"] == 0
    assert {"admitted:through", "admitted:Square.of", "admitted:pieces"} <= set(found["functions"]), found
    assert "admitted:uses_what_changes" not in found["functions"]
    assert "admitted:place" not in found["functions"], "it is different in another process"
    assert "test_after_the_first" in found["kept_together"]["admitted:place"], "though what it needs is not run again"
    assert not found["unsteady"]
    assert any("uses_what_changes" in line and "SEEN" in line for line in found["refused"]), found["refused"]
    assert found["remote"] >= 0.9 * found["calls"]
    record_exercised("calls of functions that rules alone forbid to cut", found["remote"])
