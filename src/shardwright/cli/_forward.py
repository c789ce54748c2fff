"""What shards print, written to this process's stdout and stderr while a program of theirs runs."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from shardwright.node import LogLine, Running

if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_WAITING = 200_000  # lines; a reader of ours that stands still must not fill our memory
_MOST_BYTES = 64 * 1024 * 1024


class Forwarding:
    """Lines go out in their order, on a thread of their own, so that a slow reader never holds up the node.

    ``tagged`` puts the shard before each line; ``as_json`` makes each an object that also names component, session and
    trace. After ``close`` everything heard has been written.
    """

    def __init__(self, running: Running, *, tagged: bool = False, as_json: bool = False) -> None:
        self._tagged = tagged
        self._as_json = as_json
        self._queue: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._heard_bytes = self._written_bytes = 0  # each is counted on one thread
        self._lost = 0
        self._middle: dict[tuple[int, str], bool] = {}  # stream and shard -> it stands in the middle of a line
        self._thread = threading.Thread(target=self._write, name="forward", daemon=True)
        self._thread.start()
        running.submit(self._subscribe(running)).result()

    async def _subscribe(self, running: Running) -> Callable[[], None]:
        logs = running.core.logs
        logs.drain()
        for line in logs.since(0):  # what was printed while components were imported
            self._hear(line)
        return logs.subscribe(self._hear)

    def _hear(self, line: LogLine) -> None:
        if self._queue.qsize() >= _MOST_WAITING or self._heard_bytes - self._written_bytes >= _MOST_BYTES:
            self._lost += 1
            return
        stream = 2 if line.stream in ("stderr", "log") else 1
        if self._as_json:
            self._put(stream, _object(line))
            return
        head = f"{line.shard} | " if self._tagged and not self._middle.get((stream, line.shard)) else ""
        self._middle[stream, line.shard] = line.partial
        text = f"{head}{line.text}{'' if line.partial else chr(10)}"
        self._put(stream, text.encode("utf-8", "backslashreplace"))

    def _put(self, stream: int, data: bytes) -> None:
        self._heard_bytes += len(data)
        self._queue.put((stream, data))

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            stream, data = item
            self._written_bytes += len(data)
            with contextlib.suppress(OSError):  # whoever reads us has gone
                while data:
                    data = data[os.write(stream, data) :]

    def close(self, timeout_s: float = 30.0) -> int:
        """Write what is left; returns how many lines were lost."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        return self._lost


def _object(line: LogLine) -> bytes:
    """One line, as our own log would say it."""
    stamp = datetime.datetime.fromtimestamp(line.wall_s, datetime.UTC).isoformat().replace("+00:00", "Z")
    told = {
        "event": line.text, "level": line.level.lower() or ("info" if line.stream == "stdout" else "warning"),
        "timestamp": stamp, "component": line.component, "shard": line.shard, "session": line.session,
        "trace_id": line.trace, "stream": line.stream, "logger": line.logger, "partial": line.partial,
    }  # fmt: skip
    return json.dumps({name: value for name, value in told.items() if value or name == "event"}).encode() + b"\n"
