"""Watches channels that a hub of rings cannot wait for itself: the sockets among its channels."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable

from shardwright.contracts.transport import Channel
from shardwright.guest._service import serves

_EVENTS = select.EPOLLIN | select.EPOLLONESHOT


class Pump:
    """Says which of its channels have something to take, each once until ``again``; ``wake`` is called for that.

    Methods may be called from any thread. Raises OSError, RuntimeError when the system refuses descriptors or a thread.
    """

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._channels: dict[int, Channel] = {}
        self._descriptors: dict[Channel, int] = {}
        self._mutex = threading.Lock()
        self._closed = False
        self.readable: deque[Channel] = deque()
        self._epoll = select.epoll()
        self._end = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._end, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<Pump {len(self._channels)} channels>"

    def add(self, channel: Channel) -> None:
        """Raises OSError, ChannelClosed."""
        descriptor = channel.arrivals_fileno()
        with self._mutex:
            stale = self._channels.get(descriptor)
            self._channels[descriptor] = channel
            self._descriptors[channel] = descriptor
            self._epoll.register(descriptor, _EVENTS)
        if stale is not None:  # somebody closed it behind our back, and this one got its number
            self.readable.append(stale)
            self._wake()

    def again(self, channel: Channel) -> bool:
        """All that was there has been taken. False when it is not watched any more, for it was closed behind our back."""
        with self._mutex:
            descriptor = self._descriptors.get(channel)
            if descriptor is None or self._channels.get(descriptor) is not channel:
                return descriptor is None
            try:
                self._epoll.modify(descriptor, _EVENTS)
            except (OSError, ValueError):
                return False
        return True

    def drop(self, channel: Channel) -> None:
        """Before it is closed: the kernel gives the number of a closed descriptor to the next channel."""
        with self._mutex:
            descriptor = self._descriptors.pop(channel, None)
            if descriptor is not None and self._channels.get(descriptor) is channel:
                del self._channels[descriptor]
                with contextlib.suppress(OSError, ValueError):
                    self._epoll.unregister(descriptor)

    def close(self) -> None:
        with self._mutex:
            if self._closed:
                return
            self._closed = True
        os.eventfd_write(self._end, 1)
        if self._thread is not threading.current_thread():
            self._thread.join(5)
        self._epoll.close()
        os.close(self._end)

    def _run(self) -> None:
        serves("the reading of sockets")
        while not self._closed:
            events = self._epoll.poll()
            with self._mutex:
                found = [self._channels[descriptor] for descriptor, _ in events if descriptor in self._channels]
            if found:
                self.readable.extend(found)
                self._wake()
