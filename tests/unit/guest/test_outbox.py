"""Answers that are kept to go out together: in order, none lost, none waiting for long."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from shardwright.contracts.transport import Channel
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._outbox import TICK_S, Outbox
from shardwright.transport.socket import SocketTransport

PATIENCE_S = 10.0


class Sender:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.cut_off = False

    def not_taken(self) -> None:
        self.cut_off = True


@pytest.fixture
def ends() -> Iterator[tuple[Sender, Channel]]:
    transport = SocketTransport()
    near, far = (transport.open(endpoint) for endpoint in transport.pair())
    yield Sender(near), far
    near.close()
    far.close()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    made = Mailbox(limit=100)
    yield made
    made.close()


def on_the_mailbox(mailbox: Mailbox, *works: Callable[[], object]) -> None:
    """Run them one after the other, all of them waiting before the first ends."""
    begun, ended = threading.Event(), threading.Event()
    mailbox.submit(lambda: begun.wait(PATIENCE_S) and None)
    for work in works:
        mailbox.submit(lambda work=work: work() and None)  # type: ignore[misc]
    mailbox.submit(ended.set)
    begun.set()
    assert ended.wait(PATIENCE_S)


def received(channel: Channel) -> list[bytes]:
    return [bytes(message) for message in channel.receive_ready(100)]


def test_answers_are_kept_while_calls_wait_and_go_out_in_order(ends: tuple[Sender, Channel], mailbox: Mailbox) -> None:
    sender, far = ends
    outbox = Outbox(mailbox)
    seen: list[object] = []

    def first() -> None:
        assert outbox.arm(heard=True) == TICK_S
        seen.append(outbox.keep(sender, [b"one"]))

    def second() -> None:
        seen.append(outbox.keep(sender, [b"t", b"wo"]))
        seen.append(received(far))
        sender.channel.send([b"three"])  # takes along what was kept before it

    on_the_mailbox(mailbox, first, second)
    assert seen == [True, True, []]
    assert received(far) == [b"one", b"two", b"three"]


def test_whoever_leaves_nothing_to_run_sends_what_was_kept(ends: tuple[Sender, Channel], mailbox: Mailbox) -> None:
    sender, far = ends
    outbox = Outbox(mailbox)
    freed = threading.Event()
    flush = mailbox.freed

    def flushed() -> None:
        flush()
        freed.set()

    mailbox.freed = flushed

    def answer() -> None:
        outbox.arm(heard=True)
        assert outbox.keep(sender, [b"one"])

    on_the_mailbox(mailbox, answer)
    assert freed.wait(PATIENCE_S)
    message = far.receive(timeout_s=PATIENCE_S)
    assert message is not None and bytes(message) == b"one"


def test_the_hub_sends_what_another_call_would_hold_up(ends: tuple[Sender, Channel], mailbox: Mailbox) -> None:
    sender, far = ends
    outbox = Outbox(mailbox)
    got: list[object] = []

    def answer() -> None:
        outbox.arm(heard=True)
        assert outbox.keep(sender, [b"one"])

    def long() -> None:  # while it runs, the hub's thread wakes from its short sleeps
        while not got:
            assert outbox.arm(heard=False) in (TICK_S, None)
            got.extend(received(far))

    on_the_mailbox(mailbox, answer, long, lambda: None)
    assert got == [b"one"]


def test_nothing_is_kept_where_nobody_would_send_it(ends: tuple[Sender, Channel], mailbox: Mailbox) -> None:
    sender, _ = ends
    outbox = Outbox(mailbox)
    seen: list[bool] = []
    assert outbox.arm(heard=True) is None, "nothing waits"
    assert not outbox.keep(sender, [b"x"]), "not armed"

    def disarmed() -> None:
        outbox.arm(heard=True)
        outbox.disarm()
        seen.append(outbox.keep(sender, [b"x"]))

    def elsewhere() -> None:
        outbox.arm(heard=True)
        thread = threading.Thread(target=lambda: seen.append(outbox.keep(sender, [b"x"])))
        thread.start()
        thread.join()

    on_the_mailbox(mailbox, disarmed, elsewhere, lambda: None)
    assert seen == [False, False]


def test_one_long_call_costs_one_wakening(mailbox: Mailbox) -> None:
    outbox = Outbox(mailbox)
    sleeps: list[float | None] = []

    def long() -> None:
        sleeps.extend(outbox.arm(heard=heard) for heard in (True, False, False))

    on_the_mailbox(mailbox, long, lambda: None)
    assert sleeps == [TICK_S, None, None]


def test_what_a_slow_peer_leaves_is_sent_in_order_later(ends: tuple[Sender, Channel]) -> None:
    sender, far = ends
    near = sender.channel
    sent = 0
    while near.defer([b"%06d" % sent * 100]):
        sent += 1
    while near.flush():  # until the buffer of the kernel is full
        while near.defer([b"%06d" % sent * 100]):
            sent += 1
    assert sent > 100
    messages: list[bytes] = []
    while len(messages) < sent:
        messages += received(far)
        near.flush()
    assert messages == [b"%06d" % number * 100 for number in range(sent)]
