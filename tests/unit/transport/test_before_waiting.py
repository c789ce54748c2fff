"""``before_waiting``: called once, exactly when a send must wait; from then on the parts may change."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from shardwright.errors import DeadlineExceeded
from shardwright.transport.inproc import InprocTransport
from shardwright.transport.socket import SocketTransport

LONG = 10.0
LARGE = 4 * 2**20


@pytest.fixture(params=[SocketTransport, lambda: InprocTransport(capacity_bytes=1024)], ids=["socket", "inproc"])
def channels(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    transport = request.param()
    first, second = map(transport.open, transport.pair())
    with contextlib.closing(first), contextlib.closing(second):
        yield first, second


def _refuse() -> None:
    raise DeadlineExceeded("it would wait", outcome="not started")


def _fill(channel: Any) -> int:
    """Send until not a byte more is taken; how many messages that were."""
    sent = 0
    with contextlib.suppress(DeadlineExceeded):
        while True:
            channel.send([bytes(512)], before_waiting=_refuse)
            sent += 1
    return sent


def test_it_is_not_called_for_what_goes_at_once(channels: Any) -> None:
    first, second = channels
    first.send([b"small"], before_waiting=_refuse)
    assert bytes(second.receive(timeout_s=LONG)) == b"small"


def test_what_it_raises_ends_a_send_of_which_nothing_was_sent(channels: Any) -> None:
    first, second = channels
    sent = _fill(first)
    assert sent and not first.closed
    for _ in range(sent):
        assert second.receive(timeout_s=LONG).nbytes == 512
    first.send([b"further"])
    assert bytes(second.receive(timeout_s=LONG)) == b"further"


def test_parts_may_change_once_it_was_called(channels: Any) -> None:
    first, second = channels
    first.send([b"first"])
    part = bytearray(LARGE)
    waits = threading.Event()
    calls: list[int] = []

    def before_waiting() -> None:
        calls.append(1)
        waits.set()

    thread = threading.Thread(target=lambda: first.send([memoryview(part)], before_waiting=before_waiting), daemon=True)
    thread.start()
    assert waits.wait(LONG)
    part[:] = b"x" * LARGE
    assert bytes(second.receive(timeout_s=LONG)) == b"first"
    assert bytes(second.receive(timeout_s=LONG)) == bytes(LARGE)
    thread.join(LONG)
    assert calls == [1]


def test_it_is_called_when_another_thread_is_sending() -> None:
    transport = SocketTransport()
    first, second = map(transport.open, transport.pair())
    with contextlib.closing(first), contextlib.closing(second):
        waits = threading.Event()
        thread = threading.Thread(target=lambda: first.send([bytes(LARGE)], before_waiting=waits.set), daemon=True)
        thread.start()
        assert waits.wait(LONG)
        with pytest.raises(DeadlineExceeded):
            first.send([b"later"], before_waiting=_refuse)
        assert not first.closed
        assert second.receive(timeout_s=LONG).nbytes == LARGE
        thread.join(LONG)
