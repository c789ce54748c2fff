"""A hub of rings: what comes before a link is added, and who is told."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shardwright.errors import ChannelClosed
from shardwright.guest import Link, make_hub
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import ComponentName, ShardId
from shardwright.transport import ClassTable, TaggedCodec, pack, shm

LONG = 10.0


class Heard:
    def __init__(self) -> None:
        self.messages: list[Envelope] = []
        self.came = threading.Semaphore(0)
        self.closed = threading.Event()

    def on_message(self, link: Link, envelope: Envelope) -> None:
        self.messages.append(envelope)
        self.came.release()

    def on_link_closed(self, link: Link) -> None:
        self.closed.set()


@pytest.fixture
def hub() -> Iterator[Any]:
    made = make_hub("test-hub", rings=True)
    yield made
    made.close()


def link(hub: Any, channel: Any, heard: Heard) -> Link:
    peer = Peer(ComponentName("far"), ShardId("far-00000001"))
    return Link(channel, peer, TaggedCodec(ClassTable((), lambda name: object)), hub, heard)


def becomes(true: Any) -> bool:
    end_s = time.monotonic() + LONG
    while not true():
        if time.monotonic() > end_s:
            return False
        threading.Event().wait(0.001)
    return True


@pytest.mark.parametrize("gone", [False, True])
def test_what_comes_before_its_link_is_added_is_heard_in_order_also_the_end(hub: Any, gone: bool) -> None:
    """Another link is added in between, so that somebody reads and looks at what nobody asked for yet."""
    transport = shm.RingTransport()
    ours, theirs = transport.pair()
    far = transport.open(theirs)
    early = hub.transport.open(ours)
    for number in (1, 2):
        far.send(pack(Envelope(Kind.CANCEL, number)))
    if gone:
        far.close()
    other_ours, other_theirs = transport.pair()
    other_far, other = transport.open(other_theirs), Heard()
    other_link = link(hub, hub.transport.open(other_ours), other)
    other_far.send(pack(Envelope(Kind.CANCEL, 9)))
    assert other.came.acquire(timeout=LONG)
    assert becomes(lambda: len(hub._early.get(early, ())) == 2 + gone)
    late_ours, late_theirs = transport.pair()
    late_far, late = transport.open(late_theirs), Heard()
    late_link = link(hub, hub.transport.open(late_ours), late)
    late_far.send(pack(Envelope(Kind.CANCEL, 8)))
    assert late.came.acquire(timeout=LONG)
    heard = Heard()
    early_link = link(hub, early, heard)
    for _ in range(2):
        assert heard.came.acquire(timeout=LONG)
    assert [envelope.call_id for envelope in heard.messages] == [1, 2]
    if gone:
        assert heard.closed.wait(LONG) and early_link.closed
    else:
        far.send(pack(Envelope(Kind.CANCEL, 3)))
        assert heard.came.acquire(timeout=LONG)
        assert not heard.closed.is_set()
    for each in (other_link, late_link, early_link, far, other_far, late_far):
        each.close()


def test_a_link_that_is_added_while_a_reader_is_about_to_take_is_not_forgotten(hub: Any) -> None:
    """The take forgets who poked before it. What came for that link before is all that ever comes: its end."""
    transport = shm.RingTransport()
    pairs = [transport.pair() for _ in range(2)]
    far, other_far = (transport.open(theirs) for _, theirs in pairs)
    early, other = hub.transport.open(pairs[0][0]), Heard()
    far.close()
    other_link = link(hub, hub.transport.open(pairs[1][0]), other)
    other_far.send(pack(Envelope(Kind.CANCEL, 1)))
    assert other.came.acquire(timeout=LONG) and becomes(lambda: len(hub._early) == 1 and hub.bell.sleeping)
    heard, bell, added = Heard(), hub.bell, []

    class Adds:
        """The doorbell; but before its next take somebody else adds a link."""

        def take(self, limit: int) -> Any:
            if not added:
                added.append(None)
                adder = threading.Thread(target=lambda: added.append(link(hub, early, heard)))
                adder.start()
                adder.join(LONG)
            return bell.take(limit)

        def __getattr__(self, name: str) -> Any:
            return getattr(bell, name)

    hub.bell = Adds()
    other_far.send(pack(Envelope(Kind.CANCEL, 2)))
    assert heard.closed.wait(LONG)
    for each in (added[1], other_link, far, other_far):
        each.close()


def test_nobody_is_woken_for_a_link_of_which_nothing_came(hub: Any) -> None:
    transport = shm.RingTransport()
    bell, pokes = hub.bell, []

    class Counts:
        def poke(self) -> None:
            pokes.append(None)
            bell.poke()

        def __getattr__(self, name: str) -> Any:
            return getattr(bell, name)

    pairs = [transport.pair() for _ in range(2)]
    far, early_far = (transport.open(theirs) for _, theirs in pairs)
    early = hub.transport.open(pairs[1][0])
    early_far.send(pack(Envelope(Kind.CANCEL, 1)))
    ours, heard = hub.transport.open(pairs[0][0]), Heard()
    hub.bell = early.doorbell = ours.doorbell = Counts()
    added = link(hub, ours, heard)
    assert not pokes
    far.send(pack(Envelope(Kind.CANCEL, 5)))
    assert heard.came.acquire(timeout=LONG) and becomes(lambda: early in hub._early)
    late = Heard()
    early_link = link(hub, early, late)
    assert pokes and late.came.acquire(timeout=LONG)
    for each in (added, early_link, far, early_far):
        each.close()


def test_a_link_that_is_added_between_a_readers_two_looks_is_not_forgotten(hub: Any) -> None:
    """Its message was taken, and the reader saw no link; who adds one sees nothing kept yet, and wakes nobody."""
    transport = shm.RingTransport()
    pairs = [transport.pair() for _ in range(2)]
    far, other_far = (transport.open(theirs) for _, theirs in pairs)
    early, other = hub.transport.open(pairs[0][0]), Heard()
    other_link = link(hub, hub.transport.open(pairs[1][0]), other)
    heard, added = Heard(), []
    kept = hub._early

    class Adds:
        """What came early; but before the first of it is kept somebody else adds its link."""

        def setdefault(self, channel: Any, default: list[Any]) -> list[Any]:
            if not added:
                added.append(None)
                adder = threading.Thread(target=lambda: added.append(link(hub, early, heard)))
                adder.start()
                adder.join(LONG)
            found: list[Any] = kept.setdefault(channel, default)
            return found

        def __contains__(self, channel: Any) -> bool:
            return channel in kept

        def __getattr__(self, name: str) -> Any:
            return getattr(kept, name)

    hub._early = Adds()
    far.send(pack(Envelope(Kind.CANCEL, 7)))
    assert heard.came.acquire(timeout=LONG) and heard.messages[0].call_id == 7
    for each in (added[1], other_link, far, other_far):
        each.close()


def test_a_channel_that_is_never_added_leaves_nothing(hub: Any) -> None:
    transport = shm.RingTransport()
    ours, theirs = transport.pair()
    far = transport.open(theirs)
    opened = hub.transport.open(ours)
    far.send(pack(Envelope(Kind.CANCEL, 1)))
    other_ours, other_theirs = transport.pair()
    other_far, other = transport.open(other_theirs), Heard()
    other_link = link(hub, hub.transport.open(other_ours), other)
    other_far.send(pack(Envelope(Kind.CANCEL, 9)))
    assert other.came.acquire(timeout=LONG) and becomes(lambda: len(hub._early) == 1)
    opened.close()
    del opened
    gc.collect()
    assert becomes(lambda: not hub._early)
    for each in (other_link, far, other_far):
        each.close()


def test_a_closed_hub_takes_no_channel(hub: Any) -> None:
    ours, theirs = shm.RingTransport().pair()
    channel, heard = hub.transport.open(ours), Heard()
    shm.RingTransport().dispose(theirs)
    hub.close()
    added = link(hub, channel, heard)
    assert added.closed and heard.closed.is_set()
    with pytest.raises(ChannelClosed):
        hub.transport.open(shm.RingTransport().pair()[0])
