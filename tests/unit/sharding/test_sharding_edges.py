"""Edges: found in the code, merged with the manifest, with reasons and places."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.errors import PlanError
from shardwright.model.manifest import EdgeRule, Route
from shardwright.model.scope import Scope, ScopeKind
from shardwright.model.shard import EntryKind, Severity, ShardPlan

STOCK = """
    import os
    LIMIT = 5
    NAMES = ["a"]
    HOME = os.environ.get("HOME")

    class Empty(Exception):
        pass

    def get(name):
        return name

    def put(name):
        return name

    class Shelf:
        def fill(self, n):
            self.n = n
"""


def edges(plan: ShardPlan) -> dict[tuple[str, str], list[int]]:
    return {(edge.caller, edge.callee): [site.line for site in edge.sites] for edge in plan.edges}


def codes(plan: ShardPlan) -> list[str]:
    return [item.code for item in plan.diagnostics]


def two(plan_app: Any, web: str, **more: Any) -> ShardPlan:
    components = {"web": {"code": "web", **more.pop("web_fields", {})}, "stock": "app.stock"}
    result: ShardPlan = plan_app({"app/__init__.py": "", "app/stock.py": STOCK, "web.py": web}, components, **more)
    return result


@pytest.mark.parametrize(
    ("web", "lines"),
    [
        ("from app.stock import get\ndef f(): return get(1)\n", [1, 2]),
        ("from app.stock import get as take\ndef f(): return take(1)\n", [1, 2]),
        ("import app.stock\ndef f(): return app.stock.get(1)\n", [2]),
        ("import app.stock as s\ndef f(): return s.get(1)\n", [2]),
        ("from app import stock\ndef f(): return stock.get(1)\n", [2]),
        ("from app.stock import *\ndef f(): return get(1)\n", [2]),
        ("def f():\n    from app.stock import get\n    return get(1)\n", [2, 3]),
        ("def f():\n    import app.stock\n    def g():\n        return app.stock.get(1)\n    return g\n", [4]),
        ("import importlib\ndef f():\n    s = importlib.import_module('app.stock')\n    return s.get(1)\n", [3, 4]),
        ("from app import stock\nalias = stock.get\ndef f(): return alias(1)\n", [2]),
        ("from app import stock\nx = [stock.get(i) for i in range(3)]\n", [2]),
        ("from app import stock\nf = lambda: stock.get(1)\n", [2]),
        ("from app import stock\ndef f(g=stock.get): return g(1)\n", [2]),
        ("from app import stock\nclass A:\n    def f(self): return stock.get(1)\n", [3]),
        ("from app import stock\ndef f():\n    shelf = stock.Shelf()\n    shelf.fill(3)\n", [3, 4]),
        ("from app.stock import Shelf\ndef f(shelf: Shelf):\n    shelf.fill(3)\n", [1, 3]),
        ("from app.stock import Shelf\ndef f(shelf: 'Shelf | None'):\n    shelf.fill(3)\n", [1, 3]),
        (
            "from app import stock\nclass A:\n    def __init__(self): self.s = stock.Shelf()\n"
            "    def f(self): self.s.fill(1)\n",
            [3, 4],
        ),
        ("from app import stock\ndef f(): return stock.HOME\n", [2]),
        ("from app import stock\ndef f(): return vars(stock)\n", [2]),
    ],
)  # fmt: skip
def test_calls_make_an_edge(plan_app: Any, web: str, lines: list[int]) -> None:
    plan = two(plan_app, web)
    assert edges(plan) == {("web", "stock"): lines}
    edge = plan.edge("web", "stock")
    assert edge is not None and edge.found and not edge.declared
    assert plan.definition("web").depends_on == ("stock",)
    notes = [item for item in plan.diagnostics if item.code == "SW220"]
    assert len(notes) == 1 and notes[0].severity is Severity.NOTE
    assert str(notes[0].site) == f"web.py:{lines[0]}"


@pytest.mark.parametrize(
    "web",
    [
        "from app.stock import Empty, LIMIT\ndef f():\n    try: return LIMIT\n    except Empty: raise Empty('x')\n",
        "from app import stock\ndef f(): return stock.LIMIT, stock.NAMES\n",
        "import app.stock as s\ndef f(x): return isinstance(x, (s.Shelf, int))\n",
    ],
)  # fmt: skip
def test_values_alone_make_no_edge(plan_app: Any, web: str) -> None:
    plan = two(plan_app, web)
    assert plan.edges == ()
    assert codes(plan).count("SW222") == 1


@pytest.mark.parametrize(
    "web",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.stock import Shelf as S\ndef f(s: 'S'): 1\n",
        "import typing\nif typing.TYPE_CHECKING:\n    import app.stock\ndef f(s: 'app.stock.Shelf') -> None: ...\n",
        "def get(): return 1\ndef f(): return get()\n",
        "def f(stock): return stock.nothing_of_ours()\n",
        "import app\n",
    ],
)
def test_annotations_and_strangers_make_no_edge(plan_app: Any, web: str) -> None:
    assert two(plan_app, web).edges == ()


def test_a_local_name_hides_an_import(plan_app: Any) -> None:
    web = "from app import stock\ndef f(stock):\n    return stock.get(1)\n"
    assert two(plan_app, web).edges == ()


def test_calls_in_common_modules_count_for_each_component_that_imports_them(plan_app: Any) -> None:
    files = {
        "a.py": "import common\ndef f(): return common.fetch()\n",
        "b.py": "from common import fetch\ndef g(): return fetch()\n",
        "c.py": "def h(): return 1\n",
        "common.py": "import stock\ndef fetch(): return stock.get()\n",
        "stock.py": "def get(): return 1\n",
    }
    plan = plan_app(files, {name: name for name in ("a", "b", "c", "stock")})
    assert edges(plan) == {("a", "stock"): [2], ("b", "stock"): [2]}
    assert [str(site) for site in plan.edges[0].sites] == ["common.py:2"]


def test_reexports_lead_to_the_owner(plan_app: Any) -> None:
    files = {
        "facade.py": "from stock import get\n",
        "stock/__init__.py": "from .deep import *\nfrom .more import put\n",
        "stock/deep.py": "__all__ = ['get']\ndef get(): return 1\n",
        "stock/more.py": "def put(): return 1\n",
        "a.py": "import facade\nfrom facade import get\ndef f(): return facade.get()\n",
        "b.py": "import stock\ndef f(): return stock.put()\n",
    }
    plan = plan_app(files, {"a": "a", "b": "b", "stock": "stock"})
    assert {(edge.caller, *(str(site) for site in edge.sites)) for edge in plan.edges} == {
        ("a", "a.py:2", "a.py:3", "facade.py:1"),
        ("b", "b.py:2"),
    }


def test_methods_of_copied_classes_bring_their_calls_along(plan_app: Any) -> None:
    files = {
        "stock.py": """
            from dataclasses import dataclass
            import bank
            def rate(): return 2
            @dataclass
            class Item:
                n: int
                def price(self): return self.n * rate() + bank.fee()
        """,
        "bank.py": "def fee(): return 1\n",
        "web.py": "from stock import Item\ndef f(): return Item(1).price()\n",
    }
    plan = plan_app(files, {"stock": "stock", "bank": "bank", "web": "web"})
    assert set(edges(plan)) == {("stock", "bank"), ("web", "bank"), ("web", "stock")}


def test_declared_and_found(plan_app: Any) -> None:
    plan = two(plan_app, "from app.stock import get\ndef f(): get(1)\n", web_fields={"depends_on": ("stock",)})
    edge = plan.edges[0]
    assert edge.declared and edge.found and edge.reason == "calls get"
    assert "SW220" not in codes(plan)


def test_declared_but_not_found_stays_with_a_warning(plan_app: Any) -> None:
    plan = two(plan_app, "def f(): ...\n", web_fields={"depends_on": ("stock",)})
    edge = plan.edges[0]
    assert edge.declared and not edge.found and edge.reason == "declared in the manifest"
    assert [item.severity for item in plan.diagnostics if item.code == "SW221"] == [Severity.WARNING]


def test_an_unknown_dependency_names_the_nearest(plan_app: Any) -> None:
    with pytest.raises(PlanError, match=r"'stocks'.*did you mean 'stock'") as caught:
        two(plan_app, "def f(): ...\n", web_fields={"depends_on": ("stocks",)})
    assert caught.value.code == "SW207"


def test_rules_for_edges(plan_app: Any) -> None:
    web = "from app.stock import get\ndef f(): get(1)\n"
    rules = (EdgeRule("web", "stock", pickle=True, allow=("x:Y",)), EdgeRule("stock", "web"))  # type: ignore[arg-type]
    plan = two(plan_app, web, edges=rules)
    assert plan.edges[0].pickle and plan.edges[0].classes == ("x:Y",)
    assert [item.message for item in plan.diagnostics if item.code == "SW223"] == [
        "the rule for the edge stock -> web applies to no edge of the plan"
    ]


def test_a_function_given_away_makes_no_edge_back_for_it_does_not_cross(plan_app: Any) -> None:
    web = "from app import stock\ndef done(x): ...\ndef f(): stock.get(done)\n"
    assert set(edges(two(plan_app, web))) == {("web", "stock")}


@pytest.mark.parametrize(
    "text",
    [
        "from app import stock\ndef f(): return stock.get('x')\n",
        "import app.stock\ndef f(): return app.stock.get('x')\n",
    ],
)
def test_modules_of_a_namespace_package_are_found(plan_app: Any, text: str) -> None:
    files = {"app/stock.py": "def get(x): return x\n", "app/web.py": text}
    assert set(edges(plan_app(files, {"web": "app.web", "stock": "app.stock"}))) == {("web", "stock")}


def test_a_handle_of_unknown_origin_makes_an_edge_where_it_can_come_from(plan_app: Any) -> None:
    files = {
        "physics.py": "class World:\n    def advance_world(self): self.t = 1\n",
        "lobby.py": "import physics\ndef world(): return physics.World()\n",
        "web.py": "import lobby\ndef f():\n    w = lobby.world()\n    w.advance_world()\n",
        "far.py": "def f(w): w.advance_world()\n",
    }
    plan = plan_app(files, {name: name for name in ("physics", "lobby", "web", "far")})
    assert set(edges(plan)) == {("lobby", "physics"), ("web", "lobby"), ("web", "physics")}
    edge = plan.edge("web", "physics")
    assert edge is not None and edge.reason == "may hold a handle and call World.advance_world"


def test_modules_that_are_named_in_text_are_followed_where_they_are_nobodys(plan_app: Any) -> None:
    """A framework imports them: Django its settings, those their urls, those the views."""
    files = {
        "shop/__init__.py": "",
        "shop/web/__init__.py": "",
        "shop/web/wsgi.py": "import os\nos.environ['X'] = 'shop.web.settings'\ndef app(environ, start_response): ...\n",
        "shop/web/settings.py": "ROOT_URLCONF = 'shop.web.urls'\nMIDDLEWARE = ['django.x.Y', 'shop.web.wrap.Wrap']\n",
        "shop/web/urls.py": "from shop.web import views\n",
        "shop/web/views.py": "from shop import logic\ndef index(): return logic.names()\n",
        "shop/web/wrap.py": "from shop import audit\nclass Wrap:\n    def __call__(self): audit.note()\n",
        "shop/logic.py": "NOTE = 'see shop.data for more'\ndef names(): return []\n",
        "shop/audit.py": "WHERE = 'shop.data'\ndef note(): ...\n",
        "shop/data.py": "def all(): ...\n",
    }
    components = {"web": "shop.web.wsgi:app", "logic": "shop.logic", "audit": "shop.audit", "data": "shop.data"}
    assert set(edges(plan_app(files, components))) == {("web", "logic"), ("web", "audit")}


def test_routes_must_name_entry_points(plan_app: Any) -> None:
    routes = (Route("/a", call="stock.gte"), Route("/b", call="stock.get"), Route("/c", app="stock"))
    plan = two(plan_app, "def f(): ...\n", routes=routes)
    refused = [(item.message, item.remedy) for item in plan.refusals]
    assert refused == [
        ("route /a calls stock.gte, which is no entry point", "did you mean stock.get?"),
        (
            "route /c serves stock, which has no application",
            'say which attribute it is, such as `code = "app.stock:app"`',
        ),
    ]


def test_the_gateway_is_a_component_of_the_plan(plan_app: Any) -> None:
    routes = (Route("/b/{name}", ("GET",), call="stock.get", line=7), Route("/e", call="stock.Empty", line=9))
    plan = two(plan_app, "def f(): ...\n", routes=routes)
    definition = plan.definition("gateway")
    assert (definition.depends_on, definition.entry_points, definition.code.modules) == (("stock",), (), ())
    edge = plan.edge("gateway", "stock")
    assert edge is not None and edge.reason == "route GET /b/{name}" and [site.line for site in edge.sites] == [7]
    (target,) = plan.routes
    assert (target.component, target.name, target.kind) == ("stock", "stock.get", EntryKind.FUNCTION)
    assert target.method_id == plan.definition("stock").entry("get").method_id
    assert not target.needs_session and target.key is None
    assert [item.message for item in plan.refusals] == ["route /e calls stock.Empty, which is no entry point"]
    assert "gateway" in plan.closure("gateway") and "gateway" not in plan.closure("stock")


def test_routes_know_what_needs_a_session(plan_app: Any) -> None:
    files = {
        "front.py": "import cart\ndef show(): return cart.items()\ndef plain(): return 1\n",
        "cart.py": "ITEMS = []\ndef items(): ITEMS.append(1); return ITEMS\n",
        "clock.py": "def now(): return 1\n",
        "world.py": "STATE = {}\ndef step(world: int, n=1): STATE[world] = n\ndef count(): return len(STATE)\n",
    }
    routes = (
        Route("/show", call="front.show"),
        Route("/now", call="clock.now"),
        Route("/w/{world}", call="world.step"),
        Route("/count", call="world.count"),
    )
    components = {
        "front": "front",
        "cart": {"code": "cart", "scope": Scope(ScopeKind.SESSION)},
        "clock": "clock",
        "world": {"code": "world", "scope": Scope(ScopeKind.KEY, "world")},
    }
    plan = plan_app(files, components, routes=routes)
    assert {route.path: route.needs_session for route in plan.routes} == {
        "/show": True,
        "/now": False,
        "/w/{world}": False,
    }
    (world,) = (route for route in plan.routes if route.component == "world")
    assert world.key is not None and (world.key.name, world.key.annotation) == ("world", "int")
    assert "route /count calls world.count, which does not say for which world" in [r.message for r in plan.refusals]


def test_components_that_call_each_other(plan_app: Any) -> None:
    files = {"a.py": "import b\ndef f(): b.g()\ndef h(): ...\n", "b.py": "import a\ndef g(): a.h()\n"}
    plan = plan_app(files, {"a": "a", "b": "b"})
    assert edges(plan) == {("a", "b"): [2], ("b", "a"): [2]}
    assert plan.closure("a") == {"a", "b"}


def test_the_same_code_gives_the_same_plan(plan_app: Any) -> None:
    web = "from app.stock import *\nfrom app import stock\ndef f(): return get(1), stock.put(2), stock.HOME\n"
    assert two(plan_app, web) == two(plan_app, web)
