"""The mailbox: one holder at a time, resumers first, nothing lost, refused exactly when full."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from shardwright.errors import Overloaded
from shardwright.guest._mailbox import Mailbox, Waiter

LONG = 10.0


class Gate:
    """Work that says when it began and ends when it is let."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.let = threading.Event()
        self.ended = threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.let.wait(LONG)
        self.ended.set()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox(limit=3, name="box", max_workers=3)
    yield box
    box.close()


def test_calls_run_one_by_one_in_order(mailbox: Mailbox) -> None:
    first = Gate()
    seen: list[int] = []
    done = threading.Event()
    mailbox.submit(first)
    assert first.begun.wait(LONG)
    for number in range(3):
        mailbox.submit(lambda number=number: seen.append(number) or (done.set() if number == 2 else None))  # type: ignore[misc]
    assert seen == [] and mailbox.depth == 3 and mailbox.contended
    first.let.set()
    assert done.wait(LONG)
    assert seen == [0, 1, 2]


def test_it_refuses_exactly_when_its_queue_is_full(mailbox: Mailbox) -> None:
    gates = [Gate() for _ in range(4)]
    for gate in gates:
        mailbox.submit(gate)
    with pytest.raises(Overloaded, match="queue = 3"):
        mailbox.submit(Gate())
    gates[0].let.set()
    assert gates[1].begun.wait(LONG)
    mailbox.submit(gate := Gate())  # there is room for one again
    with pytest.raises(Overloaded):
        mailbox.submit(Gate())
    for one in (*gates, gate):
        one.let.set()
        assert one.ended.wait(LONG)


def test_whoever_resumes_goes_before_whoever_is_new(mailbox: Mailbox) -> None:
    order: list[str] = []
    parked, may_return, all_done = threading.Event(), threading.Event(), threading.Event()

    def caller() -> None:
        mailbox.release()
        parked.set()
        assert may_return.wait(LONG)
        mailbox.acquire()
        order.append("resumed")

    holder = Gate()
    mailbox.submit(caller)
    assert parked.wait(LONG)
    mailbox.submit(holder)
    assert holder.begun.wait(LONG)
    mailbox.submit(lambda: (order.append("new"), all_done.set())[0])
    may_return.set()
    while not mailbox._resumers:
        threading.Event().wait(0.001)  # until it stands in the line
    holder.let.set()
    assert all_done.wait(LONG)
    assert order == ["resumed", "new"]


def test_only_the_thread_that_has_the_baton_holds_it(mailbox: Mailbox) -> None:
    gate = Gate()
    assert not mailbox.holds()
    mailbox.submit(gate)
    assert gate.begun.wait(LONG)
    assert not mailbox.holds()
    gate.let.set()
    mailbox.acquire()
    assert mailbox.holds()
    mailbox.release()
    assert not mailbox.holds()


def test_when_all_threads_wait_elsewhere_a_further_call_is_refused_and_queued_ones_run_later(mailbox: Mailbox) -> None:
    back = threading.Event()
    parked = threading.Semaphore(0)
    returned: list[int] = []
    all_back = threading.Semaphore(0)

    def waits() -> None:
        mailbox.release()
        parked.release()
        assert back.wait(LONG)
        mailbox.acquire()
        returned.append(1)
        all_back.release()

    for _ in range(3):
        mailbox.submit(waits)
        assert parked.acquire(timeout=LONG)
    with pytest.raises(Overloaded, match="all 3 threads"):
        mailbox.submit(lambda: None)
    back.set()
    for _ in range(3):
        assert all_back.acquire(timeout=LONG)
    done = threading.Event()
    mailbox.submit(done.set)
    assert done.wait(LONG)


def test_without_a_thread_to_be_had_a_call_is_refused_and_the_baton_is_free(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        for _ in range(5):
            with pytest.raises(Overloaded, match="no thread"):
                mailbox.submit(lambda: None)
        mailbox.acquire()
        late = threading.Event()
        mailbox.submit(late.set)
        mailbox.release()  # nobody to give it to: it stays in the queue
        assert mailbox.depth == 1 and not mailbox.holds()
    mailbox.acquire()
    mailbox.release()
    assert late.wait(LONG)


def test_after_close_nothing_is_taken(mailbox: Mailbox) -> None:
    done = threading.Event()
    mailbox.submit(done.set)
    assert done.wait(LONG)
    mailbox.close()
    with pytest.raises(Overloaded, match="stopping"):
        mailbox.submit(lambda: None)


def test_an_interrupted_wait_takes_nothing_and_keeps_nobody_waiting(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    mailbox.submit(gate)
    assert gate.begun.wait(LONG)

    def interrupted(self: Waiter, timeout_s: float | None) -> None:
        raise KeyboardInterrupt

    def interrupted_late(self: Waiter, timeout_s: float | None) -> None:
        gate.let.set()
        assert self._lock.acquire(timeout=LONG)  # it was handed over
        raise KeyboardInterrupt

    for wait in (interrupted, interrupted_late):
        with monkeypatch.context() as patch:
            patch.setattr(Waiter, "wait", wait)
            with pytest.raises(KeyboardInterrupt):
                mailbox.acquire()
        assert not mailbox.holds() and not mailbox._resumers
    done = threading.Event()
    mailbox.submit(done.set)
    assert done.wait(LONG)


def test_nobody_puts_down_the_baton_of_another(mailbox: Mailbox) -> None:
    gate = Gate()
    mailbox.submit(gate)
    assert gate.begun.wait(LONG)
    second = Gate()
    mailbox.submit(second)
    mailbox.release()
    assert mailbox.depth == 1 and not second.begun.is_set()
    for each in (gate, second):
        each.let.set()
        assert each.ended.wait(LONG)


def test_parking_takes_the_baton_from_nobody_else(mailbox: Mailbox) -> None:
    gate = Gate()
    mailbox.submit(gate)
    assert gate.begun.wait(LONG)
    waiter = Waiter()
    mailbox.park(waiter)  # this thread has not got it: an interrupted acquire may have come before
    second = Gate()
    mailbox.submit(second)
    assert not second.begun.is_set() and mailbox.depth == 1
    gate.let.set()
    second.let.set()
    assert second.ended.wait(LONG)
