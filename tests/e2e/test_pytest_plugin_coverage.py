"""Coverage of a project's own tests, counted in its shards. Here, for the suite's own measuring would be in its way."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

from house_coverage import UNMEASURED
from plugin_apps import SHOP_TESTS, write_shop

pytest_plugins = ("pytester",)
PLUGIN = (
    ()
    if any(e.name == "shardwright" for e in entry_points(group="pytest11"))
    else ("-p", "shardwright.testing._plugin")
)


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    def run(*args: str) -> pytest.RunResult:
        return pytester.runpytest_subprocess(*PLUGIN, *args, timeout=100)

    return run


def test_coverage_counts_lines_that_run_in_shards(
    pytester: pytest.Pytester, run: Callable[..., pytest.RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(UNMEASURED, "1")  # this measures by itself
    write_shop(pytester.path, test_shop=SHOP_TESTS)

    def measured(name: str, *args: str) -> dict[str, list[int]]:
        result = run("-q", "--cov=shop", f"--cov-report=json:{name}", *args)
        assert "failed" not in result.parseoutcomes()
        files = json.loads((pytester.path / name).read_text())["files"]
        return {file: about["executed_lines"] for file, about in files.items()}

    plain = measured("plain.json")
    assert measured("sharded.json", "--shardwright") == plain
    assert sum(map(len, plain.values())) > 40
    assert list(pytester.path.glob(".coverage.*")) == []
