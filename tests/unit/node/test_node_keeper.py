"""The keeper answers every request; none of them ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from shardwright.contracts.sandbox import Exit
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits
from shardwright.node._frames import FrameReader, send_with
from shardwright.node._keeper import Keeper
from shardwright.node._keeper_messages import Delete, Deleted, Kill, Refused, Resize, from_keeper


@pytest.fixture
def served() -> Iterator[tuple[Keeper, FrameReader]]:
    ours, theirs = socket.socketpair()
    keeper = Keeper(theirs, 0.0)
    try:
        with ours, theirs:
            yield keeper, FrameReader(ours, limit=1 << 20, descriptors=True)
    finally:
        keeper._events.close()
        keeper._backend.close()  # its control groups


def answer(served: tuple[Keeper, FrameReader], message: Any) -> Any:
    keeper, frames = served
    keeper._answer(message, [])
    assert frames.gulp()
    ((body, _),) = frames.frames()
    return from_keeper.decode(body)


def test_a_resize_of_a_shard_that_has_ended_is_refused(served: tuple[Keeper, FrameReader]) -> None:
    assert answer(served, Resize(1, "a-1", Limits())) == Refused(1, "the sandbox of a-1 has ended")


def test_a_defect_in_one_request_is_its_answer(
    served: tuple[Keeper, FrameReader], capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def kill(self) -> None:
            raise KeyError("pid")

    served[0]._sandboxes["a-1"] = Broken()  # type: ignore[assignment]
    found = answer(served, Kill(2, "a-1"))
    assert isinstance(found, Refused) and found.request == 2 and "pid" in found.message
    said = capfd.readouterr().err
    assert "a request failed" in said and "request=kill" in said and "KeyError('pid')" in said
    assert answer(served, Resize(3, ShardId("a-2"), Limits())).request == 3


def test_a_peer_that_is_gone_is_an_error_and_no_signal() -> None:
    ours, theirs = socket.socketpair()
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        with ours:
            theirs.close()
            with pytest.raises(BrokenPipeError):
                send_with(ours, b"x", [ours.fileno()])
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_what_does_not_end_in_time_is_reported_and_deleted_later(served: tuple[Keeper, FrameReader]) -> None:
    class Stuck:
        ended = deleted = False

        def kill(self) -> None: ...

        def poll(self) -> Exit | None:
            return Exit(-9) if self.ended else None

        def delete(self) -> None:
            if not self.ended:
                raise SandboxError("process 5 of a-1 does not end")
            self.deleted = True

    keeper, stuck = served[0], Stuck()
    keeper._sandboxes["a-1"] = stuck  # type: ignore[assignment]
    assert answer(served, Delete(4, "a-1")) == Refused(4, "process 5 of a-1 does not end")
    assert answer(served, Delete(5, "a-1")) == Deleted(5, None)
    keeper._late_due_s = 0.0
    keeper.delete_late()
    stuck.ended = True
    keeper.delete_late()
    assert not stuck.deleted, "it is not asked all the time"
    keeper._late_due_s = 0.0
    keeper.delete_late()
    assert stuck.deleted and not keeper._late
