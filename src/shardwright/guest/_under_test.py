"""What a guest does in addition when a test run started its node: collects coverage, sends log records, may be patched."""

from __future__ import annotations

import json
import logging
import sys
import traceback

from shardwright.guest._coverage import keep, measure
from shardwright.guest._output import TaggedStream
from shardwright.guest._patching import Patches
from shardwright.guest._runtime import Runtime
from shardwright.guest._testing import Testing


def prepare(runtime: Runtime, testing: Testing) -> None:
    """Before user code is imported."""
    runtime.patches = Patches(runtime)
    runtime.imported = keep
    runtime.entered = send_records
    if testing.coverage:
        measure(testing.coverage)


def send_records() -> None:
    """Send every record that nobody here handles to the test process, whose levels and handlers then apply to it."""
    root = logging.getLogger()
    if not isinstance(sys.stderr, TaggedStream):
        return
    if root.level == logging.WARNING and not root.handlers:  # nobody has configured anything
        root.setLevel(1)
    root.addHandler(_Records(sys.stderr))


class _Records(logging.Handler):
    def __init__(self, stream: TaggedStream) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = {
                "name": record.name, "levelno": record.levelno, "levelname": record.levelname, "msg": record.getMessage(),
                "pathname": record.pathname, "lineno": record.lineno, "funcName": record.funcName,
                "created": record.created, "threadName": record.threadName, "process": record.process,
            }  # fmt: skip
            if record.exc_info:
                text["exc_text"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            self._stream.record(json.dumps(text))
        except Exception:
            self.handleError(record)
