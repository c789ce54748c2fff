"""Blocking work on threads of our own, for coroutines that must wait for it.

The default executor of an event loop belongs to user code, whose threads may all be waiting for the very coroutine that
would need one more. These threads wait for nobody but the node. Each ends as soon as nothing is left to do: none is there
when a template forks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from shardwright.errors import Overloaded

if TYPE_CHECKING:
    from concurrent.futures import Future

MAX_THREADS = 32


class Errands:
    """Runs what it is given on at most ``limit`` daemon threads, in order of arrival."""

    def __init__(self, limit: int = MAX_THREADS) -> None:
        self._limit = limit
        self._mutex = threading.Lock()
        self._todo: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._threads = 0

    def __repr__(self) -> str:
        return f"<Errands, {len(self._todo)} wait, {self._threads} threads>"

    def run(self, work: Callable[[], Any]) -> Future[Any]:
        """What ``work`` returns or raises. Raises Overloaded when there is no thread for it; then it will not run."""
        from concurrent.futures import Future  # brings logging: few guests need either

        future: Future[Any] = Future()
        with self._mutex:
            if self._threads < self._limit:
                thread = threading.Thread(target=self._run, name="shardwright-errand", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the limit of processes is reached
                    if not self._threads:
                        raise Overloaded(f"no thread to wait with: {error}") from None
                else:
                    self._threads += 1
            self._todo.append((future, work))
        return future

    def _run(self) -> None:
        while True:
            with self._mutex:
                if not self._todo:
                    self._threads -= 1
                    return
                future, work = self._todo.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = work()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del future, work  # idle or not, this thread keeps nothing alive
