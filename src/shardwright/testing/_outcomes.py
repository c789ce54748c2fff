"""What became of each test of a pytest run: noted for ``shardwright verify``, which compares two runs.

A plugin by its name in ``PYTEST_PLUGINS``; where nobody verifies, it notes nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest

outcomes: dict[str, str] = {}
"""``nodeid`` to ``passed``, ``failed: ...``, ``skipped: ...``, worst of its phases first."""
ended: list[Callable[[str], None]] = []
"""Called with the name of each test when it is over."""

uncollected: dict[str, str] = {}
"""What pytest could not collect: ``nodeid`` to the first words of why."""
asked = False
"""Whether pytest runs here at all."""

only: frozenset[str] = frozenset()
"""The tests to run, by name; all where there are none."""

counting: tuple[Callable[[], None], Callable[[], None]] | None = None
"""What begins counting and what ends it, where of many tests only some are counted."""
of_many: tuple[int, int] = (0, 1)
"""Of more tests than the first, one of so many as the second is counted."""
counted: list[str] = []
"""Those, in order; none where all are."""
_counts: frozenset[str] = frozenset()

_RANK = {"failed": 2, "skipped": 1, "passed": 0}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is not asked for."""
    if only:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in only])
        items[:] = [item for item in items if item.nodeid in only]
    if counting is not None and len(items) > of_many[0]:
        global _counts
        counted[:] = [item.nodeid for item in items[:: of_many[1]]]
        _counts = frozenset(counted)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart(nodeid: str) -> None:
    """Count what a test does that is to be counted, and not what others do."""
    if _counts and counting is not None:
        starts, stops = counting
        stops()
        if nodeid in _counts:
            starts()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    if _counts and counting is not None:
        counting[1]()


@pytest.hookimpl
def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note what cannot be collected."""
    if report.failed:
        uncollected[report.nodeid or "the tests"] = _why(report)


def _why(report: pytest.CollectReport | pytest.TestReport) -> str:
    crash: Any = getattr(report.longrepr, "reprcrash", None)
    return str(getattr(crash, "message", "") or report.longrepr)[:400]


@pytest.hookimpl
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    text = str(report.outcome)
    if report.failed:
        text = f"failed: {_why(report)}"[:400]
    known = outcomes.get(report.nodeid, "passed")
    if _RANK[text.partition(":")[0]] >= _RANK[known.partition(":")[0]]:
        outcomes[report.nodeid] = text
    if report.when == "teardown":
        for call in ended:
            call(report.nodeid)


# -- patches -----------------------------------------------------------------------------------------------------------

patching: set[int] = set()
"""What has patched something now: a change that only this process sees."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What plugins patch for a whole run is as it was when the cut began."""
    patching.clear()


@pytest.hookimpl
def pytest_configure() -> None:
    """Hear of it when a test patches something."""
    global asked, counting, of_many
    asked = True
    run: Any = sys.modules.get("shardwright.testing._cut_run")
    if run is not None and run.counting is not None:
        counting, of_many = run.counting
    _hear(pytest.MonkeyPatch, ("setattr", "delattr"), "undo")
    _hear(mock._patch, ("__enter__",), "__exit__")
    _hear(mock._patch_dict, ("_patch_dict",), "_unpatch_dict")


def _hear(cls: Any, begins: tuple[str, ...], ends: str) -> None:
    def begin(original: Any) -> Any:
        @functools.wraps(original)
        def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
            patching.add(id(self))
            return original(self, *args, **kwargs)

        return heard

    def end(original: Any) -> Any:
        @functools.wraps(original)
        def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, *args, **kwargs)
            finally:
                patching.discard(id(self))

        return heard

    for name in begins:
        setattr(cls, name, begin(getattr(cls, name)))
    setattr(cls, ends, end(getattr(cls, ends)))
