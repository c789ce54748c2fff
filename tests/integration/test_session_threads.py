"""Threads that user code begins in a component of which each session has its own: they call for that session, quickly."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest_apps import running, write_application
from shardwright.transport import shm

MANIFEST = """
[app]
name = "threads"
[components.near]
code = "near"
scope = "session"
[components.far]
code = "far"
[policy]
transport = "shm"
"""
NEAR = """
import gc
import threading

import far

def quickly():
    desks = [desk for desk in gc.get_objects() if type(desk).__name__ == "Desk"]
    return sum(desk.calls_out for desk in desks)

def called(calls):
    \"\"\"What a thread of its own is told of itself by the other shard, and how many of its calls went the quick way.\"\"\"
    seen = set()
    def calls_on():
        for _ in range(calls):
            seen.add(far.whose())
    thread = threading.Thread(target=calls_on)
    before = quickly()
    thread.start()
    thread.join()
    return far.whose(), seen, quickly() - before
"""
FAR = """
from shardwright.guest._context import current_call

def whose():
    return current_call.get().session, current_call.get().session_name
"""
CALLS = 200


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_a_thread_calls_the_quick_way_for_the_session_of_its_shard(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    found: dict[str, tuple[tuple[int, str], set[Any], int]] = {}
    with running(write_application(tmp_path, MANIFEST, near=NEAR, far=FAR)) as node:

        def one(name: str) -> None:
            with node.session(name) as session:
                found[name] = session.call("near.called", CALLS)

        for names in (["a", "b", "c"], ["d", "e"]):  # the later ones may get shards that served others
            threads = [threading.Thread(target=one, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert sorted(found) == ["a", "b", "c", "d", "e"]
    for name, (own, seen, quickly) in found.items():
        assert seen == {own}
        assert own[1] == name
        assert quickly >= CALLS - 5, quickly  # all but the first, which finds the way
    assert len({own for own, _, _ in found.values()}) == 5
    record_exercised("calls of threads that sessions began", 5 * CALLS)
