"""One reading thread for all channels of a process.

The thread waits on the channels' descriptors and hands each message to its link; it never runs user code and never waits
for a peer. It ends when the hub is closed. Links are added and retired from any thread.

A channel that was added is closed by the hub's thread alone, after its descriptor was taken out of the selector: the
kernel gives the number of a closed descriptor to the next channel, and the two must not be mistaken for each other.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import traceback
from collections import deque
from typing import Protocol

from shardwright.contracts.transport import Channel
from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.guest._service import serves


class Reader(Protocol):
    """What the hub calls, on its own thread; neither may block or raise."""

    channel: Channel

    def on_frame(self, frame: memoryview) -> None: ...

    def on_closed(self, reason: ChannelClosed) -> None:
        """The conversation is over, and its channel closed."""


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
        self._readers: dict[Reader, int] = {}  # and the descriptors by which they are registered
        self._closing = False
        self._why_ended = ""  # not empty: no thread reads any more
        self._thread: threading.Thread | None = None
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"<Hub {self._name}, {len(self._readers)} channels>"

    def add(self, reader: Reader) -> None:
        """Read this channel from now on. When that cannot be, it is closed and ``on_closed`` is called here."""
        with self._mutex:
            why = self._why_ended
            if not why and self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # the limit of processes is reached
                    why = f"no thread to read it with: {error}"
                else:
                    self._thread = thread
            if not why:
                self._todo.append((True, reader))
        if why:
            reader.channel.close()
            reader.on_closed(ChannelClosed(why))
        else:
            self._poke()

    def retire(self, reader: Reader) -> None:
        """Stop reading this channel and close it, soon; ``on_closed`` is not called for that."""
        if self.on_thread():
            self._unregister(reader)
            return
        with self._mutex:
            read = self._thread is not None and not self._why_ended
            if read:
                self._todo.append((False, reader))
        if read:
            self._poke()
        else:
            reader.channel.close()

    def on_thread(self) -> bool:
        """Whether the calling thread is the one that reads."""
        return self._thread is threading.current_thread()

    def close(self) -> None:
        """Stop the thread and forget all channels (their owners close them)."""
        with self._mutex:
            self._closing = True
            thread = self._thread
            if thread is None:
                self._why_ended = "the hub was closed"
        self._poke()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)
        self._selector.close()
        self._wake_read.close()
        self._wake_write.close()

    def _poke(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):  # full: it is awake anyway; closed: it has ended
            self._wake_write.send(b"\0")

    def _run(self) -> None:
        serves("the reading of every channel")
        why = "the hub was closed"
        try:
            while not self._closing:
                self._turn()
        except BaseException as defect:  # silent, it would leave every caller waiting for ever
            why = f"the thread that reads all channels failed, which is a defect of Shardwright: {defect!r}"
            with contextlib.suppress(Exception):
                print(f"{self._name}: {why}", file=sys.stderr)
                traceback.print_exc()
        with self._mutex:
            self._why_ended = why
            todo, self._todo = self._todo, deque()
        for add, reader in todo:
            if not add:
                self._unregister(reader)
        if not self._closing:
            for reader in [*self._readers, *(reader for add, reader in todo if add)]:
                with contextlib.suppress(Exception):
                    self._end(reader, ChannelClosed(why))

    def _turn(self) -> None:
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
        except KeyError:  # somebody closed a registered channel behind our back, and this one got its number
            stale: Reader = self._selector.get_key(descriptor).data
            self._end(stale, ChannelClosed("the channel was closed while it was read"))
            self._register(reader)
        except Exception as error:  # it was closed meanwhile, or there are no descriptors left
            self._end(reader, ChannelClosed(f"the channel cannot be read: {error}"))
        else:
            self._readers[reader] = descriptor

    def _unregister(self, reader: Reader) -> None:
        """Stop reading it, then close it."""
        descriptor = self._readers.pop(reader, None)
        if descriptor is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(descriptor)
        reader.channel.close()

    def _end(self, reader: Reader, reason: ChannelClosed) -> None:
        self._unregister(reader)
        reader.on_closed(reason)

    def _drain(self, reader: Reader) -> None:
        if reader not in self._readers:
            return
        try:
            frames = reader.channel.receive_ready(self.BURST)
        except ChannelClosed as reason:
            self._end(reader, reason)
            return
        for frame in frames:
            try:
                reader.on_frame(frame)
            except Exception as defect:  # a message that defeats us costs its sender the channel, and nobody else
                self._end(reader, ProtocolViolation(f"a message could not be handled: {defect!r}"))
            if reader not in self._readers:
                return
