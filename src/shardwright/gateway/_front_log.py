"""What the front says in the log of the gateway: a line for each request where that is asked for, and its own defects."""

from __future__ import annotations

import logging
import time

import msgspec

from shardwright.gateway._problems import Problem, problem_of

__all__ = ["FrontLog"]

MOST_DEFECTS = 10  # that are told in a minute: whoever finds one must not fill the disk with it
_access = logging.getLogger("shardwright.access")
_log = logging.getLogger("shardwright.gateway")
_json = msgspec.json.Encoder()


class _Plain(logging.Handler):
    """Hands records to whatever takes those of unconfigured programs, at their own level."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.lastResort is not None:
            logging.lastResort.handle(record)


class FrontLog:
    """``access``: say a line for each request."""

    def __init__(self, *, access: bool = False) -> None:
        self.access = access
        self._minute = 0
        self._defects = 0
        if access:
            _access.setLevel(logging.INFO)
            _access.propagate = False
            if not _access.handlers:
                _access.addHandler(_Plain())

    def __repr__(self) -> str:
        return f"<FrontLog {'of every request' if self.access else 'of defects'}>"

    def request(self, method: str, pattern: str | None, status: int | None, begun_s: float, trace_id: bytes) -> None:
        """One request is over. ``status`` None: its client left before there was one. Of its path nothing is said but the
        route's pattern: paths hold names, and what else people put there."""
        trace = trace_id.hex()
        took_ms = round((time.monotonic() - begun_s) * 1e3, 3)
        line = {"method": method, "route": pattern, "status": status, "ms": took_ms, "trace": trace}
        _access.info("%s", _json.encode(line).decode(), extra={"trace": trace})

    def problem(self, error: Exception, pattern: str | None, trace_id: bytes) -> Problem:
        """What the client is told of an error; the log gets the rest."""
        problem = problem_of(error)
        if problem.status >= 500 and not isinstance(error, Problem):
            _log.warning(
                "%s %s: %s", problem.status, pattern, error, extra={"trace": trace_id.hex(), "route": pattern or ""}
            )
        return problem

    def defect(self, error: BaseException, pattern: str | None, trace_id: bytes = b"") -> None:
        """Something in the front itself failed."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._minute, self._defects = minute, 0
        self._defects += 1
        if self._defects <= MOST_DEFECTS:
            told = "" if self._defects < MOST_DEFECTS else "; no more of this minute are told"
            _log.error(
                "the front failed at %s, which is a defect of Shardwright%s", pattern or "no route", told,
                exc_info=error, extra={"trace": trace_id.hex()},
            )  # fmt: skip
