"""Logs: lines of many shards, tagged; what a shard sends cannot do more than be text."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from shardwright.node._logs import LAST_LINE, MAX_LINE, READ_BYTES, READ_LINES, LogLine, Logs, matches


def collect(*writes: bytes, capacity: int = 20_000) -> list[LogLine]:
    """The lines of one shard that wrote this and ended."""

    async def run() -> list[LogLine]:
        logs = Logs(lambda shard, number: {7: "seven"}.get(number, ""), capacity)
        write = logs.pipe("web-00000001")
        for data in writes:
            await asyncio.get_running_loop().run_in_executor(None, _all, write, data)
        os.close(write)
        await _until(lambda: not logs._pipes)
        logs.close()
        return logs.since()

    return asyncio.run(run())


def _all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.001)


def texts(lines: list[LogLine]) -> list[str]:
    return [line.text for line in lines]


def test_lines_come_whole_however_they_are_cut() -> None:
    assert texts(collect(b"one\ntw", b"o\n", b"three")) == ["one", "two", "three"]


def test_a_tag_tells_stream_session_level_and_logger() -> None:
    (line,) = collect(b'\x1e{"o": "log", "s": 7, "l": "INFO", "n": "a.b", "p": 1}\x1fhello\n')
    assert (line.stream, line.session, line.level, line.logger, line.partial, line.text) == (
        "log", "seven", "INFO", "a.b", True, "hello",
    )  # fmt: skip
    assert line.shard == "web-00000001"


def test_tags_that_are_none_are_text() -> None:
    odd = [
        b"\x1enot json\x1fx", b"\x1e[1]\x1fx", b"\x1e\x1f", b"\x1e" + b"[" * 60_000 + b"\x1fx", b"\x1e{\x1fx", b"\x1e3\x1fx",
        b'\x1e{"s": ' + b"9" * 5000 + b"}\x1fx",
    ]  # fmt: skip
    lines = collect(b"\n".join(odd) + b"\n")
    assert len(lines) == len(odd)
    assert all(line.stream == "raw" and line.session == "" for line in lines)


def test_tags_with_strange_values_are_harmless() -> None:
    lines = collect(
        b'\x1e{"o": {"a": [1]}, "s": "7", "l": null, "n": ["' + b"n" * 5000 + b'"], "p": []}\x1fx\n\x1e{"s": 8}\x1fy\n'
        b'\x1e{"s": true}\x1fz\n'
    )
    assert texts(lines) == ["x", "y", "z"]
    assert all(line.session == "" and len(line.stream) <= 16 and len(line.logger) <= 128 for line in lines)


def test_bytes_that_are_no_text_are_shown() -> None:
    assert texts(collect(b"\xff\x00\xc3\xa9\n")) == ["\\xff\x00é"]


def test_a_line_without_end_does_not_fill_our_memory() -> None:
    lines = collect(b"x" * (10 * MAX_LINE))
    assert sum(len(line.text) for line in lines) == 10 * MAX_LINE
    assert max(len(line.text) for line in lines) <= 2 * MAX_LINE


def test_no_more_than_the_capacity_is_kept() -> None:
    lines = collect(b"".join(b"%d\n" % n for n in range(500)), capacity=100)
    assert texts(lines) == [str(n) for n in range(400, 500)]
    assert [line.sequence for line in lines] == list(range(401, 501))


def test_lines_are_found_by_shard_component_and_session() -> None:
    (line,) = collect(b'\x1e{"s": 7}\x1fx\n')
    assert matches(line, "", "") and matches(line, "web", "") and matches(line, "web-00000001", "seven")
    assert not matches(line, "we", "") and not matches(line, "web", "eight")


def test_the_last_lines_of_a_shard_are_at_hand_until_it_is_forgotten() -> None:
    async def run() -> None:
        logs = Logs(lambda shard, number: "")
        heard: list[str] = []
        stop = logs.subscribe(lambda line: heard.append(line.text))
        write = logs.pipe("web-00000001")
        os.write(write, b"".join(b"%d\n" % n for n in range(50)))
        logs.drain()
        assert logs.last_lines("web-00000001") == tuple(str(n) for n in range(30, 50))
        stop()
        os.write(write, b"more\n")
        logs.drain()
        assert len(heard) == 50
        logs.forget("web-00000001")
        assert logs.last_lines("web-00000001") == ()
        os.close(write)
        logs.close()

    asyncio.run(run())


def test_what_is_no_text_is_cut_after_it_was_escaped() -> None:
    lines = collect(b"\xff" * (MAX_LINE - 10) + b"\nnext\n")
    assert max(len(line.text) for line in lines) <= MAX_LINE
    assert "".join(texts(lines)) == "\\xff" * (MAX_LINE - 10) + "next"
    assert [line.partial for line in lines] == [True, True, True, False, False]


def test_a_long_line_is_not_cut_inside_a_character() -> None:
    for character in ("é", "€", "\U0001f4a3"):
        text = "x" + character * MAX_LINE
        lines = collect(text.encode())
        assert "".join(texts(lines)) == text
        assert [line.partial for line in lines] == [True] * (len(lines) - 1) + [False]


def test_the_last_lines_of_a_shard_are_short() -> None:
    async def run() -> None:
        logs = Logs(lambda shard, number: "")
        write = logs.pipe("web-00000001")
        os.write(write, b"x" * 5000 + b"\n")
        logs.drain()
        assert [len(line) for line in logs.last_lines("web-00000001")] == [LAST_LINE]
        assert [len(line.text) for line in logs.since()] == [5000]
        os.close(write)
        logs.close()

    asyncio.run(run())


def test_one_turn_of_the_loop_reads_a_bounded_piece_of_each_shard() -> None:
    async def run() -> None:
        logs = Logs(lambda shard, number: "")
        write = logs.pipe("web-00000001")
        os.write(write, b"\n" * 60_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = len(logs.since())
        assert 0 < first <= READ_LINES + READ_BYTES
        await _until(lambda: len(logs.since()) == 20_000)  # the capacity
        os.close(write)
        logs.close()

    asyncio.run(run())
