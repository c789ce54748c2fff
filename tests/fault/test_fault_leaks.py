"""Sessions and handles that come and go leave the same descriptors and the same memory behind."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import shardwright
from shardwright.node import Node
from shardwright.testing._faults import becomes
from waiting import forked_ahead

BUSY = Path(__file__).parent / "apps" / "busy"
GROWTH_BYTES = 6 * 2**20  # over 250 sessions, for the allocators' own habits
Record = Callable[[str, int], None]


def watched(node: Node) -> dict[str, int]:
    """The processes that stay: node, keeper, templates, shared shards."""
    core = node.running.core
    keeper = node.running._keeper
    assert keeper is not None
    found = {"node": os.getpid(), "keeper": keeper.pid}
    found |= {f"template of {name}": t.port.pid for name, t in core.launcher._templates.items()}  # type: ignore[union-attr]
    found |= {f"shard of {s.component}": s.pid for s in node.shards() if s.scope == "shared"}
    return found


def descriptors(pids: dict[str, int]) -> dict[str, int]:
    """How many each has open; what is behind walls shows that to root alone."""
    found = {}
    for name, pid in pids.items():
        try:
            found[name] = len(os.listdir(f"/proc/{pid}/fd"))
        except PermissionError:
            if os.geteuid() == 0:
                raise
    return found


def memory(pids: dict[str, int]) -> dict[str, int]:
    return {name: psutil.Process(pid).memory_info().rss for name, pid in pids.items()}


def one_session(node: Node, number: int) -> None:
    with node.session(f"visit-{number}") as session:
        session.call("middle.boxed", 2)
        session.call("middle.nap", 0.0, "visit")
        session.call("boxes.Box", 10).grow(1)
        session.call("middle.wait", "visit", 0.0)


@pytest.mark.slow
def test_three_hundred_sessions_leave_nothing(tmp_path: Path, record_exercised: Record) -> None:
    with shardwright.start(BUSY, state=tmp_path) as node:
        for number in range(50):
            one_session(node, number)
        pids = watched(node)
        becomes(lambda: len([s for s in node.shards() if s.component == "middle"]) <= 1, 5)
        assert becomes(lambda: forked_ahead(node), 5) is not None
        gc.collect()
        open_before, memory_before = descriptors(pids), memory(pids)
        assert {"node", "keeper"} <= set(open_before) and len(memory_before) > 6
        for number in range(50, 300):
            one_session(node, number)
        assert watched(node) == pids, "none of these may have been replaced"
        gc.collect()
        # fewer are no leak: a shard that was still being ended when they were first counted takes some with it
        settled = becomes(lambda: all(count <= open_before[who] for who, count in descriptors(pids).items()), 5)
        assert settled is not None, (open_before, descriptors(pids))
        grown = {name: size - memory_before[name] for name, size in memory(pids).items()}
        assert all(size < GROWTH_BYTES for size in grown.values()), grown
        record_exercised("sessions begun and ended", 300)


def test_two_hundred_dropped_handles_are_released_in_their_owner(tmp_path: Path, record_exercised: Record) -> None:
    with shardwright.start(BUSY, state=tmp_path) as node, node.session("holder") as session:
        kept = session.call("boxes.Box", 1)
        for _ in range(200):
            handle = session.call("boxes.Box", 1000)
            assert handle.grow(1) == 1001
        del handle
        assert becomes(lambda: session.call("boxes.alive") == 1, 5) is not None, session.call("boxes.alive")
        assert kept.grow(1) == 2
        many = [session.call("boxes.Box", 10) for _ in range(200)]
        assert session.call("boxes.alive") == 201
        many.clear()
        gc.collect()
        assert becomes(lambda: session.call("boxes.alive") == 1, 5) is not None, session.call("boxes.alive")
        assert session.call("middle.boxed", 100) > 0
        assert becomes(lambda: session.call("boxes.alive") == 1, 5) is not None, "handles dropped inside a shard"
        record_exercised("handles created, dropped and released", 500)
