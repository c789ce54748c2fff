"""What clients may ask a running node: one JSON object a line, answered by one JSON object a line (or many, to follow).

An answer is ``{"ok": true, "result": ...}`` or ``{"ok": false, "error": {...}}``. A follower is sent
``{"ok": true, "line": {...}}`` for each line, ``{"ok": true, "lost": n}`` where it was too slow, and
``{"ok": true, "end": true}`` last.
"""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from shardwright.errors import CallError, ComponentImportError, ManifestError, NodeError, ShardwrightError, StartFailed
from shardwright.transport import text_that_came

MAX_LINE = 1 << 20
MAX_ANSWER = 16 << 20
DEFAULT_TIMEOUT_S = 60.0


class Unusable(NodeError):
    """What a client asks names something that is not there, or an amount that is none; nothing was done."""


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="verb"):
    pass


class AskInfo(_Request, frozen=True, tag="info"):
    """What runs here."""


class AskPs(_Request, frozen=True, tag="ps"):
    """All shards, with their usage; or what the warm pool costs and saves."""

    pool: bool = False


class AskSessions(_Request, frozen=True, tag="sessions"):
    """All sessions, with their shards."""


class AskCall(_Request, frozen=True, tag="call"):
    """Call ``component.function``, in the session of that name if there is one, else in a session of its own."""

    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    session: str | None = None
    timeout_s: float = DEFAULT_TIMEOUT_S


class AskLogs(_Request, frozen=True, tag="logs"):
    """Kept lines after ``since``; with ``follow`` also those to come. ``shard``: a shard's id or a component."""

    since: int = 0
    follow: bool = False
    shard: str = ""
    session: str = ""
    trace: str = ""
    tail: int | None = None


class AskEvents(_Request, frozen=True, tag="events"):
    """The same for events."""

    since: int = 0
    follow: bool = False
    tail: int | None = None


class AskDecisions(_Request, frozen=True, tag="decisions"):
    """The latest rows of the journal, oldest first; or the one of that number."""

    count: int = 100
    kind: str | None = None
    number: int | None = None


class AskResize(_Request, frozen=True, tag="resize"):
    """Change the limits of a shard, or of all shards of a component."""

    target: str
    guarantee: dict[str, Any] = {}
    ceiling: dict[str, Any] = {}


class AskMetrics(_Request, frozen=True, tag="metrics"):
    """All numbers, as a scraper reads them; ``accept`` as in HTTP."""

    accept: str = ""


class AskHealth(_Request, frozen=True, tag="health"):
    """Whether the node lives, and whether it serves all that it should."""


class AskStack(_Request, frozen=True, tag="stack"):
    """What every thread of a shard does, of a component's shards, or of all (empty), without stopping any."""

    shard: str = ""


class AskAttach(_Request, frozen=True, tag="attach"):
    """Debug a shard: after the answer the connection carries the bytes of a terminal, both ways."""

    shard: str
    at: str = ""
    now: bool = False
    debugpy: bool = False
    rows: int = 24
    columns: int = 80


class AskReload(_Request, frozen=True, tag="reload"):
    """Take up what changed in the application's code and manifest."""


class AskStop(_Request, frozen=True, tag="stop"):
    """Stop the node."""


Request = (
    AskInfo
    | AskPs
    | AskSessions
    | AskCall
    | AskLogs
    | AskEvents
    | AskDecisions
    | AskResize
    | AskMetrics
    | AskHealth
    | AskStack
    | AskAttach
    | AskReload
    | AskStop
)
_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


def decode_request(line: bytes) -> Request:
    """Raises ValueError that says what is wrong with it."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ValueError(f"this is no request: {error}") from None


def answer_line(result: Any) -> bytes:
    return msgspec.json.encode({"ok": True, "result": result}) + b"\n"


def error_line(error: BaseException, *, bad_input: bool = False) -> bytes:
    """``bad_input``: the request itself cannot be used, and says so; nothing was tried."""
    described = describe(error)
    if bad_input or isinstance(error, Unusable):
        described["bad_input"] = True
    return msgspec.json.encode({"ok": False, "error": described}) + b"\n"


def describe(error: BaseException) -> dict[str, Any]:
    """An error as an object: whose fault, what, what now, and the traceback of user code."""
    described: dict[str, Any] = {"type": type(error).__qualname__, "message": text_of(error)}
    if isinstance(error, ShardwrightError):
        described |= {"code": error.code, "fault": error.fault, "message": error.message, "remedy": error.remedy}
    if isinstance(error, CallError):
        described["outcome"] = error.outcome
    elif not isinstance(error, ShardwrightError):
        described["outcome"] = "failed"  # the function ran, and raised
        described["traceback"] = user_traceback(error)
    if isinstance(error, ManifestError):
        described["problems"] = list(error.problems)
    if isinstance(error, ComponentImportError):
        described["traceback"] = error.user_traceback
    if isinstance(error, StartFailed):
        described["log"] = list(error.log)
    return described


def text_of(error: BaseException) -> str:
    """What it says. Its class may be of the application, whose code does not run here."""
    came = text_that_came(error)
    if came is not None:
        return came
    try:
        return str(error)
    except Exception:
        return f"<{type(error).__qualname__} whose str failed>"


def user_traceback(error: BaseException) -> str:
    """The traceback from the user's first frame on, without ours before it."""
    frame = error.__traceback__
    while frame is not None and "/shardwright/" in (name := frame.tb_frame.f_code.co_filename):
        if not any(f"/shardwright/{room}/" in name for room in ("node", "guest", "transport")):
            break
        frame = frame.tb_next
    return "".join(traceback.format_exception(type(error), error, frame))
