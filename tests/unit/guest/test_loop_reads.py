"""A shard's event loop reads rings while it has nothing else to do, and hears of everything that it is given meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shardwright.guest._loop import new_event_loop
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._ring_hub import RingHub
from shardwright.transport import shm

LONG = 10.0
pytestmark = pytest.mark.skipif(not shm.available(), reason="the C extension was not built")


class Running:
    """A loop on a thread of its own, with the baton, as a shard's is."""

    def __init__(self) -> None:
        self.mailbox = Mailbox(limit=10)
        self.hub = self.mailbox.hub = RingHub("loop-test")
        self.loop: Any = new_event_loop(self.mailbox)
        self.selector = self.loop._polite
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.mailbox.acquire()
        try:
            self.loop.run_forever()
        finally:
            self.mailbox.release()

    def reads(self) -> bool:
        end_s = time.monotonic() + LONG
        while self.selector.ear is None and time.monotonic() < end_s:
            time.sleep(0)
        return self.selector.ear is not None

    def ask(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LONG)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LONG)
        assert not self.thread.is_alive()
        self.loop.close()
        self.hub.close()
        self.mailbox.close()


@pytest.fixture
def running() -> Iterator[Running]:
    found = Running()
    yield found
    found.close()


def test_nothing_that_it_is_given_waits_in_vain(running: Running, record_exercised: Callable[[str, int], None]) -> None:
    """Handed over while it sleeps, while it is about to, and while it runs."""
    done = [0] * 4

    def give(number: int) -> None:
        for turn in range(500):
            heard = threading.Event()
            running.loop.call_soon_threadsafe(heard.set)
            assert heard.wait(LONG)
            done[number] += 1
            if turn % 50 == number:
                assert running.reads()

    threads = [threading.Thread(target=give, args=(number,)) for number in range(len(done))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [500] * 4
    record_exercised("things given to a loop that reads rings", sum(done))


def test_timers_come_and_descriptors_are_heard(running: Running) -> None:
    async def story() -> bytes:
        await asyncio.sleep(0.02)
        read, write = os.pipe()
        got = running.loop.create_future()
        running.loop.add_reader(read, lambda: got.set_result(os.read(read, 9)))
        running.loop.call_later(0.01, os.write, write, b"x")
        try:
            return bytes(await got)
        finally:
            running.loop.remove_reader(read)
            os.close(read)
            os.close(write)

    assert running.reads()
    assert running.ask(story()) == b"x"
    assert running.reads(), "once no descriptor is waited for"


def test_others_may_run_while_it_reads(running: Running) -> None:
    assert running.reads()
    ran = threading.Event()
    running.mailbox.submit(ran.set)
    assert ran.wait(LONG)


def test_it_goes_on_when_nobody_reads_any_more(running: Running) -> None:
    assert running.reads()
    running.hub.close()

    async def answer() -> int:
        await asyncio.sleep(0.01)
        return 3

    assert running.ask(answer()) == 3
    assert running.selector.ear is None
