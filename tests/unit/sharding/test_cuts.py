"""Cuts inside components: what may not be cut, which loops run ahead, and what pays."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from msgspec.structs import replace

from shardwright.errors import PlanError
from shardwright.manifest import load
from shardwright.model.profile import CostConstants, Measured, MeasuredEdge, Profile
from shardwright.sharding import cut_components, cut_functions, cut_inside, plan, read_application, sources_of
from shardwright.sharding.cuts._alone import Alone, Veto
from shardwright.sharding.cuts._loops import loops_of

CONSTANTS = CostConstants(round_trip_s=50e-6, byte_s=1e-9, fork_s=0.01, cores=2, host="test")
MANIFEST = '[app]\nname = "one"\nmain = "code:main"\n[components.one]\ncode = "code"\n'


def manifest_of(folder: Path, source: str, more: str = "") -> object:
    (folder / "shardwright.toml").write_text(MANIFEST + more)
    (folder / "code.py").write_text(textwrap.dedent(source))
    return load(folder, environment={})


def veto(folder: Path, source: str, name: str = "code:work") -> object:
    scanned, effects = read_application(manifest_of(folder, source))
    return Alone(scanned, effects).veto(name)


HAZARDS = {
    "SW301": "seen = {}\ndef work(a):\n    seen[a] = 1\n",
    "SW301 read": "total = 0\ndef add():\n    global total\n    total += 1\ndef work(a):\n    return total\n",
    "SW301 through": "seen = []\ndef note(a):\n    seen.append(a)\ndef work(a):\n    note(a)\n",
    "SW336": "def work(a):\n    print(a)\n",
    "SW336 clock": "import time\ndef work(a):\n    return time.time()\n",
    "SW336 file": "def work(a):\n    with open(a) as file:\n        return file.read()\n",
    "SW321": "import os\ndef work(a):\n    return os.environ[a]\n",
    "SW327": "def work(a):\n    return eval(a)\n",
    "SW309": "def work(a):\n    yield a\n",
    "SW310": "async def work(a):\n    return a\n",
    "SW325": "import threading\nlocal = threading.local()\ndef work(a):\n    local.a = a\n",
    "SW324": "import contextvars\nvalue = contextvars.ContextVar('value')\ndef work(a):\n    return value.get()\n",
    "SW304": "class Box:\n    count = 0\n    def grow(self):\n        Box.count += 1\ndef work(a):\n    Box().grow()\n",
    "SW307": "kept = []\ndef work(a):\n    return a is kept\n",
    "SW312": "import threading\nlock = threading.Lock()\ndef work(a):\n    with lock:\n        return a\n",
    "SW301 object": "class Box:\n    def grow(self):\n        self.n = 1\nBOX = Box()\ndef work(a):\n    BOX.grow()\n",
    "SW319": "import other\ndef work(a):\n    other.value = a\n",
    "SW319 function": "def other(): ...\ndef work(a):\n    a.__code__ = other.__code__\n    return a\n",
}


def test_no_look_overrules_that_a_function_changes_another(tmp_path: Path) -> None:
    found = veto(tmp_path, HAZARDS["SW319 function"])
    assert isinstance(found, Veto) and found.firm


@pytest.mark.parametrize("name", HAZARDS)
def test_each_hazard_is_refused_with_its_rule_and_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.py").write_text("value = 1\n")
    found = veto(tmp_path, HAZARDS[name])
    assert found is not None, name
    assert found.code == name.partition(" ")[0]
    assert found.site.path == "code.py" and found.site.line >= 1 and "code:" in found.evidence


ALLOWED = {
    "argument": "def work(a):\n    a.append(1)\n    return a\n",
    "constant": "LIMIT = 3\nNAMES = ['a']\ndef work(a):\n    return LIMIT, NAMES[0]\n",
    "local object": "class Box:\n    def grow(self):\n        self.n = 1\ndef work(a):\n    Box().grow()\n",
    "cache": "import functools\n@functools.lru_cache\ndef helper(a):\n    return a\ndef work(a):\n    return helper(a)\n",
    "sentinel": "MISSING = object()\ndef work(a):\n    return a is MISSING\n",
    "nonlocal inside": "def work(a):\n    n = 0\n    def add():\n        nonlocal n\n        n += 1\n    add()\n    return n\n",
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_needs_its_arguments_alone_may_be_cut(tmp_path: Path, name: str) -> None:
    assert veto(tmp_path, ALLOWED[name]) is None


def loops(folder: Path, body: str) -> list[tuple[int, int]]:
    source = "def work(a, b=0):\n    return a\n\ndef main(xs, other):\n" + textwrap.indent(
        textwrap.dedent(body), "    "
    )
    scanned, _ = read_application(manifest_of(folder, source))
    found = loops_of(scanned, {"code:work"})
    return [(loop.line, len(loop.calls)) for _, loop in found.get("code:work", [])]


@pytest.mark.parametrize(
    "body",
    [
        "for x in xs:\n    print(work(x))\n",
        "for x in xs:\n    y = work(x, b=other)\n    other.add(y)\n",
        "for i, x in enumerate(xs):\n    y = work(x)\n",
        "return [work(x) for x in xs]\n",
        "return {x: work(x) for x in xs}\n",
        "return sum(work(x) for x in xs)\n",
        "return list(map(work, xs))\n",
        "with other:\n    for x in xs:\n        work(x, 3)\n",
    ],
)
def test_loops_that_run_ahead(tmp_path: Path, body: str) -> None:
    assert [calls for _, calls in loops(tmp_path, body)] == [1]


@pytest.mark.parametrize(
    "body",
    [
        "for x in xs:\n    if x:\n        work(x)\n",
        "for x in xs:\n    if work(x):\n        break\n",
        "for x in xs:\n    if x:\n        return 1\n    work(x)\n",
        "for x in xs:\n    y = other.next()\n    work(y)\n",
        "for x in xs:\n    work(x.name())\n",
        "for x in xs:\n    x and work(x)\n",
        "for x in xs:\n    lambda: work(x)\n",
        "while xs:\n    work(xs)\n",
        "return [work(x) for x in xs if x]\n",
        "return [work(x) for y in xs for x in y]\n",
        "return work(xs)\n",
    ],
)
def test_loops_that_do_not(tmp_path: Path, body: str) -> None:
    assert loops(tmp_path, body) == []


LOOP = """
    def work(a):
        return a * 2

    def slow(a):
        return a

    def main():
        out = []
        for a in list(range(100)):
            out.append(work(a))
        return out, slow(1)
    """


def profile_of(made: object, **functions: Measured) -> Profile:
    edges = (MeasuredEdge("code:main", "code:work", 100, 1.0), MeasuredEdge("code:main", "code:slow", 1, 0.5))
    return Profile(1, sources_of(made), 1, ("",), 2.0, 2.0, tuple(functions.values()), edges)


WORK = Measured("code:work", 100, 1.0, 1.0, sampled=10, request_bytes=1000, result_bytes=1000)
SLOW = Measured("code:slow", 2, 0.5, 0.5, sampled=1, request_bytes=10, result_bytes=10)


def test_what_pays_is_cut_and_everything_hot_has_a_reason(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, LOOP)
    uncut = plan(manifest)
    made = cut_inside(manifest, uncut, profile_of(uncut, work=WORK, slow=SLOW), CONSTANTS)
    assert [[function.id for function in cut.functions] for cut in made.cuts] == [["code:work"]]
    cut = made.cuts[0]
    assert (cut.part, cut.shards, cut.calls, len(cut.loops)) == ("one-cut", 2, 100, 1)
    assert 0 < cut.gain_s < 1.0 and cut.cost_s == pytest.approx(100 * (50e-6 + 200e-9))
    assert made.definition("one-cut").cut_of == "one" and made.edge("one", "one-cut") is not None
    assert {d.code for d in made.diagnostics if "code:slow" in d.message} == {"SW333"}
    assert made == cut_inside(manifest, uncut, profile_of(uncut, work=WORK, slow=SLOW), CONSTANTS)
    parts = cut_components(manifest, made)
    assert parts.component("one-cut").scale.min == 2 and parts.component("one-cut").state == "none"


def test_nothing_is_cut_below_break_even(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, LOOP)
    uncut = plan(manifest)
    cheap = replace(WORK, total_s=0.005)
    dear = replace(CONSTANTS, round_trip_s=0.02)
    for measured, constants in ((cheap, CONSTANTS), (WORK, dear)):
        profile = replace(profile_of(uncut, work=measured), wall_s=measured.total_s * 2)
        made = cut_inside(manifest, uncut, profile, constants)
        assert made.cuts == () and "SW332" in {d.code for d in made.diagnostics}


def test_what_a_look_found_forbids_the_cut(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, LOOP)
    uncut = plan(manifest)
    made = cut_inside(manifest, uncut, profile_of(uncut, work=replace(WORK, veto="it reads the file x")), CONSTANTS)
    assert made.cuts == ()
    assert any("it reads the file x" in d.message and str(d.site) == "code.py:2" for d in made.diagnostics)


def test_the_author_overrules(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, LOOP, 'never_cut = ["code:work"]\n')
    uncut = plan(manifest)
    made = cut_inside(manifest, uncut, profile_of(uncut, work=WORK), CONSTANTS)
    assert made.cuts == () and any("`never_cut`" in d.message for d in made.diagnostics)


def test_a_profile_of_other_code_is_refused_with_the_difference(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, LOOP)
    profile = profile_of(plan(manifest), work=WORK)
    (tmp_path / "code.py").write_text(textwrap.dedent(LOOP) + "\nmore = 1\n")
    made = cut_inside(manifest, plan(manifest), profile, CONSTANTS)
    assert made.cuts == () and [d.code for d in made.refusals] == ["SW335"]
    assert "code changed" in made.refusals[0].message


def test_nothing_is_cut_inside_what_serves_one_session(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, LOOP, 'scope = "session"\n')
    uncut = plan(manifest)
    made = cut_inside(manifest, uncut, profile_of(uncut, work=WORK), CONSTANTS)
    assert made.cuts == () and "SW334" in {d.code for d in made.diagnostics}


def test_a_cut_that_is_asked_for_obeys_the_rules(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, "seen = []\ndef work(a):\n    seen.append(a)\ndef main():\n    work(1)\n")
    with pytest.raises(PlanError, match=r"code\.py:3: code:work is not cut") as refused:
        cut_functions(manifest, plan(manifest), {"one": ["code:work"]})
    assert refused.value.code == "SW301"


PARTS = """
    def one(a):
        return a * 2

    def two(a):
        return a

    def main():
        out = []
        for a in list(range(100)):
            out.append(one(a))
            out.append(two(a))
        return out
    """


def parted(folder: Path, more: str) -> list[set[str]]:
    manifest = manifest_of(folder, PARTS, more)
    uncut = plan(manifest)
    edges = tuple(MeasuredEdge("code:main", name, 100, 1.0) for name in ("code:one", "code:two"))
    both = tuple(replace(WORK, function=name) for name in ("code:one", "code:two"))
    profile = Profile(1, sources_of(uncut), 1, ("",), 2.2, 2.2, both, edges)
    made = cut_inside(manifest, uncut, profile, replace(CONSTANTS, cores=8))
    assert made == cut_inside(manifest, uncut, profile, replace(CONSTANTS, cores=8))
    return [{function.qualname for function in cut.functions} for cut in made.cuts]


def test_the_author_says_what_goes_together_and_what_stays_apart(tmp_path: Path) -> None:
    assert parted(tmp_path, "") == [{"one", "two"}]
    assert sorted(map(sorted, parted(tmp_path, 'apart = [["code:one", "code:two"]]\n'))) == [["one"], ["two"]]
    assert parted(tmp_path, 'together = [["code:one", "code:main"]]\n') == [{"two"}], "main is not cut"
    with pytest.raises(PlanError) as refused:
        parted(tmp_path, 'apart = [["code:one", "code:two"]]\ntogether = [["code:one", "code:two"]]\n')
    assert refused.value.code == "SW291"
