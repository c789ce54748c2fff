"""One doorbell for many channels: who reads, who sleeps, who is woken."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import selectors
import signal
import threading
import time
import weakref

import pytest

from shardwright.errors import ChannelClosed
from shardwright.transport.shm import FULL, READS, SENT, TIMED_OUT, WOKEN, Doorbell, RingTransport

PATIENCE_NS = 20 * 10**9
MS = 10**6


@pytest.fixture
def bell():
    bell = Doorbell(0)
    yield bell
    bell.close()


@pytest.fixture
def channels(bell):
    """``channels(count)``: pairs of a channel on the bell and its far end, a plain channel."""
    with contextlib.ExitStack() as stack:
        near, far = RingTransport(doorbell=bell), RingTransport()

        def make(count=1):
            pairs = []
            for _ in range(count):
                here, there = near.pair()
                pairs.append((near.open(here), far.open(there)))
                for channel in pairs[-1]:
                    stack.callback(channel.close)
            return pairs

        yield make


class Standby(threading.Thread):
    """Reads whenever the role comes to it; ends when it is woken."""

    def __init__(self, bell):
        super().__init__(daemon=True)
        self.bell, self.waiter, self.read, self.heard = bell, bell.waiter(), [], threading.Event()
        self.start()

    def run(self):
        while self.waiter.wait(PATIENCE_NS) == READS:
            for tag, message in self.bell.take(64):
                self.read.append((tag, message if isinstance(message, ChannelClosed) else bytes(message)))
                self.heard.set()
        self.waiter.leave()

    def end(self):
        self.waiter.wake()
        self.join(20)
        assert not self.is_alive()


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        os.sched_yield()


def next_message(bell, waiter):
    """A reader may be told to look though nothing is there: once, for instance, when the other end is opened."""
    while not (taken := bell.take(1)):
        assert waiter.wait(PATIENCE_NS) == READS
    return taken[0]


def send_when_displaced(bell, far, message):
    """Send once somebody waits beside the reader: the standby was displaced by the thread that asked for this."""

    def send():
        until(lambda: bell.waiting == 1)
        far.send([message])

    threading.Thread(target=send, daemon=True).start()


def test_a_waiting_thread_is_displaced_and_gets_the_role_back(bell, channels):
    ((near, far),) = channels()
    standby = Standby(bell)
    until(lambda: bell.sleeping)
    far.send([b"first"])
    assert standby.heard.wait(20)
    until(lambda: bell.sleeping)
    mine = bell.waiter()
    send_when_displaced(bell, far, b"mine")
    assert mine.wait(PATIENCE_NS) == READS
    assert mine.reads
    assert next_message(bell, mine) == (near, b"mine")
    mine.leave()
    assert not mine.reads
    standby.heard.clear()
    far.send([b"last"])
    assert standby.heard.wait(20)
    assert standby.read == [(near, b"first"), (near, b"last")]
    standby.end()


def test_who_is_awake_is_not_displaced(bell, channels):
    ((near, far),) = channels()
    far.send([b"x"])
    first, second = bell.waiter(), bell.waiter()
    assert first.wait() == READS
    assert second.wait(5 * MS) == TIMED_OUT
    assert first.reads and not second.reads
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(second.wait(PATIENCE_NS)))
    thread.start()
    assert bell.take(64) == [(near, b"x")]
    far.send([b"y"])
    assert bell.take(64) == [(near, b"y")]
    second.wake()  # as when its reply was read by the other
    thread.join(20)
    assert outcomes == [WOKEN]


def test_a_word_that_comes_before_the_wait_is_not_lost(bell):
    waiter = bell.waiter()
    waiter.wake()
    assert waiter.wait(PATIENCE_NS) == WOKEN
    assert waiter.wait(0) == TIMED_OUT


def lender(bell, near, far):
    """A waiter that has the role, having read a call, and a standby that waits beside it."""
    mine = bell.waiter()
    far.send([b"call"])
    assert next_message(bell, mine) == (near, b"call")
    while mine.wait(0) == READS:
        assert bell.take(64) == []
    far.send([b"call"])
    assert mine.wait(PATIENCE_NS) == READS
    assert bell.take(64) == [(near, b"call")]
    standby = Standby(bell)
    until(lambda: bell.waiting == 1)
    assert mine.reads
    return mine, standby


def test_what_was_lent_is_taken_back_without_another_reading(bell, channels):
    ((near, far),) = channels()
    mine, standby = lender(bell, near, far)
    for number in range(3):
        mine.lend(10**12)
        assert not mine.reads
        if number:
            far.send([bytes([number])])
        assert mine.reclaim()
        assert mine.reads
        assert bell.take(64) == ([(near, bytes([number]))] if number else [])
    mine.leave()
    far.send([b"for the standby"])
    assert standby.heard.wait(20)
    assert standby.read == [(near, b"for the standby")]
    standby.end()


def test_after_the_grace_another_reads(bell, channels):
    ((near, far),) = channels()
    mine, standby = lender(bell, near, far)
    start = time.monotonic()
    mine.lend(50 * MS)
    far.send([b"while it was lent"])
    assert standby.heard.wait(20)
    assert time.monotonic() - start >= 0.05
    assert standby.read == [(near, b"while it was lent")]
    assert not mine.reclaim()
    standby.end()


def test_the_end_of_a_loan_lets_the_standby_read_though_it_sleeps_for_an_earlier_one(bell, channels):
    ((near, far),) = channels()
    mine, standby = lender(bell, near, far)
    mine.lend(200 * MS)
    far.send([b"first"])  # wakes the standby, which sleeps on until the grace is over
    until(lambda: not bell.sleeping)
    assert mine.reclaim()
    assert bell.take(64) == [(near, b"first")]
    mine.lend(10**12)
    far.send([b"second"])
    mine.leave()  # which is the end of the grace, whether the standby was asleep for one or for the other
    assert standby.heard.wait(20)
    assert standby.read == [(near, b"second")]
    standby.end()


def test_who_is_owed_a_word_is_roused_by_the_wait_of_another_or_after_a_while_by_the_watcher(bell, channels):
    channels()  # without any there is no watcher
    first, second = bell.waiter(), bell.waiter()
    while first.wait(0) == READS:  # the far end rang when it was opened
        assert bell.take(64) == []
    outcomes = []

    def sleeps():
        outcomes.append(first.wait(PATIENCE_NS))

    for pay in (lambda: second.wait(MS, first), first.pay, lambda: None):
        thread = threading.Thread(target=sleeps)
        thread.start()
        until(lambda: bell.sleeping)
        first.owe()
        pay()
        thread.join(20)
        assert outcomes.pop() == WOKEN
    with pytest.raises(TypeError, match="same doorbell"):
        second.wait(0, Doorbell().waiter())
    assert second.wait(0, None) == TIMED_OUT


def test_messages_are_taken_in_turn_with_the_tags_of_their_channels(bell, channels):
    pairs = channels(70)  # more than one word of the bell
    for number, (near, far) in enumerate(pairs):
        near.tag = number
        for turn in range(3):
            far.send([bytes([number, turn])])
    waiter = bell.waiter()
    assert waiter.wait() == READS
    assert bell.ready() == list(range(70))
    first = bell.take(70)
    assert [tag for tag, _ in first] == list(range(70)), "one of each before the second of any"
    assert bell.take(1000) == [(n, bytes([n, turn])) for turn in (1, 2) for n in range(70)]
    assert bell.ready() == []
    assert bell.channels == 70
    waiter.leave()


def test_the_end_of_a_peer_rings_and_is_told_once(bell, channels):
    ((near, far),) = channels()
    far.send([b"last words"])
    far.close()
    waiter = bell.waiter()
    heard = []
    while len(heard) < 2:
        heard.append(next_message(bell, waiter))
    assert heard[0] == (near, b"last words")
    assert isinstance(heard[1][1], ChannelClosed)
    assert near.closed
    assert bell.take(64) == []
    assert waiter.wait(0) == TIMED_OUT, "an end that was told of does not keep the reader awake"
    with pytest.raises(ChannelClosed):
        near.take()


def test_closing_a_channel_lets_the_reader_look_again(bell, channels):
    ((near, _far),) = channels()
    waiter = bell.waiter()
    while waiter.wait(0) == READS:  # the far end rang when it was opened
        assert bell.take(64) == []
    threading.Timer(0.02, near.close).start()
    assert waiter.wait(PATIENCE_NS) == READS
    assert bell.ready() == []
    assert waiter.wait(0) == TIMED_OUT


def test_a_doorbell_that_is_closed_ends_every_wait():
    bell = Doorbell()
    outcomes = []
    waiters = [bell.waiter() for _ in range(3)]
    threads = [threading.Thread(target=lambda waiter=waiter: outcomes.append(waiter.wait())) for waiter in waiters]
    for thread in threads:
        thread.start()
    until(lambda: bell.sleeping)
    bell.close()
    for thread in threads:
        thread.join(20)
    assert outcomes == [WOKEN] * 3
    with pytest.raises(ValueError, match="closed"):
        bell.ready()


def test_slots_are_given_back(bell):
    waiters = [bell.waiter() for _ in range(1024)]
    with pytest.raises(OSError, match="unavailable"):
        bell.waiter()
    del waiters
    gc.collect()
    assert bell.waiter().wait(0) == TIMED_OUT


def test_a_signal_handler_may_end_a_wait(bell):
    class Stop(Exception):
        pass

    def stop(*_):
        raise Stop

    waiter = bell.waiter()
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        timer = threading.Timer(0.02, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1))
        timer.start()
        with pytest.raises(Stop):
            waiter.wait(PATIENCE_NS)
        assert not waiter.reads
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert waiter.wait(MS) == TIMED_OUT


def test_a_forked_child_has_nothing_of_its_parents(bell, channels):
    ((near, far),) = channels()
    waiter = bell.waiter()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            refusals = 0
            for use in (lambda: near.push([b"x"]), near.take, bell.ready, lambda: waiter.wait(0)):
                try:
                    use()
                except (ChannelClosed, ValueError):
                    refusals += 1
            near.close()
            far.close()
            del near, far
            gc.collect()
            own = Doorbell()
            here, there = RingTransport().pair()
            mine, other = RingTransport(doorbell=own).open(here), RingTransport().open(there)
            other.send([b"the child's own"])
            assert next_message(own, own.waiter()) == (mine, b"the child's own")
            status = 0 if refusals == 4 else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    far.send([b"still here"])
    assert next_message(bell, waiter) == (near, b"still here")


def test_a_peer_is_missed_though_its_child_lives(bell):
    """A forked child inherits the socket by which the kernel says that a process is gone: it must not keep it."""
    transport = RingTransport(doorbell=bell)
    here, there = transport.pair()
    report, reported = os.pipe()
    peer = os.fork()
    if peer == 0:
        with contextlib.suppress(BaseException):
            transport.dispose(here)
            channel = RingTransport().open(there)
            if os.fork() == 0:
                os.write(reported, str(os.getpid()).encode())
                signal.pause()
                os._exit(0)
            channel.send([b"x"])
            channel.receive()
        os._exit(0)
    transport.dispose(there)
    near = transport.open(here)
    grandchild = int(os.read(report, 20))
    try:
        waiter = bell.waiter()
        assert next_message(bell, waiter) == (near, b"x")
        os.kill(peer, signal.SIGKILL)
        _, end = next_message(bell, waiter)
        assert isinstance(end, ChannelClosed)
    finally:
        os.kill(peer, signal.SIGKILL)
        os.kill(grandchild, signal.SIGKILL)
        os.waitpid(peer, 0)
        near.close()
        os.close(report)
        os.close(reported)


def test_an_event_loop_reads_by_one_descriptor(bell, channels):
    pairs = channels(5)

    async def read(count):
        loop = asyncio.get_running_loop()
        messages, done = [], loop.create_future()

        def readable():
            while taken := bell.take(2):
                messages.extend(message for _, message in taken)
            if len(messages) == count and not done.done():
                done.set_result(None)

        loop.add_reader(bell.fileno(), readable)
        for _, far in pairs:
            for number in range(20):
                loop.call_later(0.001 * number, far.send, [bytes([number])])
        await asyncio.wait_for(done, 20)
        loop.remove_reader(bell.fileno())
        return messages

    assert sorted(asyncio.run(read(100))) == sorted(bytes([n]) for n in range(20) for _ in range(5))
    with selectors.DefaultSelector() as selector:
        selector.register(bell.fileno(), selectors.EVENT_READ)
        assert not selector.select(0)
        bell.poke()
        assert selector.select(20)
        assert bell.ready() == []
        assert not selector.select(0)
        pairs[3][1].close()
        ended = []
        while not ended:  # the news may be that there are news
            assert selector.select(20)
            ended = bell.take(64)
        ((tag, end),) = ended
        assert tag is pairs[3][0] and isinstance(end, ChannelClosed)
        assert bell.take(64) == []
        assert not selector.select(0)


def test_push_says_why_it_did_not_send(channels):
    ((near, far),) = channels()
    sent = 0
    while (outcome := near.push([bytes(1000)])) == SENT:
        sent += 1
    assert outcome == FULL and 60 < sent < 66
    for _ in range(sent):
        assert far.receive(timeout_s=0) == bytes(1000)
    assert near.push((b"a", memoryview(b"bc"), bytearray(b"d"), *[b"e"] * 30)) == SENT
    assert far.receive(timeout_s=0) == b"abcd" + b"e" * 30
    with pytest.raises(TypeError):
        near.push(["text"])
    with pytest.raises(TypeError):
        near.push(b"not a list")
    with pytest.raises(BufferError):
        near.push([memoryview(bytes(8))[::2]])


def test_nothing_is_kept_alive(bell):
    class Owner:
        pass

    transport = RingTransport(doorbell=bell)
    here, there = transport.pair()
    owner = Owner()
    owner.channel = transport.open(here)
    owner.channel.tag = owner  # a cycle through C
    gone = weakref.ref(owner)
    transport.dispose(there)
    del owner
    gc.collect()
    assert gone() is None
    assert bell.channels == 0


@pytest.mark.parametrize("taken", [0, 1, 2, 40])
def test_what_a_peer_that_is_gone_never_took_is_told(channels, taken):
    """By how each message begins; around the end of the ring as well, for more goes through it than it holds."""
    ((near, far),) = channels()
    size = near.capacity // 50
    messages = [number.to_bytes(8, "little") + bytes(8 + number % 3 + size) for number in range(200)]
    for number, message in enumerate(messages[:160]):
        near.send([message])
        if number >= 40 - taken:
            assert bytes(far.receive(timeout_s=5)) == messages[number - 40 + taken]
    assert near.untaken() == [], "it may take it yet"
    far.close()
    left = messages[120 + taken : 160]
    waiter = near.doorbell.waiter()
    with pytest.raises(ChannelClosed):
        while near.take() is None:
            waiter.wait(PATIENCE_NS)
    assert near.untaken() == [message[:16] for message in left] and len(left) == 40 - taken
    near.close()
    assert near.untaken() == []
