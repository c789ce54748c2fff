"""Chains: a call that comes back is given to the latest thread that waits for its chain, and never lost."""

from __future__ import annotations

import threading

from shardwright.errors import ChannelClosed
from shardwright.guest._chains import MAX_OFFERED, Chains, Waiting, new_mark
from shardwright.guest._context import CallContext
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


def test_it_knows_what_the_loop_waits_for() -> None:
    """Coroutines of one loop may be of one chain: what another of them leads to is not what this one waits for."""
    chains, waiting = Chains(), Waiting(5, ONE)
    chains.enter(waiting)
    assert not chains.holds_up(5, 2**64 - 1)  # there is no loop yet
    chains.loop_runs(threading.get_ident())
    mine = chains.blocked_by(CallContext(blocked=1))
    assert mine & 1 and mine.bit_count() in (8, 9)
    assert chains.holds_up(5, mine) and chains.offer(5, "its own", mine)
    assert not chains.holds_up(6, mine) and not chains.holds_up(5, 0) and not chains.holds_up(5, new_mark())
    assert not chains.offer(5, "of another coroutine") and list(waiting.inbox) == ["its own"]
    elsewhere = Waiting(5, ONE)
    elsewhere.thread = -1
    chains.enter(elsewhere)
    chains.enter(later := Waiting(5, ONE))
    assert chains.offer(5, "of another coroutine") and elsewhere.inbox and not later.inbox


def test_a_thread_beside_the_loop_blocks_none() -> None:
    chains = Chains()
    chains.loop_runs(-1)
    assert chains.blocked_by(CallContext(blocked=6)) == 6


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
