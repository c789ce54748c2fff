"""Event loops of a shard, which put the baton down while they sleep.

A loop's callbacks run under the shard's baton like any other call of it; its ``select`` is a place where other calls may
come in, as every ``await`` of its coroutines already is. The policy gives the same to loops that user code starts with
``asyncio.run``.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Collection, Coroutine
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from shardwright.errors import Overloaded

if TYPE_CHECKING:
    from shardwright.guest._incoming import IncomingCall
    from shardwright.guest._mailbox import Mailbox


class _PoliteSelector(selectors.DefaultSelector):
    """Puts the baton down for the time of a select; reads rings meanwhile, where its loop waits for nothing else."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox
        self.ready: Collection[Any] | None = None  # what the loop has to do; None: it is none that we know
        self.ear: Any = None  # where it waits while it reads rings: who has something for the loop wakes it there
        self.thread = 0

    def select(self, timeout: float | None = None) -> Any:
        mailbox = self._mailbox
        waits = timeout is None or timeout > 0
        if not mailbox.holds() or not (waits or mailbox.contended):
            return super().select(timeout)
        mailbox.release()
        try:
            hub = mailbox.hub
            if waits and self.ready is not None and len(self.get_map()) == 1 and hub is not None and hub.has_ears:
                self.thread = threading.get_ident()
                if hub.read_until_ready(self, timeout):
                    return []
            return super().select(timeout)
        finally:
            mailbox.acquire()


class _PoliteLoop(asyncio.SelectorEventLoop):
    """A loop whose thread reads the rings of its process while it has nothing to do: a reply that it awaits needs no other."""

    def __init__(self, selector: _PoliteSelector) -> None:
        super().__init__(selector)
        self._polite = selector
        if _KNOWN:
            selector.ready = self._ready  # type: ignore[attr-defined]

    def _write_to_self(self) -> None:
        """Something was given to it. ``ear`` is set before the loop looks whether it has anything to do, and goes to sleep."""
        ear = self._polite.ear
        if ear is None:
            super()._write_to_self()  # type: ignore[misc]
        elif self._polite.thread != threading.get_ident():
            ear.wake()


# what of asyncio's loop is no public promise: where it is otherwise, loops wait for descriptors alone
_KNOWN = hasattr(asyncio.SelectorEventLoop, "_write_to_self") and sys.version_info < (3, 15)


_polite: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()


def new_event_loop(mailbox: Mailbox) -> asyncio.AbstractEventLoop:
    loop = _PoliteLoop(_PoliteSelector(mailbox))
    _polite.add(loop)
    return loop


def is_polite(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether that loop puts the baton down while it sleeps; one that was not made by the policy does not."""
    return loop in _polite


class _PolitePolicy(asyncio.AbstractEventLoopPolicy):
    """The policy that was there, but for new loops of shards."""

    def __init__(self, before: asyncio.AbstractEventLoopPolicy, find: Callable[[], Mailbox | None]) -> None:
        self.before = before
        self._find = find

    def get_event_loop(self) -> asyncio.AbstractEventLoop:
        return self.before.get_event_loop()

    def set_event_loop(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.before.set_event_loop(loop)

    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        mailbox = self._find()
        return self.before.new_event_loop() if mailbox is None else new_event_loop(mailbox)

    def get_child_watcher(self) -> Any:
        return self.before.get_child_watcher()

    def set_child_watcher(self, watcher: Any) -> None:
        self.before.set_child_watcher(watcher)


def install_policy(find: Callable[[], Mailbox | None]) -> Callable[[], None]:
    """Loops that user code makes put the baton down as well; ``find`` tells whose baton the calling thread has.

    Returns what undoes it.
    """
    before = asyncio.get_event_loop_policy()
    ours = _PolitePolicy(before, find)
    asyncio.set_event_loop_policy(ours)

    def undo() -> None:
        if asyncio.get_event_loop_policy() is ours:
            asyncio.set_event_loop_policy(before)

    return undo


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
        assert self._loop is not None
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=1)
        self._loop.stop()
