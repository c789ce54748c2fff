"""What an edge opens to its caller: what the caller's code says, and no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shardwright.model.shard import ALL_PUBLIC, ShardPlan

BANK = """
    import threading
    _KEY = open("/dev/null").read()
    _RATES = dict(a=len(_KEY))
    RATE = len(_KEY)

    def balance(who): return 1
    def wipe(): return 2
    def _audit(): return 3
    _check = _audit

    class Account:
        def __init__(self, name):
            self.name, self._pin, self._note = name, 1, 2
        def add(self, n):
            self.total = n
        @staticmethod
        def limit(): return 4
        @staticmethod
        def floor(): return 5

    class Receipt:
        def __init__(self, n): self.n = n
        def text(self): return _RATES, _format(self.n)

    def _format(n): return str(n)
    def pay(): return Receipt(1)
"""
GENERATED = {"bank:_RATES", "bank:_format"}  # what copies of a Receipt need, wherever they are


def uses(plan: ShardPlan, caller: str = "desk", callee: str = "bank") -> set[str]:
    edge = plan.edge(caller, callee)
    assert edge is not None
    return set(edge.uses)


@pytest.mark.parametrize(
    ("code", "opened"),
    [
        ("import bank\ndef f(): return bank.balance('a')", {"bank:balance"}),
        ("from bank import balance as b\ndef f(): return b('a')", {"bank:balance"}),
        ("import bank\ndef f(): return bank.RATE", {"bank:RATE"}),
        ("import bank\ndef f(): return bank._audit()", {"bank:_audit", "bank:_check", "._audit"}),
        ("from bank import _check\ndef f(): return _check()", {"bank:_audit", "bank:_check"}),
        ("import bank\ndef f(): return bank._KEY", {"bank:_KEY", "._KEY"}),
        ("import bank\n_KEY = 1\ndef f(): return bank.balance(_KEY)", {"bank:balance"}),
        ("import bank\ndef f(): return bank.Account('a')._pin", {"bank:Account", "._pin"}),
        ("import bank\ndef f(x): bank.balance(1); return x.limit()", {"bank:balance", "bank:Account.limit"}),
        (
            "import bank\nclass C:\n    def f(self): self._pin = bank.balance(1)",
            {"bank:balance"},
        ),
        (
            "try:\n    import bank as b\nexcept ImportError:\n    import json as b\nimport bank\n"
            "def f(): bank.balance('a'); return b.wipe()",
            {"bank:balance", "bank:wipe"},
        ),
        ("import bank\ndef f(x): bank.balance(1); return getattr(x, 'wipe')()", {"bank:balance", "bank:wipe"}),
    ],
)
def test_an_edge_opens_what_its_caller_says(plan_app: Callable[..., ShardPlan], code: str, opened: set[str]) -> None:
    plan = plan_app({"bank.py": BANK, "desk.py": code}, {"bank": "bank", "desk": "desk"})
    assert uses(plan) - GENERATED == opened


@pytest.mark.parametrize(
    "code",
    [
        "import bank\ndef f(n): return getattr(bank, n)()",
        "import bank\nMODULES = [bank]\ndef f(): return [m.balance(1) for m in MODULES]",
    ],
)
def test_a_module_used_as_a_whole_opens_its_public_names(plan_app: Callable[..., ShardPlan], code: str) -> None:
    plan = plan_app({"bank.py": BANK, "desk.py": code}, {"bank": "bank", "desk": "desk"})
    assert "bank:*" in uses(plan)
    assert not any(name.startswith(("bank:_", "._")) for name in uses(plan) - GENERATED)


@pytest.mark.parametrize(
    ("code", "depends_on"),
    [
        ("import bank", ("bank",)),
        ("import bank, importlib\ndef f(n): bank.balance(1); return importlib.import_module(n).wipe()", ()),
        ("import bank, sys\ndef f(n): bank.balance(1); return sys.modules[n].wipe()", ()),
    ],
)
def test_what_cannot_be_seen_opens_public_names(
    plan_app: Callable[..., ShardPlan], code: str, depends_on: tuple[str, ...]
) -> None:
    desk: dict[str, Any] = {"code": "desk", "depends_on": depends_on}
    plan = plan_app({"bank.py": BANK, "desk.py": code}, {"bank": "bank", "desk": desk})
    assert {ALL_PUBLIC, "bank:*"} <= uses(plan)
    assert "bank:_KEY" not in uses(plan)


def test_text_that_runs_opens_nothing(plan_app: Callable[..., ShardPlan]) -> None:
    code = "import bank\ndef f(s): bank.balance(1); exec(s)"
    plan = plan_app({"bank.py": BANK, "desk.py": code}, {"bank": "bank", "desk": "desk"})
    assert uses(plan) - GENERATED == {"bank:balance"}


def test_star_imports_and_common_modules_count(plan_app: Callable[..., ShardPlan]) -> None:
    files = {
        "bank.py": BANK,
        "shared.py": "import bank\ndef g(): return bank.wipe()",
        "desk.py": "from bank import *\nimport shared\ndef f(): return balance('a')",
    }
    plan = plan_app(files, {"bank": "bank", "desk": "desk"})
    assert {"bank:balance", "bank:wipe"} <= uses(plan)
