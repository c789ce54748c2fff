"""Which globals and attributes of classes change while a program runs, and whether code names them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

import pytest

from shardwright.guest._changes import Changes

SOURCE = """
import itertools

LIMIT = 3
COUNTS = {}
NAMES = ["a"]
FIXED = {"a": [1, 2]}

class Maker:
    __made = 0
    @classmethod
    def number(cls):
        cls.__made += 1
        return cls.__made

class Box:
    size = 1
    kept = []

def counter():
    count = [0]
    def add():
        count[0] += 1
        return count[0]
    return add

add = counter()

def reads_limit():
    return LIMIT, FIXED
def reads_counts():
    return COUNTS
def reads_size(box):
    return box.size
def reads_lazy(box):
    return box.lazy
def adds():
    return add()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    (tmp_path / "seenchanging.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    import seenchanging  # type: ignore[import-not-found]

    yield seenchanging
    del sys.modules["seenchanging"]


def read_by(changes: Changes, module: ModuleType, name: str) -> str:
    code: CodeType = vars(module)[name].__code__
    return changes.read_by([code], {code.co_filename: module.__name__})


def test_what_changed_is_found_and_what_names_it(module: ModuleType) -> None:
    changes = Changes([module.__name__])
    changes.begin()
    module.COUNTS["x"] = 1
    module.Box.size = 2
    module.Box.lazy = {"made": "later"}
    module.add()
    changes.end()
    assert "seenchanging.COUNTS" in read_by(changes, module, "reads_counts")
    assert "Box.size changes" in read_by(changes, module, "reads_size")
    assert "seenchanging.add" in read_by(changes, module, "adds")
    assert read_by(changes, module, "reads_limit") == ""
    assert read_by(changes, module, "reads_lazy") == "", "what a class was given once travels with its objects"


def test_private_state_of_a_class_may_be_left_out(module: ModuleType) -> None:
    changes = Changes([module.__name__])
    changes.begin()
    module.Maker.number()
    module.Box.size = 2
    changes.end()
    number, size = module.Maker.number.__func__.__code__, module.reads_size.__code__
    files = {number.co_filename: module.__name__}
    assert "Maker._Maker__made changes" in changes.read_by([number], files)
    assert changes.read_by([number], files, private=False) == ""
    assert "Box.size changes" in changes.read_by([number, size], files, private=False)


def test_what_a_class_was_given_and_then_changed_does_not_travel(module: ModuleType) -> None:
    changes = Changes([module.__name__])
    changes.begin()
    module.Box.lazy = [1]
    changes.end()
    module.Box.lazy.append(2)
    changes.end()
    assert "Box.lazy changes" in read_by(changes, module, "reads_lazy")


def test_what_importing_makes_is_no_change(module: ModuleType) -> None:
    changes = Changes([module.__name__])
    module.COUNTS["before"] = 1
    changes.begin()
    changes.end()
    assert not changes.globals and not changes.attributes
