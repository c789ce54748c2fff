"""The kinds of decisions that people may ask for are those that the node writes down."""

from __future__ import annotations

import ast
from pathlib import Path

import shardwright.node
from shardwright.node._api import KINDS

FOLDER = Path(shardwright.node.__file__).parent


def test_kinds_are_those_that_are_recorded() -> None:
    recorded: set[str] = set()
    named: set[str] = set()
    for file in FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text())
        if file.name != "_api.py":
            named |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                place = {"record": 0, "record_of": 1}.get(call.func.attr)
                if place is not None and len(call.args) > place + 1:
                    kind = call.args[place]
                    recorded |= {kind.value} if isinstance(kind, ast.Constant) else set()
    assert len(recorded) > 12, "calls that record are no longer found"
    assert not recorded - set(KINDS), "these are written down, and cannot be asked for"
    assert not set(KINDS) - recorded - named, "nobody writes these down"
    assert tuple(sorted(KINDS)) == KINDS
