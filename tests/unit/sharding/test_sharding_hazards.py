"""Hazards at component edges: each has a code, a place and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.model.shard import Severity, ShardPlan
from shardwright.sharding import CODES, codes_markdown

OWNER = """
    import functools
    import sqlite3
    from contextlib import contextmanager

    COUNT = 0
    CACHE = {}
    DB = sqlite3.connect(":memory:")
    MISSING = object()

    def bump():
        global COUNT
        COUNT += 1
        CACHE["n"] = COUNT

    def rows():
        yield 1

    @contextmanager
    def opened():
        yield 1

    @functools.lru_cache
    def cached():
        return 1

    def each(f):
        return f

    class World:
        def __init__(self, name="w"):
            self.t = 0
        def step(self):
            self.t += 1
        def __enter__(self):
            return self
        def __exit__(self, *exc):
            self.t = -1
        def ticks(self):
            yield self.t
"""


def hazards(plan: ShardPlan) -> list[tuple[str, str, str]]:
    found = [
        item
        for item in plan.diagnostics
        if item.code >= "SW250" and item.site is not None and item.site.path == "user.py"
    ]
    assert all(item.remedy for item in found)
    return [(item.code, item.severity.value, str(item.site)) for item in found]


@pytest.mark.parametrize(
    ("user", "code", "severity", "line"),
    [
        ("import owner\ndef f():\n    for x in owner.rows(): ...\n", "SW260", "refusal", 3),
        ("import owner\ndef f():\n    w = owner.World()\n    for x in w.ticks(): ...\n", "SW260", "refusal", 4),
        ("import owner\ndef f():\n    return owner.COUNT\n", "SW261", "warning", 3),
        ("import owner\ndef f():\n    return owner.DB\n", "SW261", "warning", 3),
        ("from owner import COUNT\n", "SW265", "refusal", 1),
        ("import owner\ndef f():\n    owner.bump = None\n", "SW262", "refusal", 3),
        ("import owner\nowner.LIMIT = 3\n", "SW262", "refusal", 2),
        ("import owner\ndef f():\n    owner.CACHE['x'] = 1\n", "SW262", "refusal", 3),
        ("from owner import World\ndef f():\n    w = World()\n    w.t = 9\n", "SW263", "refusal", 4),
        ("from owner import World\ndef f(w: World):\n    w.t += 1\n", "SW263", "refusal", 3),
        ("from owner import World\nclass Mine(World):\n    def more(self): ...\n", "SW251", "refusal", 2),
        ("from owner import World\ndef f():\n    with World() as w: ...\n", "SW264", "refusal", 3),
        ("from owner import World\ndef f():\n    w = World()\n    with w: ...\n", "SW264", "refusal", 4),
        ("import owner\ndef f():\n    with owner.opened(): ...\n", "SW264", "refusal", 3),
        ("import owner\ndef f():\n    owner.each(lambda x: x)\n", "SW266", "warning", 3),
        ("import owner\ndef f():\n    owner.each(x for x in 'ab')\n", "SW266", "warning", 3),
        ("import owner\ndef f():\n    owner.cached.cache_clear()\n", "SW267", "warning", 3),
        ("import owner\ndef f():\n    owner.chached()\n", "SW268", "warning", 3),
        ("import owner\ndef f(x):\n    return x is owner.MISSING\n", "SW254", "warning", 3),
    ],
)  # fmt: skip
def test_hazard(plan_app: Any, user: str, code: str, severity: str, line: int) -> None:
    plan = plan_app({"owner.py": OWNER, "user.py": user}, {"owner": "owner", "user": "user"})
    assert (code, severity, f"user.py:{line}") in hazards(plan)
    assert [found for found, _, _ in hazards(plan)] == [code]
    expected = CODES[code].severity
    assert expected is not None and expected.value == severity


def test_a_common_class_may_not_inherit_from_a_stateful_class_either(plan_app: Any) -> None:
    files = {
        "owner.py": OWNER,
        "user.py": "import shared\ndef f(): ...\n",
        "shared.py": "from owner import World\nclass Mine(World): ...\n",
    }
    plan = plan_app(files, {"owner": "owner", "user": "user"})
    assert [(item.code, str(item.site)) for item in plan.refusals] == [("SW251", "shared.py:2")]


def test_inside_the_component_nothing_is_a_hazard(plan_app: Any) -> None:
    inner = """
        import owner.core
        from owner.core import World
        class W(World): ...
        def f():
            owner.core.COUNT = 3
            with World() as w:
                w.t = 1
            return list(owner.core.rows())
    """
    plan = plan_app({"owner/__init__.py": "", "owner/core.py": OWNER, "owner/more.py": inner}, {"owner": "owner"})
    assert plan.refusals == ()
    assert plan.edges == ()


def test_a_common_module_with_a_changing_global_is_copied_per_shard(plan_app: Any) -> None:
    files = {
        "shared.py": "SEEN = set()\ndef note(x):\n    SEEN.add(x)\n",
        "a.py": "import shared\ndef f(): shared.note(1)\n",
        "b.py": "import shared\ndef g(): shared.note(2)\n",
        "c.py": "def h(): ...\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b", "c": "c"})
    found = [item for item in plan.diagnostics if item.code == "SW231"]
    assert [(item.severity, str(item.site)) for item in found] == [(Severity.WARNING, "shared.py:3")]
    assert "the shards of a, b each have their own copy" in found[0].message
    assert not [item for item in plan_app(files, {"a": "a", "c": "c"}).diagnostics if item.code == "SW231"]


def test_patching_a_common_module_is_a_write_of_its_global(plan_app: Any) -> None:
    files = {
        "conf.py": "DEBUG = False\n",
        "a.py": "import conf\ndef f(): conf.DEBUG = True\n",
        "b.py": "import conf\ndef g(): return conf.DEBUG\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b"})
    assert [(item.code, str(item.site)) for item in plan.diagnostics if item.code == "SW231"] == [("SW231", "a.py:2")]


def test_settings_of_the_process(plan_app: Any) -> None:
    files = {
        "a.py": "import os, random\nrandom.seed(1)\ndef f():\n    os.chdir('/')\n    os.environ['X'] = '1'\n",
        "b.py": "def g(): ...\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b"})
    assert [str(item.site) for item in plan.diagnostics if item.code == "SW232"] == ["a.py:4", "a.py:5"]


def test_every_code_has_a_row_and_every_row_a_remedy() -> None:
    table = codes_markdown()
    for code, row in CODES.items():
        assert code.startswith("SW2") and row.meaning and row.remedy
        assert f"| {code} |" in table
    assert len(table.splitlines()) == len(CODES) + 2
