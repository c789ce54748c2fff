"""Event loops of a shard, which put the baton down while they sleep.

A loop's callbacks run under the shard's baton like any other call of it; its ``select`` is a place where other calls may
come in, as every ``await`` of its coroutines already is. The policy gives the same to loops that user code starts with
``asyncio.run``.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Coroutine
from contextvars import Context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwright.guest._mailbox import Mailbox
    from shardwright.guest._responder import IncomingCall


class _PoliteSelector(selectors.DefaultSelector):
    """Puts the baton down for the time of a select."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def select(self, timeout: float | None = None) -> Any:
        mailbox = self._mailbox
        if not mailbox.holds() or (timeout is not None and timeout <= 0 and not mailbox.contended):
            return super().select(timeout)
        mailbox.release()
        try:
            return super().select(timeout)
        finally:
            mailbox.acquire()


def new_event_loop(mailbox: Mailbox) -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop(_PoliteSelector(mailbox))


def install_policy(mailbox: Mailbox) -> None:
    """Loops that user code makes in this process put the baton down as well."""

    class Policy(asyncio.DefaultEventLoopPolicy):
        def new_event_loop(self) -> asyncio.AbstractEventLoop:
            return new_event_loop(mailbox)

    asyncio.set_event_loop_policy(Policy())


class ShardLoop:
    """The one event loop on which a shard's coroutines run; its thread begins with the first of them."""

    def __init__(self, mailbox: Mailbox, name: str) -> None:
        self._mailbox = mailbox
        self._name = name
        self._mutex = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        self.thread_id: int | None = None

    def start(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any] | None = None) -> None:
        """Run a call as a task. Any thread."""
        loop = self._running()
        with self._mutex:
            self.in_flight += 1
        loop.call_soon_threadsafe(self._begin, call, coroutine)

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Cancel what runs and stop the thread, soon."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    def _begin(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any] | None) -> None:
        if call.cancelled:
            self._ended()
            if coroutine is not None:
                coroutine.close()
            return
        assert self._loop is not None
        task = self._loop.create_task(call.run_async(coroutine), context=Context())
        call.task = task
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._ended()
        self._tasks.discard(task)

    def _ended(self) -> None:
        with self._mutex:
            self.in_flight -= 1

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            if self._loop is None:
                self._loop = new_event_loop(self._mailbox)
                started = threading.Event()
                threading.Thread(target=self._run, args=(started,), name=f"{self._name}-loop", daemon=True).start()
                started.wait()
            return self._loop

    def _run(self, started: threading.Event) -> None:
        assert self._loop is not None
        self.thread_id = threading.get_ident()
        started.set()
        asyncio.set_event_loop(self._loop)
        self._mailbox.acquire()
        try:
            self._loop.run_forever()
        finally:
            self._mailbox.release()

    def _stop(self) -> None:
        assert self._loop is not None
        for task in list(self._tasks):
            task.cancel()
        self._loop.call_soon(self._loop.stop)
