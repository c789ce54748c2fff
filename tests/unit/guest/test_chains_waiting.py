"""Chains: a call that comes back is given to the latest thread that waits for its chain, and never lost."""

from __future__ import annotations

import threading

from shardwright.errors import ChannelClosed
from shardwright.guest._chains import MAX_OFFERED, Chains, Waiting
from shardwright.guest._mailbox import Mailbox
from shardwright.model.ids import SessionNumber

ONE = SessionNumber(1)


def test_a_call_goes_to_the_latest_waiting_thread_of_its_chain() -> None:
    chains, first, second = Chains(), Waiting(5, ONE), Waiting(5, ONE)
    chains.enter(first)
    chains.enter(second)
    assert chains.offer(5, "call")
    assert second.inbox.popleft() == "call" and not first.inbox
    assert chains.leave(second) == []
    assert chains.offer(5, "other")
    assert first.inbox.popleft() == "other"


def test_nobody_waits_on_chain_0_nor_on_one_that_nobody_entered() -> None:
    chains = Chains()
    assert not chains.offer(0, "call") and not chains.offer(9, "call")
    waiting = Waiting(9, ONE)
    chains.enter(waiting)
    chains.leave(waiting)
    assert not chains.offer(9, "call")


def test_calls_that_came_too_late_are_returned_and_outcomes_are_not() -> None:
    chains, waiting = Chains(), Waiting(5, ONE)
    chains.enter(waiting)
    chains.offer(5, "late")
    waiting.deliver(ChannelClosed("gone"))
    chains.offer(5, "later")
    assert chains.leave(waiting) == ["late", "later"]


def test_a_thread_is_not_given_calls_without_end() -> None:
    chains, waiting = Chains(), Waiting(5, ONE)
    chains.enter(waiting)
    assert [chains.offer(5, n) for n in range(MAX_OFFERED + 10)].count(True) == MAX_OFFERED


def test_it_knows_which_thread_waits() -> None:
    chains, waiting = Chains(), Waiting(5, ONE)
    chains.enter(waiting)
    assert chains.waits(5, threading.get_ident())
    assert not chains.waits(5, -1) and not chains.waits(6, threading.get_ident())


def test_what_comes_while_the_call_is_sent_does_not_take_the_baton() -> None:
    """A send that waits puts the baton down. If the link closes meanwhile, the ticket must not be given the baton instead."""
    mailbox = Mailbox(limit=4, name="one")
    taken: list[object] = []

    def call() -> None:
        mailbox.acquire()
        waiting = Waiting(5, ONE, mailbox)
        mailbox.release()  # the send waits
        other = threading.Thread(target=waiting.deliver, args=("closed",))
        other.start()
        other.join()
        mailbox.acquire()  # the send is over
        waiting.begin()
        taken.append(waiting.take(10))
        assert mailbox.holds()
        waiting.end()
        mailbox.release()
        taken.append("free")

    caller = threading.Thread(target=call, daemon=True)
    caller.start()
    caller.join(20)
    assert taken == ["closed", "free"]
    mailbox.close()
