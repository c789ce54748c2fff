"""Which cut functions answer for tests that came out otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.cli._profile import TOO_LONG, Ran
from shardwright.cli._verify import Verified, _Verification


@pytest.fixture
def verification() -> _Verification:
    made = _Verification.__new__(_Verification)
    made.found = Verified()
    made._alone = {}
    return made


def ran(
    outcomes: dict[str, str], used: dict[str, list[str]] | None = None, status: int = 0, stdout: bytes = b""
) -> Ran:
    functions: dict[str, Any] = {
        name: {"calls": 1, "remote": 1, "why_local": {}} for names in (used or {}).values() for name in names
    }
    return Ran(status, ({"outcomes": outcomes, "used": used or {}, "functions": functions},), stdout)


def test_each_differing_test_blames_one_function_and_no_more_than_needed(verification: _Verification) -> None:
    names = [f"t{number}" for number in range(6)]
    uncut = ran(dict.fromkeys(names, "passed"))
    used = {
        "t0": ["a", "common"],
        "t1": ["a", "common"],
        "t2": ["b", "common"],
        "t3": ["common"],
        "t4": ["common"],
        "t5": [],
    }
    cut = ran({**dict.fromkeys(names, "passed"), "t0": "failed: x", "t1": "failed: y", "t2": "failed: z"}, used)
    different = verification._different(uncut, cut, ())
    assert set(different) == {"t0", "t1", "t2"}
    assert set(verification._culprits(different, cut)) == {"a", "b"}


def test_where_nobody_was_used_everybody_is_under_suspicion(verification: _Verification) -> None:
    uncut, cut = ran({"t0": "passed"}), ran({"t0": "failed: x"}, {"t1": ["a", "b"]})
    assert set(verification._culprits(verification._different(uncut, cut, ()), cut)) == {"a", "b"}


def test_a_test_that_comes_out_otherwise_uncut_as_well_blames_nobody(
    verification: _Verification, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Verification, "_once", lambda self, plan, only=(): ran(dict.fromkeys(only, "failed: again")))
    uncut, cut = (
        ran({"t0": "passed", "t1": "failed: b"}),
        ran({"t0": "failed: x", "t1": "passed"}, {"t0": ["a"], "t1": ["a"]}),
    )
    left = verification._steady(uncut, cut, verification._different(uncut, cut, ()))
    assert set(left) == {"t1"} and verification.found.unsteady == ["t0"]


def test_a_command_without_tests_is_compared_by_what_it_says(verification: _Verification) -> None:
    uncut = ran({}, stdout=b"one\n")
    assert verification._different(uncut, ran({}, stdout=b"one\n"), ()) == {}
    assert set(verification._different(uncut, ran({}, stdout=b"two\n"), ())) == {"the command"}
    assert set(verification._different(ran({"t": "passed"}), Ran(TOO_LONG, ()), ())) == {"the command"}


def test_functions_that_mostly_stay_are_not_cut(verification: _Verification) -> None:
    functions: dict[str, Any] = {
        "goes": {"calls": 100, "remote": 95, "why_local": {}},
        "mostly": {"calls": 10, "remote": 8, "why_local": {"a file does not cross": 2}},
        "stays": {"calls": 10, "remote": 7, "why_local": {"a value does not cross": 2}},
        "never": {"calls": 0, "remote": 0, "why_local": {}},
    }
    found = verification._hollow(Ran(0, ({"functions": functions},)))
    assert set(found) == {"stays", "never"} and "does not cross" in found["stays"]
