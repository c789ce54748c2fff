"""What a manifest declares of functions and variables is held against the code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guest_apps import write_application
from shardwright.errors import PlanError
from shardwright.manifest import load
from shardwright.sharding import plan

MANIFEST = """
    [app]
    name = "declared"
    context_variables = [{variables}]
    [components.user]
    code = "user"
    [components.owner]
    code = "owner"
    idempotent = [{idempotent}]
    ahead = [{ahead}]
"""
FILES: dict[str, str] = {
    "common": """
        import contextvars
        from contextvars import ContextVar
        WHO = ContextVar("WHO")
        WHERE: ContextVar[str] = contextvars.ContextVar("WHERE", default="here")
        NAME = "no variable"
    """,
    "user": "import owner, common\ndef use(): return owner.get(), list(owner.rows()), owner.Box().peek()\n",
    "owner": """
        from contextvars import ContextVar
        OWN = ContextVar("OWN")
        def get(): return 1
        def rows(): yield 1
        class Box:
            def __init__(self): self.n = 0
            def peek(self):
                self.n += 1
                return self.n
            def all(self): yield self.n
    """,
}


def planned(folder: Path, *, variables: str = "", idempotent: str = "", ahead: str = "") -> Any:
    text = MANIFEST.format(variables=variables, idempotent=idempotent, ahead=ahead)
    return plan(load(write_application(folder, text, **FILES)))


def test_declarations_are_on_the_entry_points(tmp_path: Path) -> None:
    found = planned(
        tmp_path,
        variables='"common:WHO", "common:WHERE"',
        idempotent='"owner:get", "owner:Box.peek"',
        ahead='"owner:rows", "owner:Box.all"',
    )
    entries = found.definition("owner").entry_points
    assert {entry.name for entry in entries if entry.idempotent} == {"get", "Box.peek"}
    assert {entry.name for entry in entries if entry.ahead} == {"rows", "Box.all"}
    assert found.context_variables == ("common:WHO", "common:WHERE")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"idempotent": '"owner:gets"'}, "did you mean 'owner:get'"),
        ({"idempotent": '"owner:rows"'}, "no function that others may call"),
        ({"idempotent": '"user:use"'}, "no function that others may call"),
        ({"ahead": '"owner:get"'}, "no generator that others may call"),
        ({"variables": '"owner:OWN"'}, "belongs to component 'owner'"),
        ({"variables": '"common:NAME"'}, "is no context variable"),
        ({"variables": '"common:WHOM"'}, "did you mean 'WHO'"),
        ({"variables": '"comon:WHO"'}, "did you mean 'common'"),
    ],
    ids=str,
)
def test_what_is_not_there_is_refused_with_the_nearest(tmp_path: Path, declared: dict[str, str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        planned(tmp_path, **declared)
