"""A link: each outgoing call has exactly one outcome, whatever races."""

from __future__ import annotations

import random
import threading
import time
from queue import Empty, SimpleQueue
from typing import Any

import pytest

from shardwright.errors import ChannelClosed, DeadlineExceeded, MessageTooLarge, ProtocolViolation
from shardwright.guest import Link
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import pack, shm, unpack

LONG = 10.0


class Ticket:
    def __init__(self) -> None:
        self.got: SimpleQueue[Any] = SimpleQueue()

    def deliver(self, outcome: Envelope | ChannelClosed) -> None:
        self.got.put(outcome)


def call(link: Link, payload: bytes = b"\0", **fields: Any) -> Envelope:
    return Envelope(Kind.CALL, link.next_id(), codec=PayloadCodec.TAGGED, payload=payload, **fields)


def received(far: Any) -> Envelope:
    frame = far.receive(timeout_s=LONG)
    assert frame is not None
    return unpack(frame)


def reply(far: Any, number: int, kind: Kind = Kind.RESULT) -> None:
    far.send(pack(Envelope(kind, number, codec=PayloadCodec.TAGGED, payload=b"\0")))


def test_a_reply_goes_to_its_call_once(wires: Any) -> None:
    link, far = wires.link()
    first, second = Ticket(), Ticket()
    link.begin(one := call(link), first)
    link.begin(two := call(link), second)
    assert received(far).call_id == one.call_id and received(far).call_id == two.call_id
    reply(far, two.call_id)
    reply(far, two.call_id)  # again
    reply(far, 999)  # nobody's
    reply(far, one.call_id, Kind.ERROR)
    assert first.got.get(timeout=LONG).kind is Kind.ERROR
    assert second.got.get(timeout=LONG).kind is Kind.RESULT
    assert link.in_flight == 0 and not link.closed
    assert second.got.empty() and first.got.empty()


def test_an_abandoned_call_is_cancelled_and_its_reply_dropped(wires: Any) -> None:
    link, far = wires.link()
    ticket, other = Ticket(), Ticket()
    link.begin(one := call(link), ticket)
    assert link.abandon(one.call_id)
    assert not link.abandon(one.call_id)
    received(far)
    assert (cancel := received(far)).kind is Kind.CANCEL and cancel.call_id == one.call_id
    reply(far, one.call_id)
    link.begin(two := call(link), other)
    reply(far, two.call_id)
    assert other.got.get(timeout=LONG).kind is Kind.RESULT
    assert ticket.got.empty()


@pytest.mark.parametrize("end", ["peer closes", "we close", "garbage", "a huge length", "an empty frame"])
def test_the_end_of_a_channel_is_the_outcome_of_what_waits(wires: Any, end: str) -> None:
    rings = isinstance(wires.transport, shm.RingTransport)
    if rings and end == "a huge length":
        wires.hub.transport.max_message_bytes = 1024
    link, far = wires.link()
    tickets = [Ticket() for _ in range(5)]
    for ticket in tickets:
        link.begin(call(link), ticket)
    match end:
        case "peer closes":
            far.close()
        case "we close":
            link.close()
        case "garbage":
            far.send([b"nonsense"])
        case "a huge length":
            if rings:
                far.send([bytes(1025)])
            else:
                far._socket.sendall(b"\xff\xff\xff\xff")
        case "an empty frame":
            far.send([b""])
    for ticket in tickets:
        outcome = ticket.got.get(timeout=LONG)
        assert isinstance(outcome, ChannelClosed)
        assert isinstance(outcome, ProtocolViolation) == (end not in ("peer closes", "we close"))
    assert link.closed and link.in_flight == 0
    with pytest.raises(ChannelClosed):
        link.begin(call(link), Ticket())
    for ticket in tickets:
        assert ticket.got.empty()


def test_what_cannot_be_sent_has_no_outcome_but_the_error(wires: Any) -> None:
    link, _ = wires.link()
    ticket = Ticket()
    with pytest.raises(MessageTooLarge):
        link.begin(call(link, bytes(70 * 2**20)), ticket)
    with pytest.raises(DeadlineExceeded):
        link.begin(call(link, deadline_ns=time.monotonic_ns() - 1), ticket)
    assert link.in_flight == 0 and not link.closed and ticket.got.empty()


@pytest.mark.parametrize("seed", range(5))
def test_one_outcome_each_when_replies_closing_and_giving_up_race(wires: Any, seed: int) -> None:
    link, far = wires.link()
    stop = threading.Event()

    def answer() -> None:
        own = random.Random(seed)
        while True:
            try:
                frame = far.receive(timeout_s=0.5)
            except ChannelClosed:
                return
            if frame is None:
                if stop.is_set():
                    return
                continue
            envelope = unpack(frame)
            if envelope.kind is Kind.CALL and own.random() < 0.8:
                for _ in range(own.choice([1, 1, 2])):
                    try:
                        reply(far, envelope.call_id)
                    except ChannelClosed:
                        return

    told: list[list[Any]] = []
    mutex = threading.Lock()

    def calls(own: random.Random) -> None:
        for _ in range(100):
            ticket, found = Ticket(), []
            envelope = call(link)
            try:
                link.begin(envelope, ticket)
            except ChannelClosed:
                found.append("not begun")
            else:
                try:
                    found.append(ticket.got.get(timeout=own.choice([0.0, 0.001, 0.01])))
                except Empty:
                    if link.abandon(envelope.call_id):
                        found.append("abandoned")
                    else:
                        found.append(ticket.got.get(timeout=LONG))
            with mutex:
                told.append([*found, ticket])

    def close() -> None:
        threading.Event().wait(random.Random(seed).choice([0.02, 0.05, 0.2]))
        link.close()

    threads = [threading.Thread(target=calls, args=(random.Random(seed * 10 + i),)) for i in range(4)]
    others = [threading.Thread(target=answer), threading.Thread(target=close)]
    for thread in threads + others:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    stop.set()
    for thread in others:
        thread.join(30)
        assert not thread.is_alive()
    assert len(told) == 400
    assert all(len(each) == 2 and each[1].got.empty() for each in told)
    assert link.in_flight == 0


def test_a_message_that_defeats_us_costs_its_sender_the_channel_and_nobody_else(wires: Any) -> None:
    """The hub's one thread serves all links: it must outlive any of them."""

    class Clumsy:
        def on_message(self, link: Link, envelope: Envelope) -> None:
            raise RuntimeError("a defect")

        def on_link_closed(self, link: Link) -> None:
            closed.set()

    closed = threading.Event()
    bad, bad_far = wires.link("bad-00000001", Clumsy())
    good, good_far = wires.link("good-00000001")
    bad_far.send(pack(Envelope(Kind.CALL, 1)))
    assert closed.wait(LONG) and bad.closed
    ticket = Ticket()
    good.begin(one := call(good), ticket)
    reply(good_far, one.call_id)
    assert ticket.got.get(timeout=LONG).kind is Kind.RESULT
