"""Real packages, written without a thought of Shardwright, plan as they are."""

from __future__ import annotations

import ast
import importlib
import time
from pathlib import Path

import pytest

from shardwright.model.manifest import Component, Manifest
from shardwright.sharding import plan, plan_text

MOST = 60  # times as long as the interpreter takes for the syntax trees alone, which is C; a tracer of lines trebles it from 7


def _parsed_s(package: str) -> float:
    """Processor time that the syntax trees of a package take."""
    (folder,) = importlib.import_module(package).__path__
    began = time.process_time()
    for path in Path(folder).rglob("*.py"):
        ast.parse(path.read_bytes())
    return time.process_time() - began


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
    assert time.process_time() - began < MOST * _parsed_s(package)
    assert entries <= {entry.name for entry in found.definition(package).entry_points}
    assert stateful in found.stateful_classes
    assert found.refusals == ()
    for module in found.modules:
        ast.parse(module.stub_source)
    assert package in plan_text(found)
