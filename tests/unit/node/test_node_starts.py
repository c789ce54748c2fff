"""What guests say until they are ready: taken in order, refused by name, and never waited for without an end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from shardwright.contracts.sandbox import Exit
from shardwright.errors import ComponentImportError, StartFailed
from shardwright.guest import VERSION, Bind, Failed, Hello, Note, Ready, Unbind, Why, frame
from shardwright.model.ids import ComponentName, ShardId
from shardwright.node._frames import control_pair
from shardwright.node._logs import Logs
from shardwright.node._port import GuestPort
from shardwright.node._starts import Starts


class Events:
    """Hears what the core would."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.on_bind = self.on_unbind = self.on_why = self.on_note = self._hear

    def record(self, kind: str, reason: str, *, component: str = "", shard: str = "") -> None:
        raise AssertionError(reason)

    def _hear(self, port: Any, message: Any) -> None:
        self.seen.append(message)


class Started:
    """One guest that starts, played by the test at the other end of its control socket."""

    def __init__(self, timeout_s: float) -> None:
        ours, self.guest = control_pair()
        self.port = GuestPort(ShardId("web-00000001"), ComponentName("web"), ours)
        self.events = Events()
        self.ended: list[ShardId] = []
        self.starts = Starts(self.events, Logs(lambda shard, session: ""), self._end, lambda component: timeout_s)

    async def _end(self, port: GuestPort) -> Exit | None:
        self.ended.append(port.shard)
        return Exit(7)

    def says(self, *messages: Any) -> None:
        self.guest.sendall(b"".join(map(frame, messages)))


def talk(conversation: Callable[[Started], Awaitable[None]], timeout_s: float = 20.0) -> None:
    async def run() -> None:
        started = Started(timeout_s)
        try:
            async with asyncio.timeout(20):
                await conversation(started)
        finally:
            started.port.close("the test is over")
            started.guest.close()

    asyncio.run(run())


def test_a_guest_of_another_version_is_refused() -> None:
    async def conversation(one: Started) -> None:
        one.says(Hello(VERSION + 1))
        with pytest.raises(StartFailed, match=f"version {VERSION + 1}, the node {VERSION}") as refused:
            await one.starts.hello(one.port)
        assert "one installation" in refused.value.remedy

    talk(conversation)


def test_what_it_asks_for_while_it_is_imported_is_handed_on_in_order() -> None:
    async def conversation(one: Started) -> None:
        said = (Note("a", "b"), Bind(1, "bank", 0), Why(2, "bank", "bank-00000001"), Unbind("bank", "bank-00000001"))
        one.says(Hello(VERSION), *said, Ready(0.5))
        await one.starts.hello(one.port)
        assert (await one.starts.ready(one.port)).forkable
        assert [type(each) for each in one.events.seen] == [Note, Bind, Why, Unbind]

    talk(conversation)


def test_who_asks_before_it_has_said_hello_is_refused() -> None:
    async def conversation(one: Started) -> None:
        one.says(Bind(1, "bank", 0))
        with pytest.raises(StartFailed):
            await one.starts.hello(one.port)
        assert not one.events.seen

    talk(conversation)


def test_an_import_that_fails_is_the_users_error() -> None:
    async def conversation(one: Started) -> None:
        one.says(Hello(VERSION), Failed("ValueError: no", "Traceback ..."))
        await one.starts.hello(one.port)
        with pytest.raises(ComponentImportError, match="ValueError: no"):
            await one.starts.ready(one.port)

    talk(conversation)


def test_one_that_ends_is_told_with_how_it_ended() -> None:
    async def conversation(one: Started) -> None:
        one.says(Hello(VERSION))
        await one.starts.hello(one.port)
        one.guest.shutdown(socket.SHUT_RDWR)
        with pytest.raises(StartFailed, match=r"web ended while it started: .*7"):
            await one.starts.ready(one.port)
        assert one.ended == ["web-00000001"]

    talk(conversation)


def test_one_that_never_becomes_ready_is_not_waited_for_whatever_it_says() -> None:
    async def conversation(one: Started) -> None:
        async def chatters() -> None:
            while True:
                one.says(Note("a", "b"))
                await asyncio.sleep(0.05)

        chatter = asyncio.create_task(chatters())
        try:
            with pytest.raises(StartFailed, match=r"did not become ready within 0\.3 s") as late:
                await one.starts.hello(one.port)
        finally:
            chatter.cancel()
        assert "start_timeout" in late.value.remedy and one.events.seen

    talk(conversation, timeout_s=0.3)


def test_a_template_that_says_why_it_cannot_fork_is_believed_at_once() -> None:
    async def conversation(one: Started) -> None:
        failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(0.05, failed.set_result, "no memory")
        with pytest.raises(StartFailed, match="web-00000001: no memory"):
            await one.starts.hello(one.port, failed)

    talk(conversation)
