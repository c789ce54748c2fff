"""Every test that SPECIFICATION.md names exists, and every promise says which it is, or `pending`."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ID = re.compile(r"`(tests/[\w/]+\.py::[\w:]+)`")


def rows(text: str) -> list[tuple[str, str, str]]:
    """(promise, number, test) of every line of every table."""
    found = []
    for line in text.splitlines():
        if not line.startswith("|") or re.fullmatch(r"[|\s:-]+", line):
            continue
        cells = tuple(cell.strip() for cell in line.strip("|").split("|"))
        if cells != ("promise", "number", "test"):
            assert len(cells) == 3, line
            found.append((cells[0], cells[1], cells[2]))
    return found


def missing(test_id: str, root: Path = ROOT) -> bool:
    """Whether the tree has no such test function (or method of a test class)."""
    file, *names = test_id.split("::")
    path = root / file
    if not path.is_file():
        return True
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        within = [
            vertex
            for vertex in body
            if isinstance(vertex, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and vertex.name == name
        ]
        # A state machine of hypothesis is run through an attribute: `TestSlots = Slots.TestCase`.
        assigned = any(isinstance(vertex, ast.Assign) and ast.unparse(vertex.targets[0]) == name for vertex in body)
        if not within:
            return not assigned
        body = within[-1].body
    return not names


PROMISES = rows((ROOT / "SPECIFICATION.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("promise", PROMISES, ids=lambda row: re.sub(r"\W+", "-", row[0])[:60])
def test_a_promise_is_enforced_by_a_test_that_exists_or_is_pending(promise: tuple[str, str, str]) -> None:
    text, number, test = promise
    assert text
    assert number
    named = ID.findall(test)
    assert (test == "pending") != bool(named), f"{text}: expected test ids or `pending`, found {test!r}"
    assert not [test_id for test_id in named if missing(test_id)], f"{text}: names a test that does not exist"
    assert not ID.sub("", test).replace("pending", "").strip(" ,"), f"{text}: {test!r}"


def test_every_section_has_promises() -> None:
    assert len(PROMISES) > 20
    assert len({row[0] for row in PROMISES}) == len(PROMISES)


@pytest.mark.parametrize(
    "test_id",
    [
        "tests/house/test_house_nonesuch.py::test_it",
        "tests/house/test_house_specification.py::test_nonesuch",
        "tests/house/test_house_specification.py::Nonesuch::test_it",
        "tests/house/test_house_specification.py",
    ],
)
def test_a_name_that_does_not_exist_is_found_missing(test_id: str) -> None:
    assert missing(test_id)
    assert not missing("tests/house/test_house_specification.py::test_every_section_has_promises")
