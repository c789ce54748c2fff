"""A debugger's terminal, as a test types at it and reads it."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shardwright.node import ApiClient, Node

__all__ = ["Typing", "api_path", "attached", "begin"]


def api_path(node: Node) -> Path:
    api = node.running.api
    assert api is not None and api.path is not None
    return api.path


def begin(work: Callable[..., Any], *args: Any) -> Future[Any]:
    """Run it on a thread of its own, which keeps nobody waiting at the end of a test that fails."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(work(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="begun by a test", daemon=True).start()
    return future


class Typing:
    """What is typed, and what was shown, at one end of a connection or terminal given by descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.shown = ""
        self._read = 0

    def type(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._descriptor, data) :]

    def until(self, *texts: str, timeout_s: float = 20) -> str:
        """Read until one of these was shown, behind what was waited for before; what was shown up to there."""
        end_s = time.monotonic() + timeout_s
        while True:
            fresh = self.shown[self._read :]
            found = [fresh.index(text) + len(text) for text in texts if text in fresh]
            if found:
                self._read += min(found)
                return fresh[: min(found)]
            left_s = end_s - time.monotonic()
            assert left_s > 0, f"no {texts} in:\n{self.shown}"
            if select.select([self._descriptor], [], [], left_s)[0]:
                data = self._receive()
                assert data, f"it ended without {texts}:\n{self.shown}"
                self.shown += data.decode("utf-8", "replace")

    def to_end(self, timeout_s: float = 20) -> str:
        """Everything until the other side ends; all that was shown."""
        end_s = time.monotonic() + timeout_s
        while True:
            left_s = end_s - time.monotonic()
            assert left_s > 0, f"it does not end:\n{self.shown}"
            if select.select([self._descriptor], [], [], left_s)[0]:
                data = self._receive()
                if not data:
                    return self.shown
                self.shown += data.decode("utf-8", "replace")

    def _receive(self) -> bytes:
        try:
            return os.read(self._descriptor, 65536)
        except OSError:  # of a pseudo terminal whose other end was closed
            return b""


@contextmanager
def attached(node: Node, shard: str, **wanted: Any) -> Iterator[Typing]:
    """A terminal attached to that shard through the node's socket; hung up at the end."""
    with ApiClient(api_path(node)) as client:
        connection = client.terminal("attach", shard=shard, **wanted)
        connection.settimeout(None)
        yield Typing(connection.fileno())
