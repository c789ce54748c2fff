"""Real packages, written without a thought of Shardwright, plan as they are."""

from __future__ import annotations

import ast
import sys
import time
from pathlib import Path

import pytest

from shardwright.model.manifest import Component, Manifest
from shardwright.sharding import plan, plan_text


def _traced() -> bool:
    """Whether something watches every line, as measuring coverage does."""
    monitoring = getattr(sys, "monitoring", None)
    return sys.gettrace() is not None or (monitoring is not None and monitoring.get_tool(1) is not None)


@pytest.mark.parametrize(
    ("package", "entries", "stateful"),
    [
        ("markdown_it", {"MarkdownIt", "MarkdownIt.render", "main.MarkdownIt"}, "markdown_it.main:MarkdownIt"),
        ("pygments", {"highlight", "lex", "lexer.Lexer.get_tokens"}, "pygments.lexer:Lexer"),
    ],
)
def test_installed_package(tmp_path: Path, package: str, entries: set[str], stateful: str) -> None:
    manifest = Manifest(
        "x", str(tmp_path / "shardwright.toml"), str(tmp_path), components=(Component(package, package),)
    )  # type: ignore[arg-type]
    began = time.process_time()
    found = plan(manifest)
    assert time.process_time() - began < (30 if _traced() else 5)
    assert entries <= {entry.name for entry in found.definition(package).entry_points}
    assert stateful in found.stateful_classes
    assert found.refusals == ()
    for module in found.modules:
        ast.parse(module.stub_source)
    assert package in plan_text(found)
