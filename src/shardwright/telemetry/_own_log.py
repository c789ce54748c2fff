"""OwnLog: what Shardwright itself says, one line each, for people at a terminal or for whoever collects JSON.

It is apart from the ``logging`` of the process, which belongs to the application, and configures nothing global.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeAlias

from shardwright.telemetry._trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

LogFormat: TypeAlias = Literal["auto", "json", "pretty"]
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error", "off"]
LOG_FORMATS: tuple[LogFormat, ...] = ("auto", "json", "pretty")
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error", "off")
MOST_WAITING = 10_000  # lines; a reader that stands still must not fill our memory
_NUMBERS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "off": 1000}
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


class OwnLog:
    """Lines of one process of ours. ``say`` from any thread; it never waits for the reader and never raises.

    ``form`` "auto" is pretty where ``stream`` is a terminal, JSON elsewhere. ``bound`` fields are on every line, and so is
    ``trace_id`` where a trace is current or given. ``conceal`` is applied to all text: it takes secrets out.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        form: LogFormat = "auto",
        level: LogLevel = "info",
        colours: bool = True,
        **bound: str | int,
    ) -> None:
        self._stream = stream
        self.pretty = form == "pretty" or (form == "auto" and stream.isatty())
        self.level = level
        self._least = _NUMBERS[level]
        self._colours = colours and stream.isatty()
        self._bound = bound
        self._logger: Any = None
        self._queue: queue.SimpleQueue[tuple[str, str, dict[str, Any]] | None] = queue.SimpleQueue()
        self._lost = 0
        self._mutex = threading.Lock()
        self._thread: threading.Thread | None = None
        self.conceal: Callable[[str], str] = lambda text: text

    def __repr__(self) -> str:
        return f"<OwnLog {'pretty' if self.pretty else 'json'} from {self.level}>"

    def wants(self, level: LogLevel) -> bool:
        return _NUMBERS[level] >= self._least

    def say(self, level: LogLevel, text: str, **fields: Any) -> None:
        """One line, soon; fields that are empty or None are left out."""
        if not self.wants(level):
            return
        trace = current_trace()
        if trace is not None:
            fields.setdefault("trace_id", trace.trace_id.hex())
        told = {name: value for name, value in fields.items() if value not in (None, "")}
        with self._mutex:
            if self._queue.qsize() >= MOST_WAITING:
                self._lost += 1
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, name="shardwright-log", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:  # the limit of threads is reached
                    self._thread = None
                    return
            self._queue.put((level, text, told))

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is left. What is said later begins anew."""
        with self._mutex:
            thread, self._thread = self._thread, None
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join(timeout_s)

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            self.write_now(*item)
            if self._lost:
                with self._mutex:
                    lost, self._lost = self._lost, 0
                self.write_now("warning", "lines were lost here: nobody reads them", {"lost": lost})

    def write_now(self, level: str, text: str, fields: dict[str, Any]) -> None:
        """The same without a thread: for a process that has just one."""
        if self._logger is None:
            self._logger = self._made()
        try:
            getattr(self._logger, level)(text, **fields)
        except (OSError, ValueError):  # whoever reads us has gone, or the stream is closed
            pass

    def _made(self) -> Any:
        import structlog  # a tenth of a second: only who says something pays it

        renderer: Any = (
            structlog.dev.ConsoleRenderer(colors=self._colours, pad_event_to=0)
            if self.pretty
            else structlog.processors.JSONRenderer(sort_keys=False)
        )
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S" if self.pretty else "iso", utc=not self.pretty)
        bound: dict[str, Any] = {**self._bound, **({} if self.pretty else {"pid": os.getpid()})}
        return structlog.wrap_logger(
            structlog.WriteLogger(self._stream),
            processors=[structlog.processors.add_log_level, stamp, self._concealed, renderer],
            wrapper_class=structlog.make_filtering_bound_logger(self._least),
            context_class=dict,
            cache_logger_on_first_use=True,
            **bound,
        )

    def _concealed(self, _: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Secrets out, and what would move a terminal's cursor escaped: text may come from shards."""
        for name, value in event.items():
            if isinstance(value, str):
                text = self.conceal(value)
                event[name] = _CONTROLS.sub(lambda c: f"\\u{ord(c[0]):04x}", text) if self.pretty else text
        return event
