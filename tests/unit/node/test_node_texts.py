"""What errors of a node say: whose fault, where, and what helps."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwright.errors import ComponentImportError, InternalError, NodeError
from shardwright.manifest import load
from shardwright.node._checks import not_enforced, plan_to_start
from shardwright.node._import_errors import import_error
from shardwright.node._logs import component_of
from shardwright.node._resize import _remedy
from shardwright.sharding import explain

MANIFEST = """[app]
name = "texts"
main = "front:main"
[components.a]
code = "a"
isolation = "namespace"
limits = { cpu = 1.0 }
[components.a.secrets]
KEY = "env:NOT_THERE"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    (tmp_path / "a.py").write_text("def f(): return 1\n")
    (tmp_path / "front.py").write_text("import a\ndef main(): return a.f()\n")
    return tmp_path


def test_a_secret_that_is_missing_says_where_and_what_to_do(folder: Path) -> None:
    with pytest.raises(NodeError, match=r"shardwright\.toml:\d+: secret KEY of a") as lacking:
        plan_to_start(load(folder, environment={}), {})
    assert "set NOT_THERE" in lacking.value.remedy


def test_the_main_function_is_of_the_component_main(folder: Path) -> None:
    assert explain(load(folder, environment={}), "front:main").component == "main"


def test_what_is_not_enforced_names_the_isolation(folder: Path) -> None:
    manifest = load(folder, environment={})
    assert not_enforced(manifest, (), {}) == ("a: stated, but not enforced at isolation `namespace`: limits.cpu",)


def test_whose_fault_an_import_was() -> None:
    theirs = 'Traceback:\n  File "/x/a.py", line 3, in <module>\nValueError: no\n'
    error = import_error("a", "importing a raised ValueError: no", theirs)
    assert isinstance(error, ComponentImportError) and '"/x/a.py", line 3' in error.remedy
    ours = 'Traceback:\n  File "/x/a.py", line 3, in <module>\nshardwright.errors.InternalError: odd\n'
    assert isinstance(import_error("a", "importing a raised InternalError: odd", ours), InternalError)


def test_remedies_of_resize_follow_what_was_asked() -> None:
    assert "lower the guarantee" in _remedy("memory", guarantee=False, ceiling=True)
    assert "raise the ceiling" in _remedy("memory", guarantee=True, ceiling=False)


@pytest.mark.parametrize(
    ("shard", "component"), [("template-a", "a"), ("template-a_b-12", "a_b"), ("a_b-1a2b3c4d", "a_b")]
)
def test_lines_of_templates_are_of_their_component(shard: str, component: str) -> None:
    assert component_of(shard) == component
