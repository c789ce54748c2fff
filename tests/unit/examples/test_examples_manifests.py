"""The examples are plain programs; their manifests name what is there."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.mark.parametrize("name", ["pressroom", "arena"])
def test_code_imports_nothing_from_shardwright(name: str) -> None:
    sources = sorted((EXAMPLES / name / name).rglob("*.py"))
    assert sources
    for path in sources:
        for statement in ast.walk(ast.parse(path.read_text())):
            if isinstance(statement, ast.Import):
                assert all(alias.name.split(".")[0] != "shardwright" for alias in statement.names), path
            elif isinstance(statement, ast.ImportFrom):
                assert (statement.module or "").split(".")[0] != "shardwright", path


@pytest.mark.parametrize("name", ["pressroom", "arena"])
def test_manifest_names_what_is_there(name: str) -> None:
    manifest = tomllib.loads((EXAMPLES / name / "shardwright.toml").read_text())
    components = manifest["components"]
    for component in components.values():
        place = EXAMPLES / name / component["code"].partition(":")[0].replace(".", "/")
        assert place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
        assert set(component.get("depends_on", ())) <= set(components)
    for reference in (manifest["app"]["main"], manifest["app"].get("visitors", manifest["app"]["main"])):
        module, function = reference.split(":")
        tree = ast.parse((EXAMPLES / name / (module.replace(".", "/") + ".py")).read_text())
        assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_arena_leaves_room_for_fifty_players_on_two_cores() -> None:
    components = tomllib.loads((EXAMPLES / "arena" / "shardwright.toml").read_text())["components"]
    instances = {"game": 50, "physics": 5}
    guaranteed = sum(c["resources"]["cpu"] * instances.get(name, 1) for name, c in components.items())
    assert guaranteed < 2
