"""State: decided from the code, and refused where copies of it would differ."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.errors import PlanError
from shardwright.model.manifest import Scale
from shardwright.model.scope import Scope, ScopeKind, StateKind
from shardwright.model.shard import ShardPlan

MANY = Scale(1, 4)


def decided(plan: ShardPlan, component: str = "m") -> StateKind:
    return plan.definition(component).state


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("COUNT = 0\ndef f():\n    global COUNT\n    COUNT += 1\n", 4),
        ("COUNT = 0\ndef f():\n    global COUNT\n    COUNT = 1\n", 4),
        ("ALL = []\ndef f(x):\n    ALL.append(x)\n", 3),
        ("ALL = {}\ndef f(x):\n    ALL[x] = 1\n", 3),
        ("ALL = {}\ndef f(x):\n    ALL.update(x)\n", 3),
        ("ALL = {}\ndef f(x):\n    del ALL[x]\n", 3),
        ("ALL = {'a': []}\ndef f(x):\n    ALL['a'].append(x)\n", 3),
        ("from types import SimpleNamespace\nstate = SimpleNamespace(n=0)\ndef f():\n    state.n = 1\n", 4),
        ("class A: pass\na = A()\ndef f():\n    a.n = 1\n", 4),
        ("ALL = []\nclass A:\n    def put(self, x):\n        ALL.append(x)\n", 2),
        ("class World:\n    def step(self):\n        self.t = 1\n", 1),
        ("import sqlite3\ndb = sqlite3.connect(':memory:')\ndef f():\n    return db.execute('x')\n", 2),
        ("import itertools\nids = itertools.count()\ndef f():\n    return next(ids)\n", 2),
        ("import collections\nq = collections.deque()\ndef f(x):\n    q.append(x)\n", 4),
        ("from vendor import Engine\nengine = Engine()\ndef f():\n    return engine.run()\n", 2),
    ],
)
def test_code_that_keeps_state(plan_app: Any, source: str, line: int) -> None:
    plan = plan_app({"m.py": source}, {"m": "m"})
    assert decided(plan) is StateKind.MEMORY
    notes = [item for item in plan.diagnostics if item.code == "SW230"]
    assert [str(item.site) for item in notes] == [f"m.py:{line}"]
    with pytest.raises(PlanError, match=rf"component 'm'.*scale\.max = 4.*m\.py:{line}.*") as caught:
        plan_app({"m.py": source}, {"m": {"code": "m", "scale": MANY}})
    assert caught.value.code == "SW209"
    assert 'state = "none"' in caught.value.remedy


@pytest.mark.parametrize(
    "source",
    [
        "LIMIT = 3\ndef f(): return LIMIT\n",
        "ALL = []\nALL.append(1)\nfor i in range(3):\n    ALL.append(i)\ndef f(): return ALL\n",
        "import re\nPAT = re.compile('x')\ndef f(s): return PAT.match(s)\n",
        "import logging\nlog = logging.getLogger(__name__)\ndef f(): log.info('x')\n",
        "import threading\n_lock = threading.Lock()\ndef f():\n    with _lock: return 1\n",
        "import os\nHOME = os.environ.get('HOME', '/').strip()\ndef f(): return HOME\n",
        "from pathlib import Path\nHERE = Path(__file__).resolve().parent\ndef f(): return HERE\n",
        "ALL = []\ndef f(x):\n    ALL = []\n    ALL.append(x)\n    return ALL\n",
        "ALL = []\ndef f(ALL):\n    ALL.append(1)\n",
        "def f():\n    n = 0\n    def g():\n        nonlocal n\n        n += 1\n    return g\n",
        "from vendor import App\napp = App()\n@app.get('/')\ndef f(): return 1\n",
        "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int = 0\nORIGIN = P(0)\n"
        "def f(): return ORIGIN.x\n",
        "from functools import lru_cache\n@lru_cache\ndef f(): return 1\n",
        "class Point:\n    def __init__(self, x): self.x = x\n    def double(self): return self.x * 2\n",
    ],
)
def test_code_that_keeps_none(plan_app: Any, source: str) -> None:
    plan = plan_app({"m.py": source}, {"m": {"code": "m", "scale": MANY}})
    assert decided(plan) is StateKind.NONE
    assert [item.code for item in plan.diagnostics] == []


def test_the_manifest_overrules(plan_app: Any) -> None:
    source = {"m.py": "ALL = []\ndef f(x): ALL.append(x)\n", "n.py": "def g(): return 1\n"}
    plan = plan_app(
        source,
        {"m": {"code": "m", "scale": MANY, "state": StateKind.NONE}, "n": {"code": "n", "state": StateKind.MEMORY}},
    )
    assert decided(plan) is StateKind.NONE
    assert decided(plan, "n") is StateKind.MEMORY


def test_several_instances_are_fine_where_each_has_its_own_key_or_session(plan_app: Any) -> None:
    source = {"m.py": "ALL = []\ndef f(world):\n    ALL.append(world)\n"}
    for scope in (Scope(ScopeKind.SESSION), Scope(ScopeKind.KEY, "world"), Scope(ScopeKind.REQUEST)):
        assert decided(plan_app(source, {"m": {"code": "m", "scope": scope, "scale": MANY}})) is StateKind.MEMORY


@pytest.mark.parametrize("state", [StateKind.JOURNAL, StateKind.REPLICA])
def test_durable_state_is_not_available_yet(plan_app: Any, state: StateKind) -> None:
    with pytest.raises(PlanError, match=r"not available in this version") as caught:
        plan_app({"m.py": "def f(): ...\n"}, {"m": {"code": "m", "state": state}})
    assert caught.value.code == "SW211"
    assert caught.value.remedy == 'use state = "memory"'


def test_data_dependencies(plan_app: Any) -> None:
    files = {
        "m.py": """
            import os, sqlite3
            from os import environ, getenv
            from pathlib import Path
            import common
            SEEN = {}
            def f(name):
                SEEN[name] = 1
                a = os.environ["A"], os.environ.get("B"), os.getenv("C"), environ["D"], getenv("E", "x")
                os.environ["F"] = "1"
                open("read.txt"), open("write.txt", "w"), open("more.txt", mode="a"), open(name)
                Path("path.txt").read_text()
                Path("out.txt").write_text("x")
                Path("both.bin").open("rb")
                sqlite3.connect("data.db")
        """,
        "common.py": "import os\nKEY = os.environ['G']\n",
    }
    plan = plan_app(files, {"m": "m"})
    found = {(item.kind, item.name, item.writes) for item in plan.definition("m").data_dependencies}
    assert found == {
        ("global", "m:SEEN", True),
        ("environment", "A", False), ("environment", "B", False), ("environment", "C", False),
        ("environment", "D", False), ("environment", "E", False), ("environment", "F", True),
        ("environment", "G", False),
        ("file", "read.txt", False), ("file", "write.txt", True), ("file", "more.txt", True),
        ("file", "path.txt", False), ("file", "out.txt", True), ("file", "both.bin", False), ("file", "data.db", True),
    }  # fmt: skip


# -- classes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "class C:\n    def m(self): self.x = 1\n",
        "class C:\n    def m(self): self.x += 1\n",
        "class C:\n    def m(self): del self.x\n",
        "class C:\n    def __init__(self): self.x = []\n    def m(self): self.x.append(1)\n",
        "class C:\n    def __init__(self): self.x = {}\n    def m(self): self.x['a'] = 1\n",
        "class C:\n    def m(self): setattr(self, 'x', 1)\n",
        "class C:\n    def m(me): me.x, y = 1, 2\n",
        "class C:\n    n = 0\n    def m(self): C.n += 1\n",
        "class C:\n    n = 0\n    @classmethod\n    def m(cls): cls.n += 1\n",
        "class C(dict):\n    def m(self): self['a'] = 1\n",
        "class B:\n    def m(self): self.x = 1\nclass C(B): ...\n",
        "import vendor\nclass C(vendor.Thing): ...\n",
        "import threading\nclass C(threading.Thread): ...\n",
        "import sqlite3\nclass C:\n    def __init__(self): self.db = sqlite3.connect('x')\n"
        "    def m(self): return self.db\n",
        "import threading\nclass C:\n    def __init__(self): self.lock = threading.Lock()\n",
        "SEEN = []\nclass C:\n    def m(self): SEEN.append(self)\n",
        "class C:\n    def __iter__(self): return self\n    def __next__(self):\n"
        "        self.i += 1\n        return self.i\n",
    ],
)
def test_stateful_classes(plan_app: Any, source: str) -> None:
    assert "m:C" in plan_app({"m.py": source}, {"m": "m"}).stateful_classes


@pytest.mark.parametrize(
    "source",
    [
        "class C(Exception):\n    def m(self): self.x = 1\n",
        "class B(ValueError): ...\nclass C(B):\n    def __init__(self, a, b): self.a = a\n",
        "import vendor\nclass C(vendor.VendorError): ...\n",
        "import enum\nclass C(enum.Enum):\n    A = 1\n",
        "from enum import IntFlag as F\nclass C(F):\n    A = 1\n",
        "from typing import NamedTuple\nclass C(NamedTuple):\n    a: int\n",
        "from typing import TypedDict\nclass C(TypedDict):\n    a: int\n",
        "from typing import Protocol\nclass C(Protocol):\n    def m(self): ...\n",
        "from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int\n    def m(self): self.a = 2\n",
        "import dataclasses as d\n@d.dataclass(slots=True, frozen=True)\nclass C:\n    a: int\n",
        "import attrs\n@attrs.define\nclass C:\n    a: int\n",
        "from pydantic import BaseModel\nclass C(BaseModel):\n    a: int\n",
        "class C:\n    def __init__(self, a): self.a, self.b = a, list(a)\n    def m(self): return self.a\n",
        "class C:\n    def m(self):\n        x = []\n        x.append(1)\n        return x\n",
        "from abc import ABC, abstractmethod\nclass C(ABC):\n    @abstractmethod\n    def m(self): ...\n",
        "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass C(Generic[T]): ...\n",
        "class C(dict): ...\n",
        "class C:\n    class D: ...\n",
    ],
)
def test_value_classes(plan_app: Any, source: str) -> None:
    plan = plan_app({"m.py": source}, {"m": "m"})
    assert "m:C" in plan.value_classes
    assert plan.stateful_classes == ()


def test_nested_and_common_classes(plan_app: Any) -> None:
    files = {
        "app/__init__.py": "",
        "app/m.py": "import app.shared\nclass Outer:\n    class Inner:\n        class Deep: ...\n"
        "    def m(self): self.x = 1\n",
        "app/shared.py": "class Box:\n    class Lid: ...\n    def m(self): self.x = 1\nif True:\n"
        "    class Maybe: ...\n",
        "app/unseen.py": "class Far: ...\n",
        "app/broken.py": "def f(:\n",
        "elsewhere.py": "class Not: ...\n",
    }
    plan = plan_app(files, {"m": "app.m"})
    assert plan.stateful_classes == ("app.m:Outer",)
    assert plan.value_classes == (
        "app.m:Outer.Inner", "app.m:Outer.Inner.Deep", "app.shared:Box", "app.shared:Box.Lid", "app.shared:Maybe",
        "app.unseen:Far",
    )  # fmt: skip


def test_the_manifest_says_which_classes_are_stateful(plan_app: Any) -> None:
    files = {
        "p/__init__.py": "class A:\n    def m(self): self.x = 1\n",
        "p/q.py": "class B:\n    def m(self): return 1\nclass C:\n    def m(self): return 1\nclass D:\n"
        "    def m(self): return 1\n",
    }
    about = {"code": "p", "value": ("A",), "stateful": ("B", "p.q:C", "q.D")}
    plan = plan_app(files, {"p": about})
    assert plan.stateful_classes == ("p.q:B", "p.q:C", "p.q:D")
    assert plan.value_classes == ("p:A",)
    with pytest.raises(PlanError, match=r"no class 'BB'.*did you mean 'B'") as caught:
        plan_app(files, {"p": {"code": "p", "stateful": ("BB",)}})
    assert caught.value.code == "SW204"


def test_data_classes_that_change_are_pointed_out(plan_app: Any) -> None:
    source = (
        "from dataclasses import dataclass\n@dataclass\nclass C:\n    a: int\n    def m(self):\n        self.a = 2\n"
    )
    plan = plan_app({"m.py": source}, {"m": "m"})
    assert [(item.code, str(item.site)) for item in plan.diagnostics] == [("SW252", "m.py:6")]


def test_a_value_class_that_writes_globals_is_pointed_out(plan_app: Any) -> None:
    source = "N = []\nclass E(Exception):\n    def __init__(self):\n        N.append(1)\n"
    plan = plan_app({"m.py": source}, {"m": "m"})
    assert ("SW253", "m.py:4") in [(item.code, str(item.site)) for item in plan.diagnostics]
