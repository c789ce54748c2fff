"""Standard output and logging of user code, tagged by session and trace, on the shard's log pipe.

Whole lines go out as one write each. A line with a tag begins with a record separator and a small JSON object; a line
without one (written by C code straight to the descriptor) is just text. Lines longer than the pipe's atomic size are cut
into pieces, each with its tag.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import threading
from typing import Any

from shardwright.guest._context import current_call
from shardwright.guest._origin import tag_of_this_thread

MARK = "\x1e"
SPLIT = "\x1f"
_PIECE = 3500  # below PIPE_BUF (4096) with its tag, so that pieces of several threads never mix


class TaggedStream(io.TextIOBase):
    """A text stream whose lines say which session wrote them. Never closes the pipe.

    The beginning of a line waits, by thread and session, until its end is written or the call that wrote it ends: what
    one session began, another never continues.
    """

    def __init__(self, descriptor: int, stream: str, *, beside: int = -1) -> None:
        """``beside`` is a descriptor to whose lines the order is kept, for as long as both are what they are now."""
        self._descriptor = descriptor
        self._beside = beside
        self._pair = _pair(beside, descriptor) if beside >= 0 else None
        self._stream = stream
        self._begun = _Begun()
        self._binary = _Binary(self)

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def name(self) -> str:
        return f"<{self._stream}>"

    @property
    def buffer(self) -> io.RawIOBase:
        return self._binary

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1 if self._stream == "stdout" else 2

    def isatty(self) -> bool:
        return False

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        session = current_call.get().session
        *lines, rest = (self._begun.texts.pop(session, "") + text).split("\n")
        if rest:
            self._begun.texts[session] = rest
            if not unended:
                unended.append(True)
        for line in lines:
            self._emit(line, {"o": self._stream})
        return len(text)

    def flush(self) -> None:
        rest = self._begun.texts.pop(current_call.get().session, "")
        if rest:
            self._emit(rest, {"o": self._stream, "p": 1})  # p: the line goes on

    def log(self, record: logging.LogRecord, text: str) -> None:
        tag = {"o": "log", "l": record.levelname, "n": record.name}
        if record.name.startswith("shardwright."):  # of our own: it says which trace it is about
            tag["t"] = str(record.__dict__.get("trace", ""))
        for line in text.split("\n"):
            self._emit(line, dict(tag))

    def record(self, text: str) -> None:
        """A log record, whole, for a test run that hands it to the loggers of its own process."""
        self._emit(text, {"o": "record"})

    def _emit(self, line: str, tag: dict[str, Any]) -> None:
        session, trace = tag_of_this_thread()
        if session:
            tag["s"] = session
        if trace and not tag.get("t"):
            tag["t"] = trace
        for start in range(0, max(1, len(line)), _PIECE // 4):  # four bytes a character at most
            piece = line[start : start + _PIECE // 4]
            head = dict(tag, p=1) if start + _PIECE // 4 < len(line) else tag
            encoded = f"{MARK}{json.dumps(head)}{SPLIT}{piece}\n".encode("utf-8", "backslashreplace")
            try:
                os.write(self._target(), encoded)
            except OSError:
                return  # the node is gone; user code must not fail for that

    def _target(self) -> int:
        """User code may have led either descriptor elsewhere; then each goes its own way."""
        if self._pair is None or _pair(self._beside, self._descriptor) != self._pair:
            return self._descriptor
        return self._beside


def _pair(*descriptors: int) -> list[tuple[int, int]] | None:
    try:
        return [(found.st_dev, found.st_ino) for found in map(os.fstat, descriptors)]
    except OSError:
        return None


class _Begun(threading.local):
    """The lines that a thread has begun, by session."""

    def __init__(self) -> None:
        self.texts: dict[int, str] = {}


class _Binary(io.RawIOBase):
    """``sys.stdout.buffer`` of a shard."""

    def __init__(self, text: TaggedStream) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._text.write(bytes(view).decode("utf-8", "backslashreplace"))
        return len(view)

    def flush(self) -> None:
        self._text.flush()


class _LastResort(logging.Handler):
    """Takes the place of logging's handler of last resort, so that records of unconfigured programs keep their names."""

    def __init__(self, stream: TaggedStream) -> None:
        super().__init__(logging.WARNING)
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._stream.log(record, self.format(record))
        except Exception:
            self.handleError(record)


unended: list[bool] = []  # not empty once a line was begun: until then there is nothing to end
_streams: list[TaggedStream] = []
_plain: list[Any] = []  # the streams that those took the place of


def end_lines() -> None:
    """The running call ends: what it printed without a newline goes out now."""
    for stream in _streams:
        stream.flush()


def tag_output(descriptor: int, errors_descriptor: int) -> None:
    """Send descriptors 1 and 2 and Python's streams of this process to the log pipes, which this uses up."""
    os.dup2(descriptor, 1)
    os.dup2(errors_descriptor, 2)
    os.close(descriptor)
    os.close(errors_descriptor)
    if not _streams:
        tag_streams()


def tag_streams() -> None:
    """Python's streams of this process write tagged lines from now on, wherever descriptors 1 and 2 lead."""
    errors = TaggedStream(2, "stderr", beside=1)
    output = TaggedStream(1, "stdout")
    _plain[:] = [sys.stdout, sys.stderr, logging.lastResort]
    _streams[:] = [output, errors]
    _replace(output, errors, _LastResort(errors))


def untag_streams() -> None:
    """Back to what there was: this process writes to a terminal, or where its caller does."""
    if _streams:
        _replace(*_plain)
        _streams.clear()


def _replace(output: Any, errors: Any, last_resort: logging.Handler | None) -> None:
    # handlers that were configured at import hold the old streams: give them the new ones
    replaced = {id(sys.stdout): output, id(sys.stderr): errors}
    for logger in [logging.getLogger(), *map(logging.getLogger, list(logging.Logger.manager.loggerDict))]:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in replaced:
                handler.setStream(replaced[id(handler.stream)])
    sys.stdout, sys.stderr = output, errors
    logging.lastResort = last_resort
