"""Methods that no ``def`` of their own gives, waits in vain, and what cannot be copied: seen in the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shardwright.model.shard import ShardPlan

PARTS = {"m": "n.m"}


def planned(plan_app: Callable[..., ShardPlan], module: str, main: str) -> ShardPlan:
    files = {"n/__init__.py": "", "n/m.py": module, "n/a.py": main}
    return plan_app(files, PARTS, main="n.a:main")


def findings(plan: ShardPlan, code: str) -> list[Any]:
    return [item for item in plan.diagnostics if item.code == code]


def test_assigned_methods_are_entry_points(plan_app: Callable[..., ShardPlan]) -> None:
    plan = planned(
        plan_app,
        """
        import functools, threading
        @functools.total_ordering
        class C:
            def __init__(self, n): self.n = n; self.l = threading.Lock()
            def __add__(self, o): return C(self.n + o)
            __radd__ = __add__
            def __eq__(self, o): return self.n == o.n
            def __lt__(self, o): return self.n < o.n
            __hash__ = None
            def get(self): return self.n
            read = get
            twice = lambda self: 2 * self.n
            def add(self, a, b=0): return self.n + a + b
            inc = functools.partialmethod(add, 1)
        """,
        "from n.m import C\ndef main(): print(C(1).read(), C(1).inc(), 1 + C(1), C(1) <= C(2))\n",
    )
    entries = {entry.name for entry in plan.definition("m").entry_points}
    assert {"C.__radd__", "C.read", "C.twice", "C.inc", "C.__le__", "C.__gt__", "C.__ge__"} <= entries
    assert "C.__hash__" not in entries
    assert not plan.refusals


@pytest.mark.parametrize(
    "made", ["@deco\nclass C:\n    def __init__(self): self.l = threading.Lock()\n",
             "class C:\n    def __init__(self): self.l = threading.Lock()\n    extra = deco(len)\n"],
)  # fmt: skip
def test_methods_that_nothing_shows_are_refused(plan_app: Callable[..., ShardPlan], made: str) -> None:
    module = f"import threading\ndef deco(c):\n    c.extra = lambda s: 7\n    return c\n{made}"
    plan = planned(plan_app, module, "from n.m import C\ndef main():\n    c = C()\n    print(c.extra())\n")
    (finding,) = findings(plan, "SW271")
    assert (finding.site.path, finding.site.line) == ("n/a.py", 4)
    assert "n/m.py:" in finding.message and "with `def`" in finding.remedy


@pytest.mark.parametrize("made", ["contextvars.ContextVar('V')", "threading.Lock()"])
def test_globals_without_copies_are_refused(plan_app: Callable[..., ShardPlan], made: str) -> None:
    plan = planned(
        plan_app,
        f"import contextvars, threading\nV = {made}\ndef f(): return V\n",
        "from n.m import V\ndef main(): V\n",
    )
    found = findings(plan, "SW272")
    assert (found[0].site.path, found[0].site.line) == ("n/a.py", 1) and "n/m.py:2" in found[0].message


QUEUE = """
import threading
class Q:
    def __init__(self): self.c = threading.Condition(); self.v = []
    def put(self, x):
        with self.c: self.v.append(x); self.c.notify()
    def get(self):
        with self.c:
            while not self.v: self.c.wait(5)
            return self.v.pop(0)
"""
THREADS = "from n.m import Q\ndef main():\n    import threading\n    q = Q(); threading.Timer(1, q.put, [7]).start(); q.get()\n"


def test_waits_in_vain_are_found(plan_app: Callable[..., ShardPlan]) -> None:
    (finding,) = findings(planned(plan_app, QUEUE, THREADS), "SW273")
    assert (finding.site.path, finding.site.line) == ("n/m.py", 8) and "n/m.py:5" in finding.message


def test_who_tells_from_threads_of_its_own_waits_for_those(plan_app: Callable[..., ShardPlan]) -> None:
    threads = QUEUE + "    def go(self): threading.Thread(target=self.put, args=(1,)).start(); return self.get()\n"
    assert not findings(planned(plan_app, threads, THREADS), "SW273")


def test_where_nobody_starts_threads_nobody_waits(plan_app: Callable[..., ShardPlan]) -> None:
    plan = planned(plan_app, QUEUE, "from n.m import Q\ndef main():\n    q = Q(); q.put(7); q.get()\n")
    assert not findings(plan, "SW273")


@pytest.mark.parametrize("passed", ["f(L(1))", "x = L(1); f(x)"])
def test_objects_of_local_classes_are_refused(plan_app: Callable[..., ShardPlan], passed: str) -> None:
    main = f"from n.m import f\ndef main():\n    class L:\n        def __init__(self, n): self.n = n\n    {passed}\n"
    (finding,) = findings(planned(plan_app, "def f(o): return o.n\n", main), "SW266")
    assert "class L, which a function makes" in finding.message and finding.site.line == 5
