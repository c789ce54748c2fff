"""What callers are told of calls that themselves call: what began, what came back, what was cancelled, what is on its way."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shardwright.errors import CannotCross, MessageTooLarge, WouldDeadlock
from shardwright.guest._runtime import peer_of
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import SessionNumber
from shardwright.transport import pack, unpack

LONG = 10.0
MANIFEST = """
    [app]
    name = "outcomes"
    [components.a]
    code = "a"
    state = "memory"
    [components.b]
    code = "b"
    state = "memory"
    [components.c]
    code = "c"
"""
A = """
    import asyncio, threading
    from concurrent.futures import ThreadPoolExecutor
    import b
    kept = []
    effects = 0

    def changes():
        global effects
        effects += 1
        try:
            b.take(threading.Lock())
        except TypeError as error:
            kept.append(error)
            raise

    def changes_later():
        return _later()

    async def _later():
        changes()

    class Door:
        def __init__(self):
            self.opened = 0

        def open(self):
            self.opened += 1
            b.take(threading.Lock())

        @property
        def mark(self):
            b.take(threading.Lock())

    def count():
        return effects, [error.outcome for error in kept]

    def ping():
        return "a"

    def big(size):
        return bytes(size)

    def base(number):
        return number * 10

    def pool():
        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(b.render, range(3)))

    def own_loop():
        loop = asyncio.SelectorEventLoop()
        try:
            return loop.run_until_complete(b.render_later(1))
        finally:
            loop.close()

    async def coroutine():
        return 1
"""
B = """
    import a

    def take(x):
        return 1

    def render(number):
        return a.base(number) + 1

    async def render_later(number):
        return a.base(number) + 1
"""


@pytest.fixture
def three(town: Any) -> Iterator[Any]:
    yield town(MANIFEST, a=A, b=B, c="import a\n")


@pytest.mark.parametrize("entry", ["changes", "changes_later"])
def test_a_call_that_ran_is_not_told_as_not_started(three: Any, entry: str) -> None:
    with pytest.raises(CannotCross, match="lock") as caught:
        three.call("c", "a", entry)
    assert caught.value.outcome == "failed"
    assert three.call("c", "a", "count") == (1, ["not started"])  # of b it stays true


def test_methods_and_properties_that_ran_are_not_told_as_not_started(three: Any) -> None:
    door = three.call("c", "a", "Door")
    for use in (lambda: door.open(), lambda: door.mark):
        with pytest.raises(CannotCross) as caught:
            use()
        assert caught.value.outcome == "failed"


def test_a_result_too_large_for_the_channel_is_an_error_and_the_shard_goes_on(three: Any) -> None:
    a = three.runtimes["a"]
    result = bytes(2**20)
    if three.rings != "none":  # known to their rings from the beginning
        a._hub.transport.max_message_bytes = 2**20
    three.call("c", "a", "ping")
    for link in list(a._links):
        link.channel._max_message_bytes = 2**20
    with pytest.raises(MessageTooLarge) as caught:
        three.call("c", "a", "big", len(result))
    assert caught.value.outcome == "failed"
    assert three.call("c", "a", "ping") == "a"


def test_a_pool_of_threads_whose_calls_come_back_does_not_deadlock(three: Any) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(three.call("c", "a", "pool")), daemon=True)
    thread.start()
    thread.join(LONG)
    assert found == [[1, 11, 21]]


def test_a_call_that_comes_back_to_a_loop_that_keeps_the_baton_is_refused(three: Any) -> None:
    """A loop that no policy of ours made cannot put the baton down while it sleeps: refused, where it would hang."""
    caught: list[BaseException] = []

    def call() -> None:
        try:
            three.call("c", "a", "own_loop")
        except WouldDeadlock as error:
            caught.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(LONG)
    assert len(caught) == 1
    assert not three.runtimes["a"].chains._stuck
    assert three.call("c", "a", "ping") == "a"


class Caller:
    """The bare other end of a link on which it calls ``a``."""

    def __init__(self, town: Any) -> None:
        self._town = town
        ours, theirs = town.transport.pair()
        self.far = town.transport.open(ours)
        self.runtime = town.runtimes["a"]
        self.runtime.connect(town.transport.open(theirs), peer_of("c", "c-00000009", None), outgoing=False)

    def call(self, number: int, name: str, *args: Any) -> None:
        payload, _, _ = self.runtime.codec("c", "a").encode_request((None, args, None))
        method = self._town.plan.definition("a").entry(name).method_id
        self.far.send(
            pack(Envelope(Kind.CALL, number, SessionNumber(1), method, codec=PayloadCodec.TAGGED, payload=payload))
        )

    def rests(self) -> bool:
        end_s = time.monotonic() + LONG
        while (self.runtime.responder.busy or self.runtime.loop.in_flight) and time.monotonic() < end_s:
            threading.Event().wait(0.001)
        return not self.runtime.responder.busy and self.runtime.loop.in_flight == 0


@pytest.fixture
def caller(three: Any) -> Iterator[Caller]:
    found = Caller(three)
    yield found
    found.far.close()


def test_a_call_is_running_until_its_reply_is_sent_and_holds_up_nobody_meanwhile(three: Any, caller: Caller) -> None:
    caller.call(1, "big", 8 * 2**20)
    assert select.select([caller.far.fileno()], [], [], LONG)[0]  # the reply is on its way, more than a socket takes
    assert three.call("c", "a", "ping") == "a"
    assert caller.runtime.responder.busy
    reply = unpack(caller.far.receive(timeout_s=LONG))
    assert reply.call_id == 1 and reply.kind is Kind.RESULT
    assert caller.rests()


def test_coroutines_cancelled_before_they_began_are_answered_and_no_longer_running(three: Any, caller: Caller) -> None:
    caller.call(1, "coroutine")
    assert unpack(caller.far.receive(timeout_s=LONG)).kind is Kind.RESULT  # its loop is there
    assert caller.rests()
    mailbox = caller.runtime.mailbox
    mailbox.acquire()
    try:
        for number in range(2, 10):
            caller.call(number, "coroutine")
            caller.far.send(pack(Envelope(Kind.CANCEL, number)))
        caller.call(10, "coroutine")
        end_s = time.monotonic() + LONG
        while caller.runtime.loop.in_flight < 9 and time.monotonic() < end_s:
            threading.Event().wait(0.001)
        assert caller.runtime.responder.busy
    finally:
        mailbox.release()
    answers = [unpack(caller.far.receive(timeout_s=LONG)) for _ in range(9)]
    assert {answer.call_id: answer.kind for answer in answers} == dict.fromkeys(range(2, 10), Kind.ERROR) | {
        10: Kind.RESULT
    }
    assert caller.rests()
