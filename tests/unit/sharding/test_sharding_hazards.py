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
        count = 0
        names = {}
        SIZE = 3
        def __init__(self, name="w"):
            World.count += 1
            self.t = 0
            self.things = {}
        @contextmanager
        def held(self):
            yield self
        def put(self, name, thing):
            self.things[name] = thing
        def update(self, things):
            self.things.update(things)
        def __setitem__(self, name, thing):
            self.things[name] = thing
        def __delitem__(self, name):
            del self.things[name]
        def step(self):
            self.t += 1
        def __enter__(self):
            return self
        def __exit__(self, *exc):
            self.t = -1
        def ticks(self):
            yield self.t
        def each(self, f):
            return f

    class Moon(World):
        pass

    HOME = World()

    def home():
        return HOME

    class Bag:
        def __init__(self):
            self.things = []
        def put(self, thing):
            self.things.append(thing)
        def __iter__(self):
            return iter(self.things)
        def __len__(self):
            return len(self.things)

    def filled() -> Bag:
        return Bag()
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
        ("import owner\ndef f():\n    for x in owner.rows(): ...\n", "SW260", "note", 3),
        ("import owner\ndef f():\n    w = owner.World()\n    for x in w.ticks(): ...\n", "SW260", "note", 4),
        ("import owner\ndef f():\n    return owner.COUNT\n", "SW261", "warning", 3),
        ("import owner\ndef f():\n    return owner.DB\n", "SW272", "refusal", 3),
        ("from owner import COUNT\n", "SW265", "refusal", 1),
        ("import owner\ndef f():\n    owner.bump = None\n", "SW262", "refusal", 3),
        ("import owner\nowner.LIMIT = 3\n", "SW262", "refusal", 2),
        ("import owner\ndef f():\n    owner.CACHE['x'] = 1\n", "SW262", "refusal", 3),
        ("from owner import World\ndef f():\n    w = World()\n    w.t = 9\n", "SW263", "refusal", 4),
        ("from owner import World\ndef f(w: World):\n    w.t += 1\n", "SW263", "refusal", 3),
        ("from owner import World\nclass Mine(World):\n    def more(self): ...\n", "SW251", "refusal", 2),
        ("from owner import Bag\ndef f():\n    with Bag() as b: ...\n", "SW264", "refusal", 3),
        ("from owner import World\ndef f(w: World):\n    with w.held(): ...\n", "SW264", "refusal", 3),
        ("import owner\ndef f():\n    with owner.HOME.held(): ...\n", "SW264", "refusal", 3),
        ("import owner\ndef f():\n    with owner.home().held(): ...\n", "SW264", "refusal", 3),
        ("import owner\ndef f():\n    for x in owner.HOME.ticks(): ...\n", "SW260", "note", 3),
        ("import owner\ndef f():\n    owner.HOME.t = 1\n", "SW262", "refusal", 3),
        ("import owner\ndef f():\n    owner.HOME = owner.World()\n", "SW262", "refusal", 3),
        ("import owner\ndef f():\n    owner.HOME.things['x'] = 1\n", "SW262", "refusal", 3),
        ("from owner import World\ndef f():\n    return World.count\n", "SW270", "refusal", 3),
        ("from owner import Moon\ndef f():\n    return Moon.count\n", "SW270", "refusal", 3),
        ("from owner import World\ndef f():\n    return World.names\n", "SW270", "refusal", 3),
        ("import owner\ndef f():\n    with owner.opened(): ...\n", "SW264", "refusal", 3),
        ("import owner\ndef f():\n    owner.each(lambda x: x)\n", "SW266", "refusal", 3),
        ("import owner\ndef f():\n    owner.each(x for x in 'ab')\n", "SW266", "refusal", 3),
        ("import owner\ndef g(x): ...\ndef f():\n    owner.each(g)\n", "SW266", "refusal", 4),
        ("import owner\n@owner.each\ndef f(): ...\n", "SW266", "refusal", 2),
        ("import owner\ndef f():\n    owner.each(f=owner.bump)\n", "SW266", "refusal", 3),
        ("from owner import World\ndef g(x): ...\ndef f(w: World):\n    w.each(g)\n", "SW266", "refusal", 4),
        ("from owner import Bag\ndef f():\n    b = Bag()\n    return list(b)\n", "SW269", "refusal", 4),
        ("from owner import Bag\ndef f(b: Bag):\n    for x in b: ...\n", "SW269", "refusal", 3),
        ("from owner import Bag\ndef f(b: Bag):\n    return [x for x in b]\n", "SW269", "refusal", 3),
        ("from owner import Bag\ndef f(b: Bag):\n    return [*b]\n", "SW269", "refusal", 3),
        ("import owner\ndef f():\n    return sorted(owner.filled())\n", "SW269", "refusal", 3),
        ("from owner import Bag\ndef f(b: Bag):\n    b.things.append(1)\n", "SW263", "refusal", 3),
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


@pytest.mark.parametrize(
    "uses",
    [
        "owner.HOME.put('a', 1)", "owner.HOME.update({})", "owner.HOME['a'] = 1", "del owner.HOME['a']",
        "return owner.HOME.t", "owner.HOME.each(1)", "return HOME.put('a', 1)", "owner.home().put('a', 1)",
        "with World() as w: return w.t", "with HOME: return 1", "with owner.World(): return 1",
        "return owner.__name__, owner.__doc__, owner.__file__", "return owner.bump.__name__, owner.bump.__doc__",
        "return World.SIZE, World.__name__, World.__doc__, Moon.SIZE, World.step.__name__",
        "w = World()\n    return w.count",
    ],
)  # fmt: skip
def test_what_works_across_an_edge_is_no_hazard(plan_app: Any, uses: str) -> None:
    user = f"import owner\nfrom owner import HOME, Moon, World\ndef f():\n    {uses}\n"
    assert hazards(plan_app({"owner.py": OWNER, "user.py": user}, {"owner": "owner", "user": "user"})) == []


def test_an_object_that_is_replaced_is_not_to_be_imported_by_name(plan_app: Any) -> None:
    owner = OWNER + "\n    def again():\n        global HOME\n        HOME = World()\n"
    user = "from owner import HOME\nimport owner\ndef f():\n    owner.HOME.put('a', 1)\n"
    found = hazards(plan_app({"owner.py": owner, "user.py": user}, {"owner": "owner", "user": "user"}))
    assert ("SW265", "refusal", "user.py:1") in found
    assert "SW262" not in [code for code, _, _ in found]


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


ORDERS = """
    from dataclasses import dataclass, field
    @dataclass
    class Address:
        city: str = ""
    @dataclass
    class Order:
        lines: list[str] = field(default_factory=list)
        where: Address = field(default_factory=Address)
    LAST = Order()
    def stamp(order: Order):
        {change}
"""


@pytest.mark.parametrize(
    "change",
    [
        'order.lines.append("x")', 'order.lines[0] = "x"', 'order.where.city = "x"', 'del order.lines[0]',
        "lines = order.lines; lines.clear()", 'mine = Order(); mine.lines.append("x")',
    ],
)  # fmt: skip
def test_changing_what_a_parameter_or_local_holds_writes_no_global(plan_app: Any, change: str) -> None:
    files = {
        "orders.py": ORDERS.format(change=change),
        "a.py": f"from orders import Order\ndef f(order: Order):\n    {change}\n",
        "b.py": "import orders\ndef g(order): orders.stamp(order)\n",
    }
    assert [item for item in plan_app(files, {"a": "a", "b": "b"}).diagnostics if item.code != "SW222"] == []


def test_changing_what_a_global_object_holds_is_a_write_of_the_global(plan_app: Any) -> None:
    files = {
        "orders.py": ORDERS.format(change='LAST.lines.append("x")'),
        "a.py": "import orders\n",
        "b.py": "import orders\n",
    }
    found = [item for item in plan_app(files, {"a": "a", "b": "b"}).diagnostics if item.code == "SW231"]
    assert [(item.message.partition(" ")[0], str(item.site)) for item in found] == [("LAST", "orders.py:11")]


def test_a_class_whose_iterators_do_not_cross_is_noted(plan_app: Any) -> None:
    plan = plan_app({"owner.py": OWNER, "user.py": "def f(): ...\n"}, {"owner": "owner", "user": "user"})
    found = [item for item in plan.diagnostics if item.code == "SW255"]
    assert [(item.severity, item.message.partition(" ")[0]) for item in found] == [(Severity.NOTE, "Bag")]
    assert not [item for item in plan_app({}, {"owner": "owner"}).diagnostics if item.code == "SW255"]


def test_inside_the_component_functions_and_iteration_are_free(plan_app: Any) -> None:
    inner = "from owner.core import Bag, each\ndef f(b: Bag): return each(f), list(b), each(lambda: 1)\n"
    files = {"owner/__init__.py": "", "owner/core.py": OWNER, "owner/more.py": inner, "user.py": "def f(): ...\n"}
    assert plan_app(files, {"owner": "owner", "user": "user"}).refusals == ()


def logging_places(plan: ShardPlan) -> list[str]:
    found = [item for item in plan.diagnostics if item.code == "SW233"]
    assert all(item.severity is Severity.WARNING and "common module" in item.remedy for item in found)
    return [str(item.site) for item in found]


@pytest.mark.parametrize(
    "call",
    [
        "logging.basicConfig(level=10)", "logging.config.dictConfig({})", "logging.config.fileConfig('x')",
        "logging.getLogger('a').addHandler(logging.StreamHandler())", "logging.disable()",
    ],
)  # fmt: skip
def test_logging_configured_in_one_component(plan_app: Any, call: str) -> None:
    files = {
        "a.py": f"import logging, logging.config\ndef f():\n    {call}\n",
        "b.py": f"import logging, logging.config\n{call}\ndef g(): ...\n",
        "run.py": f"import logging, logging.config\nimport a\ndef main():\n    {call}\n    a.f()\n",
    }
    assert logging_places(plan_app(files, {"a": "a", "b": "b"}, "run:main")) == ["a.py:3", "b.py:2", "run.py:4"]
    assert logging_places(plan_app(files, {"a": "a"})) == []


def test_logging_configured_by_a_module_that_all_import(plan_app: Any) -> None:
    files = {
        "logs.py": "import logging\ndef setup():\n    logging.basicConfig()\nsetup()\nlogging.captureWarnings(True)\n",
        "a.py": "import logs, logging\nlogging.getLogger('a').addHandler(logging.NullHandler())\ndef f(): ...\n",
        "b.py": "import logs\ndef g(): ...\n",
        "c.py": "def h(): ...\n",
    }
    assert logging_places(plan_app(files, {"a": "a", "b": "b"})) == []
    assert logging_places(plan_app(files, {"a": "a", "b": "b", "c": "c"})) == ["logs.py:3"]


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
        assert code.startswith(("SW2", "SW33")) and row.meaning and row.remedy
        assert f"| {code} |" in table
    assert len(table.splitlines()) == len(CODES) + 2
