"""The event loop of a shard, which begins with the first coroutine that it is asked for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from shardwright.errors import Overloaded

if TYPE_CHECKING:
    import asyncio

    from shardwright.guest._incoming import IncomingCall
    from shardwright.guest._mailbox import Mailbox


class ShardLoop:
    """The one event loop on which a shard's coroutines run; its thread begins with the first of them."""

    def __init__(self, mailbox: Mailbox, name: str) -> None:
        self._mailbox = mailbox
        self._name = name
        self._mutex = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.in_flight = 0
        self.thread_id: int | None = None
        self.begins: Callable[[int], None] = lambda thread: (
            None
        )  # called on its thread, with that, before anything runs

    def prepare(self) -> None:
        """Import what it takes to begin, before there is anything to run: for the forks of a template, too."""
        from shardwright.guest import _loop

        del _loop

    def start(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any] | None = None) -> None:
        """Run a call as a task. Any thread. Raises Overloaded when the shard is stopping, or has no thread for it."""
        loop = self._running()
        with self._mutex:
            self.in_flight += call.counted
        try:
            loop.call_soon_threadsafe(self._begin, call, coroutine)
        except RuntimeError:
            self._ended(call)
            raise Overloaded("the shard is stopping") from None

    def run(self, make: Callable[[], Coroutine[Any, Any, None]], timeout_s: float) -> None:
        """Run a coroutine there, if the loop was ever needed, and wait for its end; what it raises is lost.

        Not for a thread that has the baton, nor for the loop's own.
        """
        loop = self._loop
        if loop is None or loop.is_closed() or threading.get_ident() == self.thread_id:
            return
        import asyncio

        coroutine = make()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # it was closed just now
            coroutine.close()
            return
        with contextlib.suppress(Exception):
            future.result(timeout_s)

    def begin(self, make: Callable[[], Coroutine[Any, Any, None]], context: Context) -> None:
        """Run a coroutine there for its effects, in that context. Any thread; nothing happens when the loop is closed.

        What it raises goes to the loop's handler of exceptions.
        """
        loop = self._loop

        def create() -> None:
            assert loop is not None
            task = loop.create_task(make(), context=context)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        if loop is not None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(create)

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Any thread."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Cancel what runs, and stop the thread when that has ended (or a second has passed)."""
        with self._mutex:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        with contextlib.suppress(RuntimeError):  # it was closed before
            loop.call_soon_threadsafe(self._stop)
        if thread is not threading.current_thread():
            thread.join(2)

    def _begin(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any] | None) -> None:
        if call.cancelled:
            self._over(call, coroutine)
            return
        assert self._loop is not None
        task = self._loop.create_task(call.run_async(coroutine), context=call.new_context())
        call.task = task
        self._tasks.add(task)
        task.add_done_callback(partial(self._done, call, coroutine))

    def _done(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any] | None, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._over(call, coroutine)

    def _over(self, call: IncomingCall, coroutine: Coroutine[Any, Any, Any] | None) -> None:
        """The call has ended, or was cancelled before its first step: then nobody else closes, answers and forgets it."""
        self._ended(call)
        if coroutine is not None:
            coroutine.close()
        if not call.life.over:
            call.refuse_unwanted()
        call.forget()

    def _ended(self, call: IncomingCall) -> None:
        with self._mutex:
            self.in_flight -= call.counted

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            if self._loop is None:
                if self._closed:
                    raise Overloaded("the shard is stopping")
                from shardwright.guest._loop import new_event_loop

                try:
                    loop = new_event_loop(self._mailbox)
                except OSError as error:
                    raise Overloaded(f"{self._name}: no event loop for coroutines: {error}") from None
                started = threading.Event()
                thread = threading.Thread(
                    target=self._run, args=(loop, started), name=f"{self._name}-loop", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # the limit of processes is reached; the next call may find a thread
                    loop.close()
                    raise Overloaded(f"{self._name}: no thread for coroutines: {error}") from None
                self._loop, self._thread = loop, thread
                started.wait()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop, started: threading.Event) -> None:
        import asyncio

        self.thread_id = threading.get_ident()
        self.begins(self.thread_id)
        started.set()
        asyncio.set_event_loop(loop)
        self._mailbox.acquire()
        try:
            loop.run_forever()
        finally:
            self._mailbox.release()
            loop.close()

    def _stop(self) -> None:
        assert self._loop is not None
        for task in list(self._tasks):
            task.cancel()
        self._stopping = self._loop.create_task(self._ends())

    async def _ends(self) -> None:
        import asyncio

        assert self._loop is not None
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1)
        self._loop.stop()
