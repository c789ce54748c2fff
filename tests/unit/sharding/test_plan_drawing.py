"""Plans as pictures."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from msgspec.structs import replace

from shardwright.manifest import load
from shardwright.model.ids import ComponentName
from shardwright.model.shard import ShardPlan
from shardwright.sharding import cut_functions, plan, plan_mermaid, plan_svg

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def arena() -> ShardPlan:
    return plan(load(EXAMPLES / "arena", environment={}))


def test_every_definition_and_edge_is_drawn(arena: ShardPlan) -> None:
    mermaid = plan_mermaid(arena)
    assert mermaid.startswith("flowchart LR\n") and mermaid.count(" --> ") == len(arena.edges)
    svg = ElementTree.fromstring(plan_svg(arena))
    space = "{http://www.w3.org/2000/svg}"
    assert len(svg.findall(f".//{space}rect")) == len(arena.definitions)
    assert len([path for path in svg.findall(f"{space}path") if path.get("marker-end")]) == len(arena.edges)
    shown = {text.text for text in svg.findall(f".//{space}text")}
    assert {str(definition.component) for definition in arena.definitions} <= shown
    assert (plan_mermaid(arena), plan_svg(arena)) == (plan_mermaid(arena), plan_svg(arena))


def test_a_cut_tells_what_crosses(tmp_path: Path) -> None:
    (tmp_path / "shardwright.toml").write_text('[app]\nname = "one"\n[components.one]\ncode = "code"\n')
    (tmp_path / "code.py").write_text("def work(a):\n    return a\n")
    manifest = load(tmp_path, environment={})
    made = cut_functions(manifest, plan(manifest), {"one": ["code:work"]}, shards=2)
    assert '(["one-cut<br/>2 shards, 1 functions' in plan_mermaid(made)
    assert "0 calls, 0B" in plan_svg(made)


def test_names_cannot_break_out_of_a_picture(arena: ShardPlan) -> None:
    first = arena.definitions[0]
    odd = replace(first, component=ComponentName('<script>"&'))
    made = replace(arena, definitions=(odd,), edges=())
    assert "<script>" not in plan_svg(made) and "<script>" not in plan_mermaid(made)
    ElementTree.fromstring(plan_svg(made))
