"""Mailbox and chains under many threads, by seeds: one holder at a time, every call run once or refused, none lost."""

from __future__ import annotations

import random
import threading

import pytest

from shardwright.errors import Overloaded
from shardwright.guest._chains import Chains, Waiting
from shardwright.guest._mailbox import Mailbox
from shardwright.model.ids import SessionNumber

LONG = 20.0


@pytest.mark.parametrize("seed", range(12))
def test_one_holder_at_a_time_and_nothing_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    mailbox = Mailbox(limit=chance.choice([1, 4, 64]), max_workers=chance.choice([1, 2, 8]))
    inside = 0
    ran: list[int] = []
    accepted: list[int] = []
    refused: list[int] = []
    finished = threading.Semaphore(0)
    wrong: list[str] = []

    def enter() -> None:
        nonlocal inside
        inside += 1
        if inside != 1 or not mailbox.holds():
            wrong.append(f"{inside} inside, holds {mailbox.holds()}")

    def leave() -> None:
        nonlocal inside
        inside -= 1

    def work(number: int, parks: int) -> None:
        enter()
        ran.append(number)
        for _ in range(parks):
            leave()
            mailbox.release()
            threading.Event().wait(0)  # somebody else's turn
            mailbox.acquire()
            enter()
        leave()
        finished.release()

    def outsider(own: random.Random) -> None:
        for _ in range(40):
            mailbox.acquire()
            enter()
            leave()
            mailbox.release()

    def submitter(numbers: range, own: random.Random) -> None:
        for number in numbers:
            parks = own.choice([0, 0, 1, 3])
            try:
                mailbox.submit(lambda number=number, parks=parks: work(number, parks))  # type: ignore[misc]
            except Overloaded:
                refused.append(number)
            else:
                accepted.append(number)

    threads = [
        threading.Thread(target=submitter, args=(range(i * 100, i * 100 + 100), random.Random(seed * 7 + i)))
        for i in range(3)
    ]
    threads.append(threading.Thread(target=outsider, args=(random.Random(seed),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    for _ in accepted:
        assert finished.acquire(timeout=LONG)
    assert not wrong
    assert sorted(ran) == sorted(accepted)
    assert len(accepted) + len(refused) == 300
    mailbox.acquire()  # free in the end
    mailbox.release()
    assert not mailbox.contended
    mailbox.close()


@pytest.mark.parametrize("seed", range(6))
def test_a_call_offered_to_a_chain_is_run_once_wherever_it_goes(seed: int) -> None:
    chance = random.Random(seed)
    chains = Chains()
    offered: list[int] = []
    taken: list[int] = []
    begin = threading.Barrier(5)

    def waiter(own: random.Random) -> None:
        begin.wait(LONG)
        for _ in range(60):
            waiting = Waiting(7, SessionNumber(1))
            chains.enter(waiting)
            for _ in range(own.randrange(3)):
                try:
                    taken.append(waiting.take(0.0005))
                except Exception:
                    break
            taken.extend(chains.leave(waiting))

    def offerer(numbers: range) -> None:
        begin.wait(LONG)
        for number in numbers:
            if chains.offer(7, number):
                offered.append(number)

    threads = [threading.Thread(target=waiter, args=(random.Random(chance.random()),)) for _ in range(2)]
    threads += [threading.Thread(target=offerer, args=(range(i * 1000, i * 1000 + 400),)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert sorted(taken) == sorted(offered)
    assert not chains.offer(7, -1)
