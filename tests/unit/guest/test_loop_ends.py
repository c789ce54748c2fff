"""The loop of a shard's coroutines: what never began is forgotten, what cannot start is refused."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextvars import Context
from typing import Any

import pytest

from shardwright.errors import Overloaded
from shardwright.guest._context import Life
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._shard_loop import ShardLoop

LONG = 10.0


class Call:
    """What the loop knows of a call."""

    def __init__(self) -> None:
        self.cancelled = False
        self.counted = True
        self.task: Any = None
        self.ran = threading.Event()
        self.forgotten = threading.Event()
        self.life = Life()
        self.told: list[str] = []

    async def run_async(self, coroutine: Any = None) -> None:
        self.ran.set()
        self.life.over = True

    def refuse_unwanted(self) -> None:
        self.told.append("not started")

    def new_context(self) -> Context:
        return Context()

    def forget(self) -> None:
        self.forgotten.set()


@pytest.fixture
def loop() -> Iterator[Any]:
    mailbox = Mailbox(limit=10)
    found = ShardLoop(mailbox, "shard")
    yield found
    found.close()
    mailbox.close()


async def something() -> None:
    raise AssertionError("it must not run")


def test_calls_cancelled_before_they_began_are_answered_and_forgotten_and_their_coroutines_closed(loop: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before, between = Call(), Call()
        before.cancelled = True
        loop.start(before, something())
        assert before.forgotten.wait(LONG)

        def begins_and_is_cancelled() -> None:
            loop._begin(between, something())
            between.task.cancel()

        loop.in_flight += 1
        loop._loop.call_soon_threadsafe(begins_and_is_cancelled)
        assert between.forgotten.wait(LONG)
        assert not before.ran.is_set() and not between.ran.is_set()
        assert before.told == between.told == ["not started"]
        assert loop.in_flight == 0


def test_without_a_thread_a_call_is_refused_and_a_later_one_runs(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        for _ in range(2):
            with pytest.raises(Overloaded, match="no thread"):
                loop.start(Call())
    call = Call()
    loop.start(call)
    assert call.ran.wait(LONG) and call.forgotten.wait(LONG) and not call.told
    assert loop.in_flight == 0
