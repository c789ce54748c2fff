"""One run of a command for ``shardwright verify``: as it is, or with functions cut out of the process that runs it.

In the cut run this process stands for the component's own shard: it starts a node with the parts alone, and its calls of
cut functions go there, by the very stubs, codecs and channels that ``run`` uses.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from shardwright.guest import Counting, CutCounts, Cuts, Looking
from shardwright.manifest import load
from shardwright.model.shard import ShardPlan
from shardwright.node import Options, Running, Session

_IMPORTED = "ignore:Module already imported so cannot be rewritten:pytest.PytestAssertRewriteWarning"
_RECEIVED = re.compile(r"^shardwright_calls_received_total\{[^}]*\} (\S+)$", re.MULTILINE)


class Part:
    """What this process does for the run."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self._pid = os.getpid()
        self._running: Running | None = None
        self._session: Session | None = None
        self._cuts: Cuts | None = None
        self._used: dict[str, dict[str, list[int]]] = {}  # by test and function: calls, remote, local
        self._before: dict[str, tuple[int, int, int]] = {}
        self._state: tempfile.TemporaryDirectory[str] | None = None
        self._counting = Counting(told["modules"]) if told.get("modules") else None

    def start(self) -> None:
        os.environ.pop("SHARDWRIGHT_ERRAND", None)  # children of the program are not part of this
        if self._told.get("plan"):
            self._cut()
        _leave_out(self._told)
        if self._counting is not None:
            self._counting.start()
            _count_some(self._told, self._counting)

    def _cut(self) -> None:
        plan = msgspec.json.decode(Path(self._told["plan"]).read_bytes(), type=ShardPlan)
        manifest = load(self._told["manifest"], profile=self._told["profile"], environment=dict(os.environ))
        self._state = tempfile.TemporaryDirectory(prefix="shardwright-verify-")
        options = Options(state=Path(self._state.name), plan=plan, api=False)
        running = self._running = Running(manifest.path, options)
        live = running.submit(running.core.begin_session("verify", {}, components=())).result()
        session = self._session = Session(running, live)
        running.client.outside_calls(lambda context: session.context())
        component = plan.cuts[0].component
        cuts = self._cuts = Cuts(plan, component, lambda: running.client.proxies.caller)
        cuts.active = True
        cuts.install()
        from shardwright.testing import _outcomes  # as pytest will find it

        cuts.suspended = lambda: bool(_outcomes.patching)
        _outcomes.ended.append(self.test_ended)

    def test_ended(self, name: str) -> None:
        """Note which cut functions the test called elsewhere."""
        if self._cuts is None:
            return
        for function, counts in self._cuts.counts.items():
            now = (counts.calls, counts.remote, counts.local)
            before = self._before.get(function, (0, 0, 0))
            if now != before:
                numbers = [more - less for more, less in zip(now, before, strict=True)]
                self._used.setdefault(name, {})[function] = numbers
                self._before[function] = now

    def forked(self) -> None:
        if self._counting is not None:
            self._counting.forked()
        if self._cuts is not None:
            self._cuts.active = False  # its threads are not in the fork

    def end(self) -> dict[str, Any]:
        answer = _of_tests()
        if self._counting is not None:
            answer["counts"] = calls_of(self._counting.end())
        if self._cuts is not None:
            answer["functions"] = {name: _numbers(counts) for name, counts in self._cuts.counts.items()}
            answer["used"] = self._used
        if self._running is not None:
            assert self._session is not None
            self._session.end()
            answer["parts_cpu_s"] = self._parts_cpu_s()
            answer["received"] = self._received()
            self._running.close()
        if self._state is not None:
            self._state.cleanup()
        return answer

    def _received(self) -> int:
        """The calls that parts were asked for, as they counted them."""
        assert self._running is not None
        text = self._running.submit(self._running.metrics()).result().body.decode()
        return round(sum(map(float, _RECEIVED.findall(text))))

    def _parts_cpu_s(self) -> float:
        assert self._running is not None
        statuses = self._running.submit(self._running.status()).result()
        return sum(status.usage.cpu_s for status in statuses if status.usage is not None)


def _leave_out(told: dict[str, Any]) -> None:
    """Not before modules are watched: pytest, which this imports, imports more, among it what may be looked at."""
    if told.get("only"):
        from shardwright.testing import _outcomes  # as pytest will find it

        _outcomes.only = frozenset(told["only"])


counting: tuple[tuple[Callable[[], None], Callable[[], None]], tuple[int, int]] | None = None
"""How to begin counting and to end it, and of how many tests one of how many counts: ``_outcomes`` asks for it."""


def calls_of(counted: dict[str, Any]) -> dict[str, int]:
    """How often each function was called."""
    return {name: calls for name, calls, *_ in counted["functions"]}


def _count_some(told: dict[str, Any], work: Counting) -> None:
    global counting
    if "of_many" in told:
        few, of = told["of_many"]
        counting = (work.start, work.pause), (few, of)


class Profiled:
    """A run that is counted or looked at (``guest/_counting``, ``guest/_looking``), with what became of its tests."""

    def __init__(self, told: dict[str, Any]) -> None:
        if told["errand"] == "count":
            self._work: Counting | Looking = Counting(told["modules"])
        else:
            self._work = Looking(told["functions"], told["modules"], lenient=True)
        self._told = told
        self.forked = self._work.forked

    def start(self) -> None:
        self._work.start()
        _leave_out(self._told)
        if isinstance(self._work, Counting):
            _count_some(self._told, self._work)

    def end(self) -> dict[str, Any]:
        found = self._work.end()
        if isinstance(self._work, Counting):
            found["counts"] = calls_of(found)
        return {**found, **_of_tests()}


def _of_tests() -> dict[str, Any]:
    found: Any = sys.modules.get("shardwright.testing._outcomes")
    if found is None:  # pytest may have failed before it asked for its plugins
        return {"outcomes": {}, "pytest": "pytest" in sys.modules}
    return {
        "outcomes": dict(found.outcomes),
        "uncollected": dict(found.uncollected),
        "pytest": found.asked,
        "counted": list(found.counted),
    }


def _numbers(counts: CutCounts) -> dict[str, Any]:
    return {
        "calls": counts.calls, "remote": counts.remote, "ahead": counts.ahead, "local": counts.local,
        "begun": counts.begun, "failed": counts.failed, "why_local": counts.why_local, "uncut": counts.uncut,
    }  # fmt: skip


def begin(told: dict[str, Any]) -> Part | Profiled:
    """The errand of this process."""
    part = Profiled(told) if told.get("errand") else Part(told)
    os.environ["PYTEST_PLUGINS"] = ",".join(
        filter(None, (os.environ.get("PYTEST_PLUGINS"), "shardwright.testing._outcomes"))
    )
    # Where warnings are errors, that this package was imported before pytest would end it. Outcomes are compared, and not
    # tracebacks: to look up the source of each frame of those takes longer than many a test.
    os.environ["PYTEST_ADDOPTS"] = f"{os.environ.get('PYTEST_ADDOPTS', '')} --tb=native -W '{_IMPORTED}'".strip()
    return part
