"""Which cut functions answer for tests that came out otherwise."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest

from shardwright.cli._latest import Latest
from shardwright.cli._profile import TOO_LONG, Ran
from shardwright.cli._verified import Verified
from shardwright.cli._verify import _refuse_hollow, _Verification
from shardwright.errors import NodeError
from shardwright.model.cut import Cut
from shardwright.model.ids import ComponentName
from shardwright.model.profile import Measured, Profile
from shardwright.model.shard import Diagnostic, Severity, ShardPlan, Site


@pytest.fixture
def verification() -> _Verification:
    made = _Verification.__new__(_Verification)
    made.found = Verified()
    made._again = {}
    made._latest = None
    return made


def ran(
    outcomes: dict[str, str], used: dict[str, list[str]] | None = None, status: int = 0, stdout: bytes = b""
) -> Ran:
    names = {name for names in (used or {}).values() for name in names}
    functions: dict[str, Any] = {name: counts(sum(name in each for each in (used or {}).values())) for name in names}
    numbers = {test: {name: [1, 1, 0] for name in names} for test, names in (used or {}).items()}
    answer = {"outcomes": outcomes, "used": numbers, "functions": functions, "received": len(names)}
    return Ran(status, (answer,), stdout)


def counts(calls: int, remote: int | None = None, **more: Any) -> dict[str, Any]:
    went = calls if remote is None else remote
    made: dict[str, Any] = {"calls": calls, "remote": went, "local": calls - went, "failed": 0, "begun": 0, "ahead": 0}
    return {**made, "why_local": {}, "uncut": "", **more}


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


def test_a_test_that_comes_out_as_cut_without_any_cut_blames_nobody(
    verification: _Verification, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {"t0": "failed: x", "t1": "failed: again", "t2": "failed: b"}
    monkeypatch.setattr(_Verification, "_once", lambda self, plan, only=(): ran(outcomes))
    uncut = ran({"t0": "passed", "t1": "passed", "t2": "failed: b"})
    cut = ran({"t0": "failed: x", "t1": "failed: y", "t2": "passed"}, {name: ["a"] for name in outcomes})
    left = verification._steady(uncut, cut, verification._different(uncut, cut, ()), ())
    assert set(left) == {"t1", "t2"}, "one that fails otherwise uncut is different all the same"
    assert verification.found.unsteady == ["t0"]
    verification.found.tell()
    assert "unsteady, and so not compared: t0" in capsys.readouterr().out


@pytest.mark.parametrize("only", [(), ("t0", "t1", "t2")])
def test_a_test_that_depends_on_those_before_it_is_run_again_among_the_same(
    verification: _Verification, monkeypatch: pytest.MonkeyPatch, only: tuple[str, ...]
) -> None:
    """``t2`` passes only after ``t0``; cut, it fails. Alone it fails as well, uncut."""
    asked = []

    def once(self: _Verification, plan: object, only: Collection[str] = ()) -> Ran:
        asked.append(set(only))
        selected = [name for name in ("t0", "t1", "t2") if not only or name in only]
        return ran({name: "passed" if name != "t2" or "t0" in selected else "failed: x" for name in selected})

    monkeypatch.setattr(_Verification, "_once", once)
    uncut = ran(dict.fromkeys(("t0", "t1", "t2"), "passed"))
    cut = ran({"t0": "passed", "t1": "passed", "t2": "failed: x"}, {"t2": ["a"]})
    left = verification._steady(uncut, cut, verification._different(uncut, cut, only), only)
    assert set(left) == {"t2"} and not verification.found.unsteady
    assert asked == [set(only)]


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
    found = verification._hollow(functions, whole=True)
    assert set(found) == {"stays", "never"} and "does not cross" in found["stays"]
    functions["stays"] = {"calls": 9, "remote": 0, "why_local": {}}
    assert not verification._hollow(functions, whole=False), "of few calls nothing is said"


def test_what_is_run_again_does_not_show_alone_what_stays(verification: _Verification) -> None:
    numbers = {"calls": 100, "remote": 96, "local": 4, "ahead": 0, "begun": 0, "failed": 0, "why_local": {"patched": 4}}
    few = {"calls": 20, "remote": 0, "local": 20, "ahead": 0, "begun": 0, "failed": 0, "why_local": {"patched": 20}}
    again = Ran(0, ({"functions": {"f": few}, "outcomes": {"t": "passed"}, "used": {"t": {"f": [20, 0, 20]}}},))
    assert verification._staying(again, {"t"}, {}), "before all are run, it is all that is known"
    used = {"t": {"f": [4, 0, 4]}, "u": {"f": [96, 96, 0]}}
    verification._latest = Latest(Ran(0, ({"functions": {"f": numbers}, "used": used},)))
    assert not verification._staying(again, {"t"}, {}), "nearly all calls of all tests went"
    verification._latest.note(again)
    assert "96 of 116" in verification._staying(again, {"t"}, {})["f"], "with what is new of those"
    assert verification._called_at_all(["f", "g"]) == {"f"}


def test_tests_that_show_nothing_decide_nothing() -> None:
    broken: dict[str, Any] = {"outcomes": {}, "uncollected": {"test_a.py": "No module named 'absent'"}, "pytest": True}
    with pytest.raises(NodeError, match=r"test_a\.py cannot be collected uncut: No module named 'absent'"):
        _refuse_hollow(Ran(2, (broken,)))
    with pytest.raises(NodeError, match="of 1 tests none passes uncut"):
        _refuse_hollow(Ran(1, ({"outcomes": {"t": "failed: x"}, "pytest": True},)))
    with pytest.raises(NodeError, match="of 0 tests none passes uncut"):
        _refuse_hollow(Ran(5, ({"outcomes": {}, "pytest": True},)))
    _refuse_hollow(Ran(0, ({"outcomes": {"t": "passed", "u": "failed: x"}, "pytest": True},)))
    _refuse_hollow(Ran(0, ({"outcomes": {}, "pytest": False},)))


def test_what_is_too_little_is_not_worth_cutting(
    verification: _Verification, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    functions = (
        Measured("app:talks", 10, 9.0, 8.0),
        Measured("app:sums", 10, 0.3, 0.3),
        Measured("tests.test_app:test", 10, 9.0, 50.0),
    )
    verification.profile = Profile(1, {}, 1, ("",), 10.0, 1.0, functions, (), inside_s=9.3)
    refusal = (
        "app:talks (90% of the run, 10 calls) is not cut: SW337: app:talks: arguments of 10 of 10 calls do not cross"
    )
    part = Cut(
        ComponentName("one"), ComponentName("one-cut"), (), (), 2, 6, 10, 0.3, 0, 0.0, 0.3, 1, "", gains_s=(0.3,)
    )
    note = Diagnostic("SW331", Severity.NOTE, refusal, Site("app.py", 3), ComponentName("one"), "")
    made = ShardPlan("app", ".", "", (), (), (note,), (), (), (), cuts=(part,))
    verification.found.note(made, verification.profile)
    monkeypatch.setattr(_Verification, "_plan", lambda self: made)
    found = verification.run(ran({"t": "passed"}))
    assert found.equivalent and not found.worth and not found.calls, "nothing was run"
    found.tell()
    told = capsys.readouterr().out
    assert "not worth cutting: what may be cut takes 3.2% of the components' time" in told
    assert "96.4% of their own work, 1 functions, as app:talks: arguments of N of N calls do not cross" in told


def test_what_may_have_changed_is_run_again_before_everything_is(verification: _Verification) -> None:
    tests = [f"t{number}" for number in range(20)]
    cut = ran(dict.fromkeys(tests, "passed"), {"t1": ["a"], "t2": ["b"], "t3": ["a", "b"]})
    again = verification._suspects
    assert again(["t3"], {"a"}, cut, 20) == {"t1", "t3"}
    assert again([], {"a"}, cut, 20) == set(), "nothing differed, and not all were run yet: now they are"
    assert again(["the command"], {"a"}, cut, 20) == set()
    assert again(["t3"], {"a"}, cut, 3) == set(), "most would be: all are run"
    verification._latest = Latest(cut)
    assert again([], {"a"}, cut, 20) == {"t1", "t3"}, "all were run: those alone may have changed"


def test_calls_are_those_of_the_latest_run_of_each_test() -> None:
    first = {"t1": {"a": [5, 5, 0]}, "t2": {"a": [1, 1, 0], "b": [4, 3, 1]}, "t3": {"c": [2, 0, 2]}}
    functions = {"a": counts(7), "b": counts(4, 3), "c": counts(2, 0), "never": counts(0)}
    told = {"functions": functions, "used": first, "received": 11, "outcomes": {}, "counts": {"m:f": 1}}
    latest = Latest(Ran(0, (told,)))
    assert latest.twice == 1, "eleven were received, and ten asked for"
    again = {
        "functions": {"a": counts(9)},
        "used": {"t2": {"a": [9, 9, 0]}},
        "received": 9,
        "outcomes": {"t2": "", "t3": ""},
    }
    latest.note(Ran(0, (again,)))
    found = latest.counts({"c"})
    assert {name: (item["calls"], item["remote"], item["local"]) for name, item in found.items()} == {"a": (15, 15, 0)}
    assert latest.users({"a", "c"}) == {"t1", "t2"}
    profile = Profile(1, {}, 1, ("",), 9.0, 9.0, (Measured("m:f", 4, 4.0, 4.0), Measured("c", 4, 4.0, 4.0)), (), 8.0)
    uncut = Ran(0, ({"counts": {"m:f": 4, "c": 4}},))
    assert latest.outside_share(profile, uncut, ()) == 1 - 1 / 8
    assert latest.outside_share(profile, uncut, {"b"}) == 1 - 1 / 8, "of which nothing was measured"
    assert latest.outside_share(profile, uncut, {"c"}) == 1 - 1 / 8, "of which nothing went"
    uncut = Ran(0, ({"counts": {"m:f": 2, "c": 1}},))
    assert latest.outside_share(profile, uncut, ()) == 1 - 2 / 8, "by as many calls as the same tests made"
