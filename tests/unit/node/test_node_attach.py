"""The terminal between a client and a debugger: what Ctrl-C drops, and what it must not."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator

import pytest

from shardwright.node._attach import terminal, typed

ROUNDS = 3_000


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    pair = terminal(24, 80)
    yield pair
    for descriptor in pair:
        os.close(descriptor)


def read_until(descriptor: int, *texts: bytes, timeout_s: float) -> bytes:
    shown, end_s = b"", time.monotonic() + timeout_s
    while not all(text in shown for text in texts) and (left_s := end_s - time.monotonic()) > 0:
        if select.select([descriptor], [], [], left_s)[0]:
            shown += os.read(descriptor, 4096)
    return shown


def test_ctrl_c_drops_nothing_of_what_is_said_meanwhile(
    ends: tuple[int, int], record_exercised: Callable[[str, int], None]
) -> None:
    """What the debugger answers to Ctrl-C may be on its way before the terminal has heeded that (one in 17, measured)."""
    ours, theirs = ends
    for number in range(ROUNDS):
        said = f"stops in thread {number};".encode()
        os.write(ours, typed(b"\x03"))
        os.write(theirs, said)
        shown = read_until(ours, said, b"^C", timeout_s=20)
        assert said in shown and b"^C" in shown, (number, shown)
    record_exercised("answers under way when Ctrl-C came", ROUNDS)


def test_ctrl_c_drops_the_half_of_a_line_that_was_typed(ends: tuple[int, int]) -> None:
    ours, theirs = ends
    os.write(ours, typed(b"half a li"))
    assert read_until(ours, b"half a li", timeout_s=20) == b"half a li"
    os.write(ours, typed(b"\x03"))
    assert b"^C" in read_until(ours, b"^C", timeout_s=20)
    os.write(ours, typed(b"p 1\n"))
    assert os.read(theirs, 4096) == b"p 1\n"


def test_it_has_the_clients_size(ends: tuple[int, int]) -> None:
    assert os.get_terminal_size(ends[1]) == (80, 24)
