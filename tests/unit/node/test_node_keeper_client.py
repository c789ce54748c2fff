"""The node's side of its keeper: what comes for somebody who no longer waits is closed, and nothing hangs."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from shardwright.contracts.sandbox import SandboxHandle
from shardwright.errors import NodeError, SandboxError
from shardwright.guest import frame
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits
from shardwright.node import _keeper_client
from shardwright.node._frames import FrameReader, send_with
from shardwright.node._keeper_client import KeeperClient
from shardwright.node._keeper_messages import Adopt, Started, to_keeper

HANDLE = SandboxHandle(1, "process", ShardId("a-1"), 5, 6)


class _Conversation:
    """A client, and the test in the keeper's place."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair()
        ours.setblocking(False)
        self.lost: list[bool] = []
        no_process: Any = None
        self.client = KeeperClient(no_process, ours, lambda: self.lost.append(True))
        self.ours = ours
        self._frames = FrameReader(self.theirs, limit=1 << 20, descriptors=True)

    async def asked(self) -> tuple[asyncio.Task[Any], int]:
        with open(os.devnull) as lifeline:
            task = asyncio.ensure_future(self.client.adopt(HANDLE, Limits(), lifeline.fileno()))
            await asyncio.sleep(0)
        assert self._frames.gulp()
        ((body, descriptors),) = self._frames.frames()
        for descriptor in descriptors:
            os.close(descriptor)
        message = to_keeper.decode(body)
        assert isinstance(message, Adopt)
        return task, message.request

    def answer(self, request: int) -> None:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        send_with(self.theirs, frame(Started(request, HANDLE), 1), [descriptor])
        os.close(descriptor)

    def close(self) -> None:
        self.client._lost()
        self.ours.close()
        self.theirs.close()


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_pidfd_that_nobody_waits_for_is_closed(turns: int) -> None:
    async def run() -> None:
        conversation = _Conversation()
        task, request = await conversation.asked()
        before = len(os.listdir("/proc/self/fd"))
        if turns == 0:  # cancelled before the answer comes
            task.cancel()
        conversation.answer(request)
        for _ in range(turns):  # or while it is on its way to who asked
            await asyncio.sleep(0)
        task.cancel()
        found = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(found, tuple):
            os.close(found[1])
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before
        conversation.close()

    asyncio.run(run())


def test_a_pidfd_for_which_there_is_no_room_is_an_error_and_no_silence() -> None:
    async def run() -> None:
        conversation = _Conversation()
        task, request = await conversation.asked()
        conversation.answer(request)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
            conversation.client._readable()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        with pytest.raises(SandboxError, match="too many open files"):
            await task
        task, request = await conversation.asked()
        conversation.answer(request)
        handle, pidfd = await task
        assert handle == HANDLE
        os.close(pidfd)
        conversation.close()

    asyncio.run(run())


def test_whoever_waits_hears_that_the_keeper_is_gone() -> None:
    async def run() -> None:
        conversation = _Conversation()
        task, _ = await conversation.asked()
        conversation.client.cut_off()
        with pytest.raises(NodeError, match="the keeper is gone"):
            await task
        assert conversation.lost == [True] and not conversation.client.alive
        conversation.close()

    asyncio.run(run())


@pytest.mark.parametrize("measured", [True, False])
def test_a_keeper_gets_what_it_needs_of_the_environment_and_no_more(
    monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", "s3cr3t")
    monkeypatch.setenv("COVERAGE_FOR_A_TEST", "yes")
    monkeypatch.setenv("LC_TIME", "C")
    if measured:
        monkeypatch.setitem(sys.modules, "coverage", types.ModuleType("coverage"))
    else:
        monkeypatch.delitem(sys.modules, "coverage", raising=False)

    async def run() -> list[str]:
        client = KeeperClient.start(0.0, lambda: None)
        try:
            await client.describe()
            return Path(f"/proc/{client.pid}/environ").read_text().split("\0")
        finally:
            await client.close()

    names = {line.partition("=")[0] for line in asyncio.run(run()) if line}
    needed = {"PATH", "LANG", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"}
    assert {"PATH", "LC_TIME"} <= names
    assert {name for name in names if not name.startswith(("LC_", "COVERAGE_"))} <= needed
    assert ("COVERAGE_FOR_A_TEST" in names) == measured


def test_descriptors_that_cannot_be_passed_refuse_one_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's ETOOMANYREFS: a limit of the user, which an unprivileged node shares with its shards."""

    async def run() -> None:
        conversation = _Conversation()

        def full(*_: object) -> int:
            raise OSError(errno.ETOOMANYREFS, os.strerror(errno.ETOOMANYREFS))

        with monkeypatch.context() as patched:
            patched.setattr(_keeper_client, "send_with", full)
            with pytest.raises(SandboxError, match="cannot be passed on now"):
                await conversation.client.adopt(HANDLE, Limits(), 0)
        assert conversation.client.alive and not conversation.lost
        task, request = await conversation.asked()
        conversation.answer(request)
        handle, pidfd = await task
        assert handle == HANDLE
        os.close(pidfd)
        conversation.close()

    asyncio.run(run())
