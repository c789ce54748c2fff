"""Which of many descriptors are readable: the kernel's epoll where there is one, without a layer above it."""

from __future__ import annotations

import contextlib
import select
import selectors
from typing import Any

_HAS_EPOLL = hasattr(select, "epoll")
_MOST_S = 1e6


class Poll:
    """Descriptors, and what each stands for. ``wait`` on one thread at a time, together with the rest."""

    def __init__(self) -> None:
        self._kept: dict[int, Any] = {}
        if _HAS_EPOLL:
            self._epoll = select.epoll()
        else:
            self._selector = selectors.DefaultSelector()

    def register(self, descriptor: int, what: Any) -> Any:
        """Returns what that descriptor stood for, if it was registered; then it was closed and its number given anew.

        Raises OSError, ValueError.
        """
        stale = self._kept.get(descriptor)
        if _HAS_EPOLL:
            try:
                self._epoll.register(descriptor, select.EPOLLIN)
            except FileExistsError:
                self._epoll.modify(descriptor, select.EPOLLIN)
        else:
            if stale is not None:
                self._selector.unregister(descriptor)
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._kept[descriptor] = what
        return stale

    def unregister(self, descriptor: int) -> None:
        """Nothing happens where it is closed already."""
        self._kept.pop(descriptor, None)
        with contextlib.suppress(KeyError, ValueError, OSError):
            if _HAS_EPOLL:
                self._epoll.unregister(descriptor)
            else:
                self._selector.unregister(descriptor)

    def wait(self, timeout_s: float | None) -> list[Any]:
        """What the readable descriptors stand for; empty when the time is over. It may come a millisecond late."""
        kept = self._kept
        if not _HAS_EPOLL:
            return [kept[key.fd] for key, _ in self._selector.select(timeout_s) if key.fd in kept]
        if timeout_s is not None:
            timeout_s = min(max(timeout_s, 0.0), _MOST_S)
        return [kept[descriptor] for descriptor, _ in self._epoll.poll(timeout_s) if descriptor in kept]

    def close(self) -> None:
        if _HAS_EPOLL:
            self._epoll.close()
        else:
            self._selector.close()
