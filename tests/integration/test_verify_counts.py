"""Of many tests, ``verify`` counts and looks at some; what became of them it notes of all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli_apps import PYTEST_ALONE, write_app
from shardwright.cli._profile import WITH_TESTS, run_with_errand
from shardwright.manifest import load

SOURCE = """
def once():
    return 1

def each(number):
    return number

def sorts(numbers):
    return sorted(numbers, key=each)

VALUE = once()
"""
SUITE = """
import counted, pytest

IMPORTED = counted.each(counted.VALUE)

@pytest.mark.parametrize("number", range(7))
def test_of_many(number):
    assert counted.each(number) == number
    assert counted.sorts([2, 1]) == [1, 2]
    assert number != 4
"""


@pytest.mark.parametrize(("few", "tests"), [(6, 3), (7, 7)])
def test_of_many_tests_some_are_counted(
    tmp_path: Path, record_exercised: Callable[[str, int], None], few: int, tests: int
) -> None:
    app = write_app(
        tmp_path / "app",
        '[app]\nname = "app"\n[components.one]\ncode = "counted"\n',
        counted=SOURCE,
        test_counted=SUITE,
    )
    modules = {str(app / "counted.py"): "counted"}
    errand = {"kind": WITH_TESTS, "errand": "count", "modules": modules, "of_many": [few, 3]}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(app)]
    ran = run_with_errand(
        load(app), command, errand, {**os.environ, **PYTEST_ALONE, "PYTHONDONTWRITEBYTECODE": "1"}, keep=True
    )
    (answer,) = ran.answers
    name = "test_counted.py::test_of_many[{}]"
    outcomes = {key.rpartition("/")[2]: text.partition(":")[0] for key, text in answer["outcomes"].items()}
    assert outcomes == {name.format(number): "failed" if number == 4 else "passed" for number in range(7)}
    counted = [key.rpartition("/")[2] for key in answer["counted"]]
    assert counted == ([name.format(number) for number in (0, 3, 6)] if tests < 7 else [])
    calls = answer["counts"]
    assert calls["counted:once"] == 1, "while it was imported"
    assert calls["counted:sorts"] == tests
    assert calls["counted:each"] == 1 + 3 * tests, "what a built-in calls for its caller is the caller's call"
    assert ["counted:sorts", "counted:each", 2 * tests] in [row[:3] for row in answer["edges"]]
    record_exercised("tests counted", tests)
