"""Code that no call runs, threads of a session's own shard and what a run executes: it calls for its session, quickly."""

from __future__ import annotations

import subprocess
import sys
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


PROGRAM = """
import gc
import sys

import far

def main():
    desks = [desk for desk in gc.get_objects() if type(desk).__name__ == "Desk"]
    before = sum(desk.calls_out for desk in desks)
    seen = {far.whose()[0] for _ in range(200)}
    try:
        far.fail()
    except LookupError as error:
        told = error.args
    print(len(seen), min(seen) > 0, told, sum(desk.calls_out for desk in desks) - before)
"""


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_what_a_run_executes_calls_the_quick_way(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    manifest = MANIFEST.replace('name = "threads"', 'name = "threads"\nmain = "near:main"')
    fails = FAR + "\ndef fail():\n    raise LookupError('as asked')\n"
    folder = write_application(tmp_path, manifest, near=PROGRAM, far=fails)
    ran = subprocess.run(
        [sys.executable, "-m", "shardwright", "run", "-q", str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told, _, quickly = ran.stdout.strip().rpartition(" ")
    assert told == "1 True ('as asked',)"
    assert int(quickly) >= CALLS - 5, quickly
    record_exercised("calls of what a run executes", CALLS)
