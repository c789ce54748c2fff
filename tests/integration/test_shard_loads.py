"""Silence and reuse: the node asks shards before it gives them back, and before they serve somebody else."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import shardwright
from guest_apps import journal_rows, write_application
from shardwright.errors import CallError
from waiting import eventually

BOTH = pytest.mark.parametrize("inproc", [False, True], ids=["process", "inproc"])
IDLE = """
[app]
name = "idle"
[components.a]
code = "a"
scope = "session"
state = "memory"
idle_timeout = "0.4s"
"""
COUNTS = """
import time

n = 0


def bump():
    global n
    n += 1
    return n


def slow(seconds):
    time.sleep(seconds)
    return bump()
"""


@BOTH
def test_a_session_whose_shard_is_used_is_not_silent(tmp_path: Path, inproc: bool) -> None:
    folder = write_application(tmp_path / "app", IDLE, a=COUNTS)
    with shardwright.start(folder, state=folder / ".state", inproc=inproc) as node, node.session("s") as session:
        begun_s, count = time.monotonic(), 0
        while time.monotonic() - begun_s < 1.5:  # several timeouts
            count += 1
            assert session.call("a.bump") == count
            time.sleep(0.1)
        assert session.call("a.slow", 1.2) == count + 1
        assert journal_rows(folder, "unbind") == []
        assert eventually(lambda: bool(journal_rows(folder, "unbind")))  # now it is
        assert eventually(lambda: not node.shards())


def test_a_shard_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", IDLE, a=COUNTS)
    with shardwright.start(folder, state=folder / ".state") as node, node.session("s") as session:
        session.call("a.bump")
        (shard,) = node.shards()
        os.kill(shard.pid, signal.SIGSTOP)
        assert eventually(lambda: bool(journal_rows(folder, "unbind")))
        assert eventually(lambda: not node.shards())


REUSE = """
[app]
name = "reuse"
[components.a]
code = "a"
scope = "session"
state = "none"
reuse = true
warm = {min = 1, max = 1}
[components.a.usage]
max_instances = 1
"""
BUSY = """
import os
import time
from pathlib import Path


def busy(mark, seconds):
    Path(mark).touch()
    time.sleep(seconds)


def ping():
    return os.getpid()
"""


@BOTH
def test_a_shard_that_still_works_for_one_session_serves_no_other(tmp_path: Path, inproc: bool) -> None:
    folder = write_application(tmp_path / "app", REUSE, a=BUSY)
    mark = tmp_path / "mark"
    with shardwright.start(folder, state=folder / ".state", inproc=inproc) as node:
        first = node.session("one")

        def call() -> None:
            with pytest.raises(CallError):
                first.call("a.busy", str(mark), 3)

        thread = threading.Thread(target=call)
        thread.start()
        assert eventually(mark.exists)
        (before,) = node.shards()
        first.end()
        with node.session("two") as second:
            assert second.call("a.ping")
            (after,) = node.shards()
            assert after.id != before.id
        thread.join(10)
        assert any("did not become free" in reason for *_, reason in journal_rows(folder))


def test_a_shard_that_is_free_serves_the_next_session(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", REUSE, a=BUSY)
    with shardwright.start(folder, state=folder / ".state") as node:
        found = set()
        for number in range(3):
            with node.session(f"s{number}") as session:
                found.add(session.call("a.ping"))
        assert len(found) == 1
