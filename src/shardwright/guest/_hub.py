"""One reading thread for all channels of a process.

The thread waits on the channels' descriptors and hands each message to its link; it never runs user code. It ends when
the hub is closed. Links are added and removed from any thread.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from typing import Protocol

from shardwright.contracts.transport import Channel
from shardwright.errors import ChannelClosed, ProtocolViolation


class Reader(Protocol):
    """What the hub calls, on its own thread; neither may block or raise."""

    channel: Channel

    def on_frame(self, frame: memoryview) -> None: ...

    def on_closed(self, reason: ChannelClosed) -> None: ...


class Hub:
    """Reads every channel added to it. ``start`` must be called in the process that uses it (after any fork)."""

    BURST = 64  # messages taken from one channel before the others get their turn

    def __init__(self, name: str = "hub") -> None:
        self._name = name
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._todo: deque[tuple[bool, Reader]] = deque()
        self._readers: dict[int, Reader] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._started = False
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"<Hub {self._name}, {len(self._readers)} channels>"

    def add(self, reader: Reader) -> None:
        """Read this channel from now on."""
        self._todo.append((True, reader))
        with self._mutex:
            if not self._started:
                self._started = True
                self._thread.start()
        self._poke()

    def remove(self, reader: Reader) -> None:
        """Stop reading this channel, soon; ``on_closed`` is not called for it any more."""
        self._todo.append((False, reader))
        self._poke()

    def close(self) -> None:
        """Stop the thread and forget all channels (their owners close them)."""
        self._closing = True
        self._poke()
        if self._started and self._thread is not threading.current_thread():
            self._thread.join(5)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _poke(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it is awake anyway; closed: it has ended
            self._wake_write.send(b"\0")

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                reader: Reader | None = key.data
                if reader is None:
                    with contextlib.suppress(BlockingIOError):
                        self._wake_read.recv(4096)
                else:
                    self._drain(reader)
            while self._todo:
                add, reader = self._todo.popleft()
                if add:
                    self._register(reader)
                else:
                    self._unregister(reader)

    def _register(self, reader: Reader) -> None:
        try:
            descriptor = reader.channel.fileno()
            self._selector.register(descriptor, selectors.EVENT_READ, reader)
        except (ValueError, OSError, ChannelClosed):
            reader.on_closed(ChannelClosed("the channel was closed before it was read"))
            return
        self._readers[id(reader)] = reader

    def _unregister(self, reader: Reader) -> None:
        if self._readers.pop(id(reader), None) is None:
            return
        for descriptor, key in list(self._selector.get_map().items()):
            if key.data is reader:
                with contextlib.suppress(KeyError, ValueError, OSError):
                    self._selector.unregister(descriptor)

    def _drain(self, reader: Reader) -> None:
        if id(reader) not in self._readers:
            return
        for _ in range(self.BURST):
            try:
                frame = reader.channel.receive(timeout_s=0)
            except ChannelClosed as reason:
                self._unregister(reader)
                reader.on_closed(reason)
                return
            if frame is None:
                return
            try:
                reader.on_frame(frame)
            except Exception as defect:  # a message that defeats us costs its sender the channel, and nobody else
                self._unregister(reader)
                reader.on_closed(ProtocolViolation(f"a message could not be handled: {defect!r}"))
                return
            if not reader.channel.buffered:  # what comes next wakes us again: spare the kernel a vain question
                return
