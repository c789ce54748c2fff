"""What analysis finds in packages of others, in numbers: exact versions (requirements/analysed.txt), read and never run.

The share of executed edges that is found needs their test suites, see docs/decisions/0013-who-calls-whom.md; a change of
these counts is a reason to measure that anew.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shardwright.sharding.callgraph import call_graph, scan_packages
from shardwright.sharding.hazards import find_hazards

FOLDER = Path(__file__).parents[2] / ".venv-analysed"
# package: functions, sites with candidates, direct edges, most candidates per site
EXPECTED = {
    "httpie": (544, 736, 655, 2.5),
    "click": (606, 834, 895, 3.0),
    "jinja2": (816, 2048, 2313, 3.0),
    "markdown_it": (333, 549, 806, 3.0),
}


@pytest.mark.parametrize("package", EXPECTED)
def test_counts_are_as_measured(package: str, record_exercised: Callable[[str, int], None]) -> None:
    assert (FOLDER / package).is_dir(), "scripts/test fetches the packages to analyse into .venv-analysed"
    functions, sites, edges, most = EXPECTED[package]
    graph = call_graph(str(FOLDER), [package])
    assert graph.problems == ()
    assert (len(graph.functions), len(graph.sites), len(list(graph.edges()))) == (functions, sites, edges)
    assert graph.candidates_per_site <= most
    record_exercised("call sites resolved in packages of others", len(graph.sites))


def test_hazards_of_a_real_program_have_places(record_exercised: Callable[[str, int], None]) -> None:
    effects = find_hazards(scan_packages(str(FOLDER), ["httpie"]))
    for hazard in effects.hazards:
        assert (FOLDER / hazard.site.path).is_file() and hazard.site.line >= 0 and hazard.functions and hazard.evidence
    assert {"SW302", "SW303", "SW309", "SW313", "SW315", "SW326", "SW327"} <= {
        hazard.rule.code for hazard in effects.hazards
    }
    record_exercised("hazards found in a program of others", len(effects.hazards))
