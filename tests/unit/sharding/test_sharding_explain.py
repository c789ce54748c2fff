"""`explain`: a function's place, neighbours, effects and the rules that follow."""

# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path

import pytest

from shardwright.errors import PlanError
from shardwright.manifest import load
from shardwright.sharding import component_graph, explain, explanation_json, explanation_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shardwright.toml").write_text(
        '[app]\nname = "shop"\n[components.stock]\ncode = "shop.stock"\n', encoding="utf-8"
    )
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("", encoding="utf-8")
    (tmp_path / "shop" / "stock.py").write_text(
        "COUNT = {}\n\n\ndef add(name):\n    COUNT[name] = 1\n    return check(name)\n\n\ndef check(name):\n    return name in COUNT\n"
        "\n\ndef alone(n):\n    return n + 1\n",
        encoding="utf-8",
    )
    return tmp_path


def test_a_function_that_shares_a_global(folder: Path) -> None:
    found = explain(load(folder), "add")
    assert found.function == "shop.stock:add" and found.component == "stock" and str(found.site) == "shop/stock.py:4"
    assert found.verdict == "keep together" and found.together == ("shop.stock:check",)
    assert [item.function for item in found.calls] == ["shop.stock:check"] and found.calls[0].sites[0].line == 6
    assert "SW301" in {finding.code for finding in found.findings}
    text = explanation_text(found)
    assert "SW301  shop/stock.py:5" in text and "remedy:" in text and "writes global shop.stock:COUNT" in text
    assert explanation_json(found)["together"] == ["shop.stock:check"]


def test_a_function_without_hazards(folder: Path) -> None:
    found = explain(load(folder), "shop.stock:alone")
    assert (found.verdict, found.together, found.findings) == ("shard", (), ())


def test_names_that_are_none_or_several(folder: Path) -> None:
    with pytest.raises(PlanError, match="no function 'chek'") as caught:
        explain(load(folder), "chek")
    assert "check" in caught.value.remedy
    (folder / "shop" / "stock.py").write_text(
        "class A:\n    def go(self): ...\nclass B:\n    def go(self): ...\n", encoding="utf-8"
    )
    with pytest.raises(PlanError, match=r"A\.go, .*B\.go"):
        explain(load(folder), "go")


def test_the_graph_of_a_component(folder: Path) -> None:
    path = folder / "shop" / "stock.py"
    path.write_text(path.read_text(encoding="utf-8") + "def bad(:\n", encoding="utf-8")
    graph = component_graph(load(folder))
    assert [finding.code for finding in graph.diagnostics] == ["SW202"] and "stock.py:15" in str(
        graph.diagnostics[0].site
    )
