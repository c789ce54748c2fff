"""Links whose peers are slow: who waits, who does not, and who closes what."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest

from shardwright.errors import ChannelClosed
from shardwright.guest import Link, _link
from shardwright.guest._mailbox import Mailbox
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.transport import pack, unpack

LONG = 10.0
LARGE = 4 * 2**20  # more than a socket takes


class Ticket:
    def __init__(self) -> None:
        self.told = threading.Event()
        self.outcome: Any = None

    def deliver(self, outcome: Any) -> None:
        self.outcome = outcome
        self.told.set()


def answers(link: Link, far: Any) -> bool:
    """Whether a call over the link is answered: the hub reads it."""
    ticket = Ticket()
    link.begin(call := Envelope(Kind.CALL, link.next_id()), ticket)
    assert unpack(far.receive(timeout_s=LONG)).call_id == call.call_id
    far.send(pack(Envelope(Kind.RESULT, call.call_id, codec=PayloadCodec.TAGGED, payload=b"\0")))
    assert ticket.told.wait(LONG)
    return isinstance(ticket.outcome, Envelope)


def large(number: int = 1) -> Envelope:
    return Envelope(Kind.RESULT, number, codec=PayloadCodec.TAGGED, payload=bytes(LARGE))


def test_a_peer_that_takes_nothing_is_cut_off_and_its_descriptor_may_be_used_again(
    wires: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_link, "REPLY_PATIENCE_NS", 20_000_000)
    slow, _ = wires.link("slow-00000001")
    waiting = Ticket()
    slow.begin(Envelope(Kind.CALL, slow.next_id()), waiting)
    slow.post(large())
    assert slow.closed and waiting.told.wait(LONG) and isinstance(waiting.outcome, ChannelClosed)
    for _ in range(5):  # these get the numbers of descriptors that were closed
        assert answers(*wires.link())


def test_the_hub_survives_a_channel_that_was_closed_behind_its_back(wires: Any) -> None:
    first, _ = wires.link("first-00000001")
    assert answers(*wires.link())  # so the first one is registered
    waiting = Ticket()
    first.begin(Envelope(Kind.CALL, first.next_id()), waiting)
    first.channel.close()
    for _ in range(4):
        assert answers(*wires.link())
    first.close()
    assert waiting.told.wait(LONG)


def test_a_defect_of_the_reading_thread_is_told_to_all_and_said(wires: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Defect:
        expecting = False

        def __init__(self, channel: Any) -> None:
            self.channel = channel
            self.arrived: deque[memoryview] = deque()

        def on_frame(self, frame: memoryview) -> None: ...

        def on_closed(self, reason: ChannelClosed, untaken: Sequence[bytes] = ()) -> None:
            raise ZeroDivisionError

    waiting = Ticket()
    link, _ = wires.link()
    link.begin(Envelope(Kind.CALL, link.next_id()), waiting)
    ours, theirs = wires.transport.pair()
    defect = Defect(wires.transport.open(ours))
    wires.transport.dispose(theirs)  # the end that it will hear of
    wires.hub.add(defect)
    assert waiting.told.wait(LONG) and "defect of Shardwright" in str(waiting.outcome)
    wires.hub._thread.join(LONG)
    assert "ZeroDivisionError" in capsys.readouterr().err
    try:
        late, _ = wires.link()
    except ChannelClosed:
        pass  # a ring does not even open
    else:
        assert late.closed


def test_a_send_that_waits_puts_the_baton_down_and_sends_what_was_there(wires: Any) -> None:
    mailbox = Mailbox(limit=3)
    link, far = wires.link()
    link.parking = mailbox
    argument = bytearray(LARGE)
    held_after: list[bool] = []
    done = threading.Event()

    def work() -> None:
        envelope = Envelope(
            Kind.CALL, link.next_id(), codec=PayloadCodec.TAGGED, payload=b"\0", buffers=(memoryview(argument),)
        )
        link.begin(envelope, Ticket())
        held_after.append(mailbox.holds())
        done.set()

    mailbox.submit(work)
    overtaken = threading.Event()

    def next_one() -> None:
        argument[:] = b"x" * LARGE
        overtaken.set()

    mailbox.submit(next_one)
    try:
        assert overtaken.wait(LONG)
        assert not held_after
        assert bytes(unpack(far.receive(timeout_s=LONG)).buffers[0]) == bytes(LARGE)
        assert done.wait(LONG) and held_after == [True]
    finally:
        mailbox.close()


def test_the_reading_thread_waits_for_nobody(wires: Any) -> None:
    from_hub = threading.Event()

    class Refusing:
        def on_message(self, link: Link, envelope: Envelope) -> None:
            link.post(large(7))
            link.post(Envelope(Kind.ERROR, 8, codec=PayloadCodec.TAGGED, payload=b"\0"))
            from_hub.set()

        def on_link_closed(self, link: Link) -> None: ...

    slow, slow_far = wires.link("slow-00000001", Refusing())
    # fill the channel, so that not even a part of the large one is taken
    for size in (1024, 0):
        while True:
            try:
                slow.channel.send([bytes(size)], before_waiting=_link._would_wait)
            except TimeoutError:
                break
    slow_far.send(pack(Envelope(Kind.CALL, 1)))
    assert from_hub.wait(LONG)
    assert answers(*wires.link())
    while len(frame := slow_far.receive(timeout_s=LONG)) in (0, 1024):
        pass
    assert unpack(frame).call_id == 7 and unpack(slow_far.receive(timeout_s=LONG)).call_id == 8
    assert not slow.closed
