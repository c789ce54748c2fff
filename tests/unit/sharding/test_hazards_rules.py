"""Every rule of the table: a program in which it fires, with its place, and one that it leaves alone."""

# ruff: noqa: E501

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from shardwright.model.shard import Severity
from shardwright.sharding import CODES
from shardwright.sharding.callgraph import scan_packages
from shardwright.sharding.hazards import RULES, Effects, Verdict, find_hazards, rules_markdown

# code: (program, line of the finding, functions concerned)
PROGRAMS: dict[str, tuple[str, int, set[str]]] = {
    "SW300": ("TABLE = {'a': 1}\ndef look(key):\n    return TABLE[key]\n", 3, {"look"}),
    "SW301": ("COUNT = 0\ndef add():\n    global COUNT\n    COUNT += 1\ndef show():\n    return COUNT\n", 4, {"add", "show"}),
    "SW302": ("def fill(items):\n    items.append(1)\ndef outer(items):\n    fill(items)\n", 2, {"fill"}),
    "SW303": ("KEPT = []\ndef keep(item):\n    KEPT.append(item)\ndef call():\n    keep([])\n", 2, {"keep", "call"}),
    "SW304": (
        "class Base:\n    known = {}\n    @classmethod\n    def add(cls, name):\n        cls.latest = name\n", 5, {"Base.add"},
    ),
    "SW305": ("import threading\nclass Hub:\n    def __init__(self):\n        self.lock = threading.Lock()\n", 4, {"Hub.__init__"}),
    "SW306": ("class Odd:\n    def __reduce__(self):\n        return (Odd, ())\n", 1, {"Odd.__reduce__"}),
    "SW307": ("MISSING = object()\ndef get(value):\n    return value is MISSING\ndef call():\n    get(1)\n", 3, {"get", "call"}),
    "SW308": (
        "def outer():\n    n = 0\n    def inner():\n        nonlocal n\n        n += 1\n    inner()\n    return n\n", 5,
        {"outer", "outer.<locals>.inner"},
    ),
    "SW309": ("def numbers():\n    yield 1\n", 1, {"numbers"}),
    "SW310": ("async def work():\n    return 1\n", 1, {"work"}),
    "SW311": (
        "class Bad(Exception):\n    def __init__(self, path, line):\n        super().__init__(f'{path}:{line}')\n", 1,
        {"Bad.__init__"},
    ),
    "SW312": (
        "import threading\nLOCK = threading.Lock()\ndef inner():\n    return 1\ndef outer():\n    with LOCK:\n        inner()\n",
        6, {"inner", "outer"},
    ),
    "SW313": (
        "class Box:\n    def __init__(self):\n        self.n = 0\n    def add(self):\n        self.n += 1\n", 5,
        {"Box.__init__", "Box.add"},
    ),
    "SW314": (
        "class Box:\n    def add(self):\n        self.n = 1\ndef outside():\n    box = Box()\n    box.n = 5\n", 6,
        {"Box.add", "outside"},
    ),
    "SW315": (
        "class A:\n    def go(self):\n        return 1\nclass B(A):\n    def go(self):\n        return super().go()\n", 4,
        {"A.go", "B.go"},
    ),
    "SW316": ("import functools\ndef deco(f):\n    return f\n@deco\ndef work():\n    return 1\n", 5, {"work"}),
    "SW317": ("import functools\n@functools.lru_cache\ndef work(n):\n    return n\n", 2, {"work"}),
    "SW318": ("import threading\nthreading.Thread(target=print).start()\n", 2, {"<module>"}),
    "SW319": ("import app.other\ndef patch():\n    app.other.limit = 5\n", 3, {"patch"}),
    "SW321": ("import os\ndef go():\n    os.chdir('/')\n", 3, {"go"}),
    "SW322": (
        "STATE = {}\nasync def get():\n    return 1\nasync def go():\n    old = STATE['a']\n    await get()\n    STATE['a'] = old\n",
        5, {"go"},
    ),
    "SW323": (
        "import asyncio\nasync def inner():\n    return 1\ndef plain():\n    return asyncio.run(inner())\n"
        "async def go():\n    plain()\n",
        5, {"go", "plain"},
    ),
    "SW324": ("from contextvars import ContextVar\nWHO = ContextVar('who')\ndef who():\n    return WHO.get()\n", 4, {"who"}),
    "SW325": ("import threading\nMINE = threading.local()\ndef put(x):\n    MINE.x = x\n", 4, {"put"}),
    "SW326": ("def handle(path):\n    return_value = open(path)\n    return return_value\n", 2, {"handle"}),
    "SW327": ("def run(text):\n    return eval(text)\n", 2, {"run"}),
    "SW328": ("def a(n):\n    return b(n)\ndef b(n):\n    return a(n)\n", 1, {"a", "b"}),
    "SW329": ("import threading\ndef make():\n    return threading.Lock()\n", 3, {"make"}),
}  # fmt: skip
OTHER = "limit = 1\ndef over(n):\n    return n > limit\n"


@pytest.fixture
def effects_of(tmp_path: Path) -> Callable[[str], Effects]:
    def make(text: str) -> Effects:
        package = tmp_path / "app"
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text("", encoding="utf-8")
        (package / "other.py").write_text(OTHER, encoding="utf-8")
        (package / "main.py").write_text(dedent(text), encoding="utf-8")
        return find_hazards(scan_packages(str(tmp_path), ["app"]))

    return make


@pytest.mark.parametrize("code", sorted(PROGRAMS))
def test_every_hazard_is_found_at_its_place(code: str, effects_of: Callable[[str], Effects]) -> None:
    text, line, functions = PROGRAMS[code]
    found = [
        hazard for hazard in effects_of(text).hazards if hazard.rule.code == code and "main.py" in hazard.site.path
    ]
    assert found, code
    assert (found[0].site.path, found[0].site.line) == ("app/main.py", line)
    assert functions <= {name.partition(":")[2] for hazard in found for name in hazard.functions}
    told = found[0].diagnostic()
    assert told.remedy and told.site is not None and found[0].evidence in told.message
    assert (told.severity is Severity.REFUSAL) == (found[0].verdict is Verdict.REFUSE)


def test_every_rule_but_that_of_tests_has_a_program_and_a_row() -> None:
    assert set(RULES) - set(PROGRAMS) == {"SW320"}  # of what runs beside the program, not of its code
    assert not set(RULES) & set(CODES)
    for code, rule in RULES.items():
        assert f"| {code} | {rule.verdict.value} |" in rules_markdown()


def test_a_plain_function_has_no_hazard(effects_of: Callable[[str], Effects]) -> None:
    effects = effects_of(
        """
        def total(numbers):
            found = []
            for number in numbers:
                found.append(number * 2)
            with open("x") as file:
                file.read()
            return sum(found) if found is not None else 0
        """
    )
    assert effects.of("app.main:total") == ()
    assert effects.facts["app.main:total"]


def test_changes_reach_callers_through_calls(effects_of: Callable[[str], Effects]) -> None:
    effects = effects_of(
        """
        def deep(items):
            items[0] = 1

        def middle(things):
            deep(things)

        def top(stuff):
            middle(stuff)

        def innocent(number: int):
            return number
        """
    )
    changed = {hazard.functions[0]: hazard.evidence for hazard in effects.hazards if hazard.rule.code == "SW302"}
    assert set(changed) == {"app.main:deep", "app.main:middle", "app.main:top"}
    assert "through app.main:middle" in changed["app.main:top"]


def test_objects_and_records(effects_of: Callable[[str], Effects]) -> None:
    effects = effects_of(
        """
        class Point:
            def __init__(self, x):
                self.x = x

        def move(point: Point):
            point.x += 1
        """
    )
    codes = {hazard.rule.code for hazard in effects.of("app.main:move")}
    assert "SW302" in codes and "SW314" not in codes
    assert not {hazard.rule.code for hazard in effects.of("app.main:Point.__init__")} & {"SW303", "SW313"}


def test_the_same_program_gives_the_same_findings(effects_of: Callable[[str], Effects]) -> None:
    text = "\n".join(program for program, *_ in PROGRAMS.values())
    assert effects_of(text).hazards == effects_of(text).hazards
