"""Whom a thread works for: who began it, unless it is a pool's, which works for many."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest
from msgspec.structs import replace

from shardwright.guest._context import NOWHERE, CallContext, current_call
from shardwright.guest._origin import origin, remember_origins, tag_of_this_thread, tag_records
from shardwright.model.ids import SessionNumber


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Iterator[CallContext]:
    """The call in which the test runs, in a process that remembers."""
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)
    factory = logging.getLogRecordFactory()
    remember_origins()
    context = replace(NOWHERE, session=SessionNumber(7), trace_id=b"\1" * 16)
    token = current_call.set(context)
    yield context
    current_call.reset(token)
    logging.setLogRecordFactory(factory)


def test_a_thread_works_for_who_began_it(call: CallContext) -> None:
    seen: SimpleQueue[CallContext] = SimpleQueue()

    def begin_another() -> None:
        threading.Thread(target=lambda: seen.put(origin())).start()

    threading.Thread(target=begin_another).start()
    assert seen.get(timeout=10) is call, "and so do those that it begins"


def test_a_thread_of_a_pool_works_for_nobody_of_its_own(call: CallContext) -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(origin).result() is NOWHERE
        assert pool.submit(tag_of_this_thread).result() == (0, "")


def test_records_of_logging_say_their_trace(call: CallContext) -> None:
    tag_records()
    record = logging.getLogger("x").makeRecord("x", logging.INFO, "f", 1, "text", (), None)
    assert record.__dict__["shardwright_trace"] == "01" * 16
