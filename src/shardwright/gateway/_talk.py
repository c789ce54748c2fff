"""The gateway's conversation with its node, on the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from shardwright.errors import ChannelClosed
from shardwright.guest import ControlSocket, frame

Obey = Callable[[Any, list[int]], None]


class NodeTalk:
    """Sends to the node and hears it. ``obey`` owns the descriptors that come with a message. Use from its loop alone.

    ``gone`` is called once, when the node is: then the gateway has no purpose any more.
    """

    def __init__(self, control: ControlSocket, gone: Callable[[ChannelClosed], None]) -> None:
        self._control = control
        self._gone = gone
        self._loop = asyncio.get_running_loop()
        self._obey: Obey = close_all
        self._unsent = bytearray()
        self._closed = False

    def __repr__(self) -> str:
        return f"<NodeTalk {'closed' if self._closed else 'open'}, {len(self._unsent)} bytes unsent>"

    def open(self, obey: Obey) -> None:
        """Hear the node from now on."""
        self._obey = obey
        self._loop.add_reader(self._control.fileno(), self._readable)
        self._readable()  # what was read together with an earlier message wakes nobody

    def send(self, message: Any) -> None:
        """Send soon. Raises ChannelClosed when the node is gone."""
        if self._closed:
            raise ChannelClosed("the node is gone")
        data = frame(message)
        if self._unsent:
            self._unsent += data
            return
        try:
            sent = self._control.send_some(memoryview(data))
        except ChannelClosed as reason:
            self._loop.call_soon(self._lost, reason)
            raise
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self._control.fileno(), self._flush)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
            self._control.close()

    def _flush(self) -> None:
        try:
            with memoryview(self._unsent) as view:
                sent = self._control.send_some(view)
        except ChannelClosed as reason:
            self._lost(reason)
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._loop.remove_writer(self._control.fileno())

    def _readable(self) -> None:
        if self._closed:
            return
        try:
            for message, descriptors in self._control.arrived():
                self._obey(message, descriptors)
        except ChannelClosed as reason:
            self._lost(reason)

    def _lost(self, reason: ChannelClosed) -> None:
        if not self._closed:
            self.close()
            self._gone(reason)


def close_all(message: Any, descriptors: list[int]) -> None:
    """A message that nobody asked for."""
    for descriptor in descriptors:
        os.close(descriptor)
