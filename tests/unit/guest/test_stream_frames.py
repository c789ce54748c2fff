"""Streams against a consumer that keeps to nothing: unknown ones, steps out of turn, credits beyond reason, and too many."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shardwright.errors import CallError, HandleExpired, NotPermitted, Overloaded
from shardwright.guest import _streams
from shardwright.guest._runtime import peer_of
from shardwright.guest._streams import CLOSE, MAX_ITEMS, NEXT, SEND, THROW
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import MethodId, SessionNumber
from shardwright.transport import pack, unpack
from shardwright.transport.codec import joined

LONG = 10.0
MANIFEST = """
    [app]
    name = "frames"
    [components.maker]
    code = "maker"
    state = "memory"
    ahead = ["maker:rows"]
    [components.user]
    code = "user"
"""
MAKER = """
    import threading
    closed = []
    made = 0
    gate = threading.Event()

    def rows(count):
        global made
        try:
            for number in range(count):
                made += 1
                yield number
        finally:
            closed.append(count)

    def waits():
        gate.wait(10)
        yield 1

    async def later(count):
        try:
            for number in range(count):
                yield number
        finally:
            closed.append("later")

    def listed(count):
        if count:
            return [1]
        yield 1

    def ping():
        return "pong"

    def told():
        return made, list(closed)

    def open_gate():
        gate.set()
"""
USER = """
    import maker

    def use():
        return list(maker.rows(2)), maker.later, maker.waits, maker.listed, maker.ping(), maker.told(), maker.open_gate
"""


class Consumer:
    """The bare other end of a link to ``maker``."""

    def __init__(self, town: Any, shard: str = "user-00000009") -> None:
        ours, theirs = town.transport.pair()
        self.far = town.transport.open(ours)
        self.runtime = town.runtimes["maker"]
        self.codec = self.runtime.codec("user", "maker")
        self.runtime.connect(town.transport.open(theirs), peer_of("user", shard, None), outgoing=False)
        self._definition = town.plan.definition("maker")
        self._memos: dict[int, Any] = {}
        self._opened: dict[int, Any] = {}  # those of the calls that opened streams

    def send(
        self, kind: Kind, number: int, value: Any = None, *, method: str = "rows", raw: bytes | None = None
    ) -> None:
        payload, memo = raw, None
        if payload is None:
            payload, _, memo = self.codec.encode_request(value)
        if kind is Kind.CALL:
            self._opened[number] = memo
        self._memos[number] = joined(self._opened.get(number), memo) if kind is Kind.DATA else memo
        found: MethodId = self._definition.entry(method).method_id
        codec = PayloadCodec.TAGGED if payload else PayloadCodec.NONE
        self.far.send(pack(Envelope(kind, number, SessionNumber(1), found, codec=codec, payload=payload)))

    def call(self, number: int, method: str, *args: Any) -> Any:
        self.send(Kind.CALL, number, (None, args, None), method=method)
        return self.answer(number)

    def step(self, number: int, op: Any, value: Any = None, credit: Any = 1) -> Any:
        self.send(Kind.DATA, number, (op, value, credit))
        return self.answer(number)

    def answer(self, number: int) -> Any:
        reply = unpack(self.far.receive(timeout_s=LONG))
        assert reply.call_id == number
        if reply.kind is Kind.ERROR:
            return self.codec.decode_error(reply.payload, reply.buffers, self._memos[number])
        return self.codec.decode_reply(reply.payload, reply.buffers, self._memos[number])


@pytest.fixture
def consumer(town: Callable[..., Any]) -> Iterator[Consumer]:
    found = Consumer(town(MANIFEST, maker=MAKER, user=USER))
    yield found
    found.far.close()


def becomes(check: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + LONG
    while not check() and time.monotonic() < end_s:
        time.sleep(0.001)
    return check()


def test_a_stream_goes_from_its_call_to_its_end(consumer: Consumer) -> None:
    assert consumer.call(5, "rows", 4) == (0, (0,), None)
    assert consumer.step(5, NEXT) == (0, (1,), None)
    assert consumer.step(5, NEXT, None, MAX_ITEMS) == (1, (2, 3), None)
    assert becomes(lambda: len(consumer.runtime.responder.streams) == 0)
    assert consumer.call(6, "later", 2) == (0, (0,), None)
    assert consumer.step(6, CLOSE) == (1, (), None)
    assert consumer.call(7, "told") == (4, [4, "later"])


def test_unknown_streams_are_told_so_and_nothing_else(consumer: Consumer) -> None:
    for number in (0, 1, 77, 2**64 - 1):
        error = consumer.step(number, NEXT)
        assert isinstance(error, CallError) and error.outcome == "not started"
        consumer.send(Kind.CANCEL, number, raw=b"")
    assert consumer.call(5, "rows", 1)[1] == (0,)
    assert consumer.step(5, NEXT) == (1, (), None)
    assert isinstance(consumer.step(5, NEXT), CallError)  # it has ended
    assert consumer.call(5, "rows", 1)[1] == (0,), "and its number is free"


def test_a_call_by_the_number_of_an_open_stream_is_refused_and_harms_it_not(consumer: Consumer) -> None:
    assert consumer.call(5, "rows", 3)[1] == (0,)
    assert isinstance(consumer.call(5, "rows", 9), NotPermitted)
    assert consumer.step(5, NEXT) == (0, (1,), None)
    assert consumer.call(5, "ping") == "pong"  # an ordinary call, as it happens
    assert consumer.step(5, NEXT) == (0, (2,), None)


@pytest.mark.parametrize(
    "value",
    [
        (NEXT, None, 0),
        (NEXT, None, -1),
        (NEXT, None, MAX_ITEMS + 1),
        (NEXT, None, 2**64),
        (NEXT, 1, 1),
        (4, None, 1),
        (-1, None, 1),
        (THROW, "no exception", 1),
        (CLOSE, 1, 1),
        (NEXT, None),
        ("next", None, 1),
        (None, (), None),
        None,
    ],
    ids=repr,
)
def test_what_is_no_step_ends_the_stream(consumer: Consumer, value: Any) -> None:
    assert consumer.call(5, "rows", 3)[1] == (0,)
    consumer.send(Kind.DATA, 5, value)
    error = consumer.answer(5)
    assert isinstance(error, CallError) and not isinstance(error, HandleExpired)
    assert becomes(lambda: consumer.call(6, "told") == (1, [3]))
    assert len(consumer.runtime.responder.streams) == 0


def test_bytes_that_are_none_end_the_stream(consumer: Consumer) -> None:
    assert consumer.call(5, "rows", 3)[1] == (0,)
    consumer.send(Kind.DATA, 5, raw=b"\xff\xff")
    assert isinstance(consumer.answer(5), CallError)
    assert becomes(lambda: consumer.call(6, "told") == (1, [3]))


def test_a_step_before_the_last_one_was_answered_is_refused(consumer: Consumer) -> None:
    consumer.send(Kind.CALL, 5, (None, (), None), method="waits")
    assert becomes(lambda: len(consumer.runtime.responder.streams) == 1)
    assert isinstance(consumer.step(5, NEXT), NotPermitted)
    consumer.runtime.resolve("maker", "gate").set()
    reply = unpack(consumer.far.receive(timeout_s=LONG))
    assert (reply.kind, reply.call_id) == (Kind.RESULT, 5)


def test_sending_to_what_takes_nothing_and_throwing_at_what_catches_nothing(consumer: Consumer) -> None:
    assert consumer.call(5, "rows", 3)[1] == (0,)
    assert consumer.step(5, SEND, "ignored") == (0, (1,), None)
    error = consumer.step(5, THROW, KeyError("k"))
    assert isinstance(error, KeyError)
    assert consumer.call(6, "told") == (2, [3])


def test_streams_are_bounded_and_end_with_their_link(town: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_streams, "MAX_STREAMS", 6)
    here = town(MANIFEST, maker=MAKER, user=USER)
    one, two = Consumer(here), Consumer(here, "user-00000008")
    try:
        assert [one.call(number, "rows", 9)[1] for number in range(1, 4)] == [(0,)] * 3
        refused = one.call(4, "rows", 9)
        assert isinstance(refused, Overloaded) and refused.outcome == "not started"
        assert [two.call(number, "rows", 8)[1] for number in range(1, 4)] == [(0,)] * 3
        one.far.close()
        assert becomes(lambda: two.call(9, "told") == (6, [9, 9, 9]))
        assert len(here.runtimes["maker"].responder.streams) == 3
        two.send(Kind.CANCEL, 1, raw=b"")
        assert becomes(lambda: two.call(9, "told") == (6, [9, 9, 9, 8]))
        here.runtimes["maker"].session_ends(SessionNumber(1))
        assert becomes(lambda: two.call(9, "told") == (6, [9, 9, 9, 8, 8, 8]))
        assert len(here.runtimes["maker"].responder.streams) == 0
    finally:
        two.far.close()


def test_what_gives_no_generator_after_all_is_said(consumer: Consumer) -> None:
    assert consumer.call(5, "rows", 0) == (1, (), None)
    done = consumer.call(6, "listed", 1)  # a generator all the same: its list is what it returns
    assert done == (1, (), [1])
    assert becomes(lambda: len(consumer.runtime.responder.streams) == 0)


def test_cancelling_while_it_runs_closes_it(consumer: Consumer) -> None:
    consumer.send(Kind.CALL, 5, (None, (), None), method="waits")
    assert becomes(lambda: consumer.runtime.responder.busy)
    consumer.send(Kind.CANCEL, 5, raw=b"")
    consumer.runtime.resolve("maker", "gate").set()
    assert becomes(lambda: not consumer.runtime.responder.busy and len(consumer.runtime.responder.streams) == 0)
