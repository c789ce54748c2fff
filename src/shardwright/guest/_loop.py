"""Event loops of a shard, which put the baton down while they sleep.

A loop's callbacks run under the shard's baton like any other call of it; its ``select`` is a place where other calls may
come in, as every ``await`` of its coroutines already is. The policy gives the same to loops that user code starts with
``asyncio.run``. Nothing else of a guest brings asyncio, a fifth of its start: what needs it imports this module then.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
import threading
import weakref
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
