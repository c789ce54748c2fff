"""What is special to the inproc transport: its exact bounds, and whose endpoints it opens."""

from __future__ import annotations

import contextlib
import time

import pytest

from shardwright.errors import ChannelClosed, DeadlineExceeded
from shardwright.transport.inproc import InprocTransport


@contextlib.contextmanager
def _channels(transport):
    first, second = map(transport.open, transport.pair())
    with contextlib.closing(first), contextlib.closing(second):
        yield first, second


def _soon() -> int:
    return time.monotonic_ns() + 10_000_000


def test_the_number_of_messages_is_bounded():
    with _channels(InprocTransport(capacity_messages=3)) as (first, second):
        for _ in range(3):
            first.send([b""], deadline_ns=_soon())
        with pytest.raises(DeadlineExceeded) as caught:
            first.send([b""], deadline_ns=_soon())
        assert caught.value.outcome == "not started"
        second.receive()
        first.send([b""], deadline_ns=_soon())


def test_the_bytes_are_bounded_and_one_larger_message_passes_alone():
    with _channels(InprocTransport(capacity_bytes=100)) as (first, second):
        first.send([bytes(60)])
        first.send([bytes(40)])
        with pytest.raises(DeadlineExceeded):
            first.send([b"x"], deadline_ns=_soon())
        assert [len(second.receive()) for _ in range(2)] == [60, 40]
        first.send([bytes(1000)], deadline_ns=_soon())
        with pytest.raises(DeadlineExceeded):
            first.send([b""], deadline_ns=_soon())
        assert len(second.receive()) == 1000


def test_endpoints_are_opened_once_and_by_their_maker():
    maker, other = InprocTransport(), InprocTransport()
    here, there = maker.pair()
    with pytest.raises(ChannelClosed, match="that made it"):
        other.open(here)
    channel = maker.open(here)
    with pytest.raises(ChannelClosed, match="that made it"):
        maker.open(here)
    maker.dispose(there)
    maker.dispose(there)
    channel.close()


@pytest.mark.parametrize("bounds", [{"capacity_bytes": -1}, {"capacity_messages": 0}, {"max_message_bytes": -1}])
def test_bounds_that_let_nothing_through_are_refused(bounds):
    with pytest.raises(ValueError, match="bounds"):
        InprocTransport(**bounds)


def test_it_says_what_it_is():
    transport = InprocTransport(capacity_bytes=7)
    assert "capacity_bytes=7" in repr(transport)
    with _channels(transport) as (first, second):
        assert "open" in repr(first)
        second.close()
        assert "closed" in repr(first)
