"""Entry points: what other shards may call, by which name, number and key."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.errors import PlanError
from shardwright.model.scope import Scope, ScopeKind
from shardwright.model.shard import EntryKind, KeyArgument, ShardPlan

KEY_WORLD = Scope(ScopeKind.KEY, "world")

PHYSICS = """
    class World:
        def __init__(self, name, size=3):
            self.name, self.t = name, 0

        def step(self, dt):
            self.t += dt
            return self.t

        async def wait(self):
            return self.t

        def ticks(self):
            yield self.t

        @property
        def now(self):
            return self.t

        @staticmethod
        def unit():
            return 1

        @classmethod
        def small(cls, name):
            return cls(name, 1)


    class Point:
        def __init__(self, x):
            self.x = x

        def double(self):
            return self.x * 2


    def push(world, dx, *, dy=0):
        return dx


    async def later(dx, *, world="w"):
        return dx


    def many():
        yield 1


    async def stream():
        yield 1
"""


def names(plan: ShardPlan, component: str) -> list[str]:
    return [entry.name for entry in plan.definition(component).entry_points]


def test_functions_constructors_and_methods_are_entry_points_numbered_by_name(plan_app: Any) -> None:
    plan = plan_app({"physics.py": PHYSICS}, {"physics": "physics"})
    entries = plan.definition("physics").entry_points
    assert [entry.name for entry in entries] == [
        "World", "World.small", "World.step", "World.ticks", "World.unit", "World.wait", "later", "many", "push",
        "stream",
    ]  # fmt: skip
    assert [entry.method_id for entry in entries] == list(range(len(entries)))
    assert plan.definition("physics").entry("World").kind is EntryKind.CLASS
    assert plan.definition("physics").entry("World.unit").kind is EntryKind.METHOD
    assert plan.definition("physics").entry("push").line == 36


def test_async_and_generators_are_marked(plan_app: Any) -> None:
    definition = plan_app({"physics.py": PHYSICS}, {"physics": "physics"}).definition("physics")
    marks = {entry.name: (entry.is_async, entry.is_generator) for entry in definition.entry_points}
    assert marks["later"] == (True, False)
    assert marks["many"] == (False, True)
    assert marks["stream"] == (True, True)
    assert marks["World.wait"] == (True, False)
    assert marks["World.ticks"] == (False, True)
    assert marks["push"] == (False, False)


def test_names_in_a_package_are_relative_and_reexports_have_short_names(plan_app: Any) -> None:
    files = {
        "press/__init__.py": "from .html import render\nfrom .store import Store\ndef own(): pass\n",
        "press/html.py": "def render(text): return text\n",
        "press/deep/__init__.py": "",
        "press/deep/er.py": "def dig(): return 1\n",
        "press/store.py": "class Store:\n    def put(self, x): self.x = x\n",
    }
    plan = plan_app(files, {"press": "press"})
    assert names(plan, "press") == [
        "Store", "Store.put", "deep.er.dig", "html.render", "own", "render", "store.Store", "store.Store.put",
    ]  # fmt: skip
    short, long = plan.definition("press").entry("render"), plan.definition("press").entry("html.render")
    assert (short.module, short.qualname) == (long.module, long.qualname) == ("press.html", "render")


def test_an_ambiguous_short_name_gives_way_to_the_full_one(plan_app: Any) -> None:
    files = {
        "press/__init__.py": "class html:\n    def render(self): self.x = 1\n",
        "press/html.py": "def render(text): return text\n",
    }
    plan = plan_app(files, {"press": "press"})
    assert names(plan, "press") == ["html", "html.render", "press.html.render"]
    assert plan.definition("press").entry("html.render").kind is EntryKind.METHOD


def test_a_more_specific_component_owns_its_part_of_a_package(plan_app: Any) -> None:
    files = {"a/__init__.py": "def top(): pass", "a/b.py": "def inner(): pass", "a/c.py": "def other(): pass"}
    plan = plan_app(files, {"whole": "a", "part": "a.b"})
    assert plan.definition("whole").code.modules == ("a", "a.c")
    assert plan.definition("part").code.modules == ("a.b",)
    assert {surface.module: surface.owner for surface in plan.modules} == {"a": "whole", "a.b": "part", "a.c": "whole"}


@pytest.mark.parametrize(
    ("source", "attribute"),
    [
        ("from framework import App\napp = App()\n", "app"),
        ("async def app(scope, receive, send): ...\n", "app"),
        ("def app(environ, start_response): return []\n", "app"),
        ("from framework import make\napplication = make(__name__)\n", "application"),
    ],
)
def test_application_objects(plan_app: Any, source: str, attribute: str) -> None:
    plan = plan_app({"web.py": source}, {"web": f"web:{attribute}"})
    entry = plan.definition("web").entry(attribute)
    assert entry.kind is EntryKind.APPLICATION
    assert plan.definition("web").code.attribute == attribute


def test_code_naming_a_function_is_no_application(plan_app: Any) -> None:
    plan = plan_app({"a.py": "def serve(x): return x\ndef other(): return 1"}, {"a": "a:serve"})
    assert [(entry.name, entry.kind) for entry in plan.definition("a").entry_points] == [
        ("other", EntryKind.FUNCTION), ("serve", EntryKind.FUNCTION),
    ]  # fmt: skip


def test_code_naming_a_class_makes_it_stateful(plan_app: Any) -> None:
    source = "class Calc:\n    def add(self, a, b): return a + b\n"
    assert plan_app({"calc.py": source}, {"calc": "calc"}).stateful_classes == ()
    plan = plan_app({"calc.py": source}, {"calc": "calc:Calc"})
    assert plan.stateful_classes == ("calc:Calc",)
    assert names(plan, "calc") == ["Calc", "Calc.add"]


def test_functions_made_by_calls_are_functions(plan_app: Any) -> None:
    source = """
        import functools
        from functools import lru_cache, partial
        from vendor import retry

        def deco(f):
            @functools.wraps(f)
            def inner(*args, **kwargs):
                return f(*args, **kwargs)
            return inner

        def g(a, b=1):
            return a + b

        one = deco(g)
        two = functools.partial(g, 1)
        three = lru_cache(maxsize=3)(g)
        four = retry(g)
        five = g
        six = lambda x, y=2: x
        table = {"g": g}
        number = g(1)
    """
    plan = plan_app({"m.py": source}, {"m": "m"})
    assert names(plan, "m") == ["deco", "five", "four", "g", "one", "six", "three", "two"]


def test_decorated_functions_keep_their_key_and_line(plan_app: Any) -> None:
    source = """
        import functools

        @functools.lru_cache
        def area(world, n=2):
            return n
    """
    plan = plan_app({"m.py": source}, {"m": {"code": "m", "scope": KEY_WORLD}})
    entry = plan.definition("m").entry("area")
    assert entry.key == KeyArgument("world", 0)
    assert entry.line == 4


def test_keys_of_functions_constructors_and_methods(plan_app: Any) -> None:
    source = """
        class World:
            def __init__(self, size, world="w0"):
                self.t = 0
            def step(self):
                self.t += 1
            @classmethod
            def load(cls, path, world):
                return cls(1, world)
            @staticmethod
            def count(path):
                return 1

        def push(dx, world): ...
        def pull(dx, *, world=None): ...
        def nothing(dx): ...
        def _helper(dx): ...
    """
    plan = plan_app({"m.py": source}, {"m": {"code": "m:World", "scope": KEY_WORLD}})
    keys = {entry.name: entry.key for entry in plan.definition("m").entry_points}
    assert keys == {
        "World": KeyArgument("world", 1, "'w0'"),
        "World.step": None,
        "World.load": KeyArgument("world", 1),
        "World.count": None,
        "push": KeyArgument("world", 1),
        "pull": KeyArgument("world", -1, "None"),
        "nothing": None,
        "_helper": None,
    }
    refused = [(item.code, item.site and item.site.line) for item in plan.refusals]
    assert refused == [("SW240", 10), ("SW240", 15)]
    assert "cannot be routed" in plan.refusals[1].message
    assert "add the argument 'world'" in plan.refusals[1].remedy


def test_a_key_that_no_function_has_names_the_nearest_argument(plan_app: Any) -> None:
    with pytest.raises(PlanError, match=r"'wrold'.*did you mean `key:world`") as caught:
        plan_app({"m.py": "def f(world): ..."}, {"m": {"code": "m", "scope": Scope(ScopeKind.KEY, "wrold")}})
    assert caught.value.code == "SW208"


def test_inherited_methods_belong_to_the_class_that_offers_them(plan_app: Any) -> None:
    files = {
        "base.py": "class Base:\n    def inherited(self): return 1\n    def both(self): return 1\n",
        "m.py": "from base import Base\nclass World(Base):\n    def both(self): self.x = 1\n",
    }
    plan = plan_app(files, {"m": "m"})
    assert names(plan, "m") == ["World", "World.both", "World.inherited"]
    entry = plan.definition("m").entry("World.inherited")
    assert (entry.module, entry.qualname) == ("m", "World.inherited")


def test_the_implicit_main_component(plan_app: Any) -> None:
    files = {
        "app/__init__.py": "",
        "app/tools.py": "from app import calc\nfrom app.shared import go\ndef main():\n    go()\n",
        "app/shared.py": "from app import other\ndef go(): return other.run()\n",
        "app/calc.py": "def add(): return 1\n",
        "app/other.py": "def run(): return 1\n",
    }
    plan = plan_app(files, {"calc": "app.calc", "other": "app.other"}, main="app.tools:main")
    main = plan.definition("main")
    assert main.code.primary == "app.tools"
    assert main.depends_on == ("other",)
    assert [entry.name for entry in main.entry_points] == ["main"]
    assert "app.tools" not in {surface.module for surface in plan.modules}


def test_main_inside_a_component_is_no_component_of_its_own(plan_app: Any) -> None:
    plan = plan_app({"calc.py": "def main(): return 1\n"}, {"calc": "calc"}, main="calc:main")
    assert [definition.component for definition in plan.definitions] == ["calc"]


def test_main_that_was_imported_is_an_entry_point(plan_app: Any) -> None:
    files = {"go.py": "from cli import main\n", "cli.py": "def main(): return 1\n", "a.py": "def f(): ...\n"}
    plan = plan_app(files, {"a": "a"}, main="go:main")
    assert names(plan, "main") == ["main"]


def test_module_hooks_are_not_entry_points(plan_app: Any) -> None:
    plan = plan_app({"m.py": "def __getattr__(name): return 1\ndef __dir__(): return []\ndef f(): ...\n"}, {"m": "m"})
    assert names(plan, "m") == ["f"]


def test_every_proxy_of_a_generated_module_has_its_entry_point(plan_app: Any) -> None:
    plan = plan_app({"physics.py": PHYSICS}, {"physics": "physics"})
    asked: list[str] = []

    class Face:
        def function(self, name: str, **_: Any) -> Any:
            asked.append(name)

        def handle_class(self, name: str, *, methods: dict[str, Any], **_: Any) -> type:
            asked.extend(
                [name, *(f"{name}.{method}" for method, about in methods.items() if about["kind"] != "property")]
            )
            return type(name, (), {})

    exec(plan.modules[0].stub_source, {"__name__": "physics", "__shardwright__": Face()})
    assert sorted(asked) == names(plan, "physics")
