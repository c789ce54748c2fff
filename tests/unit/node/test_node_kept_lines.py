"""Kept lines: bounded in lines and in bytes, each writer with its part."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from shardwright.node._api_lines import FOLLOWER_BYTES, Follower
from shardwright.node._kept_lines import LINE_BYTES, KeptLines


@dataclass(frozen=True)
class Line:
    sequence: int
    text: str
    logger: str = ""


def held(kept: KeptLines[Line]) -> int:
    return sum(LINE_BYTES + sys.getsizeof(line.text) + sys.getsizeof(line.logger) for line in kept)


def test_what_is_kept_is_bounded_in_bytes_as_python_holds_them() -> None:
    kept: KeptLines[Line] = KeptLines(1000, limit_bytes=1_000_000)
    for number in range(100):
        kept.append(
            Line(number, "\U0001f4a3" + "x" * 50_000), "web-1"
        )  # one such character makes all of them four bytes
    assert [line.sequence for line in kept] == [96, 97, 98, 99]
    assert kept.held_bytes == held(kept) <= 1_000_000


def test_a_chatty_writer_displaces_its_own_lines() -> None:
    kept: KeptLines[Line] = KeptLines(100, limit_bytes=1_000_000)
    for number in range(20):
        kept.append(Line(number, "quiet"), "quiet-1")
    for number in range(20, 2000):
        kept.append(Line(number, "x" * 10_000), "chatty-1")
    for number in range(2000, 4000):
        kept.append(Line(number, ""), "chatty-2")
    sequences = [line.sequence for line in kept]
    assert sequences[:20] == list(range(20))
    assert sequences == sorted(sequences)
    assert len(kept) == len(sequences) <= 100
    assert {20 <= number < 2000 for number in sequences} == {True, False}


def test_writers_that_began_late_find_room() -> None:
    kept: KeptLines[Line] = KeptLines(1000, limit_bytes=100_000)
    for number in range(500):
        kept.append(Line(number, "x" * 1000), "first-1")
    for number in range(500, 520):
        kept.append(Line(number, "x" * 1000), "second-1")
    assert [line.sequence for line in kept if line.sequence >= 500] == list(range(500, 520))


def test_what_ended_writers_left_is_one_part() -> None:
    kept: KeptLines[Line] = KeptLines(50)
    for number in range(500):
        kept.append(Line(number, "short life"), f"job-{number}")
        kept.ended(f"job-{number}", "job")
    for number in range(500, 520):
        kept.append(Line(number, "long life"), "web-1")
    assert [line.text for line in kept] == ["short life"] * 30 + ["long life"] * 20
    kept.ended("nobody", "nothing")
    assert len(kept) == 50


def test_a_line_larger_than_everything_is_not_kept() -> None:
    kept: KeptLines[Line] = KeptLines(50, limit_bytes=1000)
    kept.append(Line(1, "x" * 5000), "web-1")
    assert list(kept) == [] and kept.held_bytes == 0


def test_what_waits_for_a_follower_is_bounded_in_bytes() -> None:
    async def run() -> None:
        follower = Follower(2000, [{"text": "kept"}])
        for number in range(2000):
            follower.put({"text": "\U0001f4a3" + "x" * 20_000, "sequence": number})
        assert sum(sys.getsizeof(line["text"]) for line in follower.queue) <= FOLLOWER_BYTES
        assert follower.lost + len(follower.queue) == 2000
        assert follower.queue[-1]["sequence"] == 1999
        assert list(follower.kept) == [{"text": "kept"}]  # that happened before, and does not give way
        while follower.queue:
            follower.take()
        follower.put({"text": "x"})
        assert len(follower.queue) == 1

    asyncio.run(run())


def test_any_thread_may_look_while_another_writes(record_exercised: Callable[[str, int], None]) -> None:
    kept: KeptLines[Line] = KeptLines(2000)
    for number in range(1000):
        kept.append(Line(number, "kept"), "stays")
    ended = threading.Event()
    looks = 0

    def write() -> None:
        for shard in itertools.count(50):
            for number in range(20 * shard, 20 * shard + 20):
                kept.append(Line(number, "new"), f"shard-{shard}")
            kept.ended(f"shard-{shard}", "heir")
            if ended.is_set():
                return

    writer = threading.Thread(target=write)
    before, _ = sys.getswitchinterval(), sys.setswitchinterval(1e-5)
    writer.start()
    try:
        until = time.monotonic() + 0.5
        while time.monotonic() < until or looks < 50:
            found = [line.sequence for line in kept]
            assert found == sorted(set(found)) and len(found) >= 1000
            looks += 1
    finally:
        ended.set()
        writer.join()
        sys.setswitchinterval(before)
    record_exercised("looks at lines that another thread wrote meanwhile", looks)
