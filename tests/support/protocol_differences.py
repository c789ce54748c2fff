"""Every place where the gateway answers otherwise than uvicorn or gunicorn, and why. What is not listed is equal.

Not compared at all, in any case: the headers ``date`` and ``server``; those of the connection (``connection``,
``keep-alive``, ``transfer-encoding``), in whose place the framing of the body and whether the connection stays open are
observed; ``shardwright-trace``, which the gateway adds to every response; whether an ended connection ended with FIN or
RST; and the words of an OSError that an application gets when its client is gone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from http import HTTPStatus
from typing import Any

__all__ = ["DIFFERENCES", "Difference", "compare"]

ABSENT = "(not observed)"
Fields = dict[str, tuple[Any, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """``fields``: what of the observation differs, as (under the reference, through the gateway)."""

    reason: str
    fields: Fields


DIFFERENCES: dict[str, Difference] = {}


def compare(case: str, reference: dict[str, Any], gateway: dict[str, Any]) -> None:
    """Raises AssertionError, unless both are equal but for what is listed, and that differs as it is listed."""
    found = {
        name: (reference.get(name, ABSENT), gateway.get(name, ABSENT))
        for name in sorted({*reference, *gateway})
        if reference.get(name, ABSENT) != gateway.get(name, ABSENT)
    }
    listed = DIFFERENCES[case].fields if case in DIFFERENCES else {}
    assert found == listed, f"{case}: (reference, gateway) differ by {found}, and {listed} is expected"


def differs(reason: str, fields: Fields, *cases: str) -> None:
    for each in cases:
        DIFFERENCES[each] = Difference(reason, fields)


# -- how failures are told ---------------------------------------------------------------------------------------

Told = tuple[list[str], str]
"""Headers and body."""


def problem(status: int, title: str, detail: str = "", *, stored: bool = True) -> Told:
    """As the gateway tells it: RFC 9457, with the trace id, which is taken out of what is compared."""
    shown: dict[str, Any] = {"type": "about:blank", "title": title, "status": status}
    if detail:
        shown["detail"] = detail
    length = len(json.dumps({**shown, "trace": "0" * 32}, separators=(",", ":")))
    headers = ["content-type: application/problem+json", f"content-length: {length}"]
    return [*headers, *([] if stored else ["cache-control: no-store"])], json.dumps(shown)


def plain(body: str) -> Told:
    """As uvicorn tells it."""
    return ["content-type: text/plain; charset=utf-8", f"content-length: {len(body)}"], body


def page(status: int, detail: str = "") -> Told:
    """As gunicorn tells it."""
    title = HTTPStatus(status).phrase
    body = (
        f"<html>\n  <head>\n    <title>{title}</title>\n  </head>\n  <body>\n    <h1><p>{title}</p></h1>\n"
        f"    {escape(detail)}\n  </body>\n</html>\n"
    )
    return ["content-type: text/html", f"content-length: {len(body)}"], body


def told(reference: Told, gateway: Told, **more: tuple[Any, Any]) -> Fields:
    return {"headers": (reference[0], gateway[0]), "body": (reference[1], gateway[1]), **more}


FAILED = problem(500, "Internal Server Error", "The application failed.", stored=False)
REFUSED = problem(400, "Bad Request")
CLOSES = {"open": (False, True)}
SERVER_CLOSES = {"open": (True, False)}

_FAILURES = "a failure is told as problem details with the trace id; and the connection, which is in step, stays open"
_uvicorn_failed = told(plain("Internal Server Error"), FAILED, **CLOSES)
differs(
    _FAILURES,
    _uvicorn_failed,
    "error-before-the-start",
    "error-after-the-body",
    "error-cancelled",
    "returns-without-a-word",
)
differs(
    "as above; the body that was not sent is still to come, so the connection is not to be used",
    told(plain("Internal Server Error"), FAILED),
    "expect-of-an-error",
)
differs(
    "as above; so the request behind it is answered as well",
    {
        **_uvicorn_failed,
        "status 2": ("no answer", 200),
        "headers 2": (ABSENT, ["content-length: 4", "x-server: mine", "cache-control: no-store"]),
        "framing 2": (ABSENT, "length"),
        "body 2": (ABSENT, "mine"),
        "whole 2": (ABSENT, True),
    },
    "pipelined-behind-an-error",
)
differs(_FAILURES, {"headers": (plain("Internal Server Error")[0], FAILED[0]), **CLOSES}, "head-of-an-error")
differs(
    _FAILURES,
    {
        "headers": (["content-length: 21", "content-type: text/plain; charset=utf-8"], FAILED[0][:2]),
        "body": ("Internal Server Error", FAILED[1]),
    },
    "ws-error-before-accept",
    "ws-silent",
)
differs(
    _FAILURES,
    told(page(500), FAILED, **CLOSES),
    "wsgi-error-before-the-status",
    "wsgi-error-after-the-status",
    "wsgi-error-at-the-first-part",
    "wsgi-misuse-without-a-status",
    "wsgi-misuse-none",
)
differs(_FAILURES, {"headers": (page(500)[0], FAILED[0]), **CLOSES}, "wsgi-head-of-an-error")
differs(
    "the response is whole before its iterable is closed, and the connection in step", CLOSES, "wsgi-error-at-the-close"
)
differs(
    "nothing was sent yet when the mistake was found: gunicorn sends the head first, and breaks off",
    {
        "status": (200, 500),
        "headers": ([], FAILED[0]),
        "framing": ("chunked", "length"),
        "body": ("", FAILED[1]),
        "whole": (False, True),
        **CLOSES,
    },
    "wsgi-misuse-text",
)

# -- headers and lengths of an application that are wrong --------------------------------------------------------

differs(
    "refused where it is made, before anything is sent: uvicorn has begun the response by then, and can only break off",
    {
        "status": ("no answer", 500),
        "headers": (ABSENT, FAILED[0]),
        "framing": (ABSENT, "length"),
        "body": (ABSENT, FAILED[1]),
        "whole": (ABSENT, True),
        "application": (
            ["newline: RuntimeError: Invalid HTTP header value.", "raised ValueError: no header"],
            [
                "newline: ValueError: the header 'x-a' has a value with control characters",
                "raised ValueError: no header",
            ],
        ),
        **CLOSES,
    },
    "headers-injected",
)
differs(
    "the same, and the words of it",
    told(
        page(500),
        FAILED,
        application=(
            ["newline: InvalidResponseHeader", "raised ValueError: no header"],
            ["newline: ValueError", "raised ValueError: no header"],
        ),
        **CLOSES,
    ),
    "wsgi-headers-injected",
)
differs(
    "RFC 9110, 8.6: a 304 may say which length a 200 would have; uvicorn takes it for the length of this response",
    {"application": (["raised RuntimeError: Response content shorter than Content-Length"], ["returned"])},
    "status-304",
)
differs(
    "a client must hear that nothing more comes; gunicorn keeps the connection open, and it waits",
    SERVER_CLOSES,
    "wsgi-iterable-too-short",
)
differs(
    "PEP 3333: start_response with exc_info replaces the headers; gunicorn adds to them",
    {"headers": (["x-first: 1", "x-second: 1"], ["x-second: 1"])},
    "wsgi-error-replaced",
)

# -- the environ and the body of WSGI ----------------------------------------------------------------------------


def _environ(target: str) -> Fields:
    return {
        "told REQUEST_URI": (ABSENT, target),
        "told SERVER_SOFTWARE": ("gunicorn/VERSION", "shardwright"),
        "told gunicorn.socket": ("object", ABSENT),
        "told wsgi.early_hints": ("object", ABSENT),
    }


for _name, _target in {
    "environ": "/scope",
    "environ-of-an-odd-path": "/scope/a%20b/%C3%A9/%2F/;p=1?q=%20+&empty=&%C3%A9",
    "environ-of-many-headers": "/scope",
    "environ-of-an-underscore": "/scope",
    "environ-of-cookies": "/scope",
    "environ-of-a-post": "/scope",
    "method-propfind": "/scope",
    "chunks-environ": "/scope",
}.items():
    differs("a server's own variables; REQUEST_URI as uWSGI and mod_wsgi have it", _environ(_target), f"wsgi-{_name}")
differs(
    "PEP 3333 leaves the hint of readlines to the server; here it is taken",
    {"body": ("4", "2")},
    "wsgi-body-in-lines-with-a-hint",
)
differs(
    "half a body is no body: an upload that broke off is an error, and not the end of a shorter one",
    {"application": (["begun", "read 100"], ["begun", "OSError", "raised an OSError"])},
    "wsgi-client-leaves-an-upload",
)
differs(
    "RFC 9110, 10.1.1: the client is asked for its body when the application reads it; gunicorn asks always",
    {"interim": ([100], ABSENT)},
    "wsgi-expect-of-an-untaken-body",
)

differs(
    "calls of one shard run one at a time, and those of a WSGI application are calls: another comes in where one waits for"
    " its client or for another shard, and nowhere else; gunicorn runs a thread for each",
    {"body": ("met", "alone"), "headers": (["content-length: 3"], ["content-length: 5"])},
    "wsgi-beside-another",
)

# -- HTTP/1.0 ----------------------------------------------------------------------------------------------------

_version = {"version": ("HTTP/1.0", ABSENT)}
_VERSION = "RFC 9110, 2.5: a server tells the version that it speaks itself; gunicorn repeats the client's"
differs(_VERSION, _version, "wsgi-http10", "wsgi-http10-post", "wsgi-http10-iterable")
differs(_VERSION, {**_version, **_environ("/scope")}, "wsgi-http10-environ")
differs(
    f"{_VERSION}; and HTTP/1.0 has one request to a connection, as under uvicorn",
    {**_version, **SERVER_CLOSES},
    "wsgi-http10-kept-alive",
)
differs(
    "RFC 9112, 6.1: HTTP/1.0 knows no chunks, the end of the connection ends the body; uvicorn sends chunks all the same",
    {"framing": ("chunked", "end")},
    "http10-stream",
)

# -- WebSockets --------------------------------------------------------------------------------------------------

differs(
    "the gateway compresses no WebSockets: of 10,000 idle ones each would hold the tables",
    {
        "headers": (
            [
                "upgrade: websocket",
                "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
                "sec-websocket-extensions: permessage-deflate; server_max_window_bits=12",
            ],
            ["upgrade: websocket", "sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="],
        ),
        "answers": (["text bits 40: \xaa\0\0"], ["text: x"]),
    },
    "ws-extensions",
)


def _left(reason: dict[str, str]) -> list[Any]:
    return [
        "websocket.connect",
        {"type": "websocket.receive", "text": "hello"},
        {"type": "websocket.disconnect", "code": 1005, **reason},
        "send: ClientDisconnected, an OSError",
        "returned",
    ]


differs(
    "ASGI: a reason that is not there is the empty one; it is always said here",
    {"application": (_left({}), _left({"reason": ""}))},
    "ws-client-leaves",
    "ws-client-resets",
)

# -- what is no request ------------------------------------------------------------------------------------------

_REQUESTS = "what cannot be read is refused as problem details"
differs(
    _REQUESTS,
    told(plain("Invalid HTTP request received."), REFUSED),
    "chunks-of-no-number",
    "chunks-too-short",
    *(
        f"bad-{name}"
        for name in (
            "no-request", "future-version", "no-such-method", "small-method", "space-before-colon", "folded-header",
            "no-colon", "zero-byte", "length-and-chunks", "two-lengths", "length-of-no-number", "length-negative",
            "unknown-transfer-encoding",
        )
    ),
)  # fmt: skip
_mine = (["content-length: 4", "x-server: mine", "cache-control: no-store"], "mine")
differs(
    "RFC 9112, 3.2: HTTP/1.1 without one Host is refused; uvicorn lets it pass",
    told(_mine, REFUSED, status=(200, 400), **SERVER_CLOSES),
    "bad-no-host",
    "bad-two-hosts",
)
differs(
    "RFC 9112, 3.2.2: the authority of an absolute target says which host is meant; uvicorn tells what Host says",
    {"told headers": ([["host", "x"]], [["host", "elsewhere.test"]])},
    "absolute-target",
)
differs(
    "HTTP/0.9 is not spoken",
    told(_mine, problem(505, "HTTP Version Not Supported"), status=(200, 505)),
    "bad-no-version",
)
differs(
    "max_header of the manifest, 64 KiB",
    told(_mine, problem(431, "Request Header Fields Too Large"), status=(200, 431), **SERVER_CLOSES),
    "huge-header",
)
differs(
    "no route takes the asterisk: the application is not asked",
    told(
        plain("Internal Server Error"),
        problem(400, "Bad Request", "The path does not begin with a slash.", stored=False),
        status=(500, 400),
        **CLOSES,
    ),
    "bad-target-of-options",
)
for _name, _said in {
    "no-request": "Invalid Request Line 'Invalid HTTP request line: 'nonsense''",
    "future-version": "Invalid HTTP Version 'Invalid HTTP Version: (3, 0)'",
    "space-before-colon": "Invalid HTTP header name: 'A '",
    "no-colon": "Invalid HTTP Header: 'nonsense'",
    "length-and-chunks": "Invalid HTTP Header: 'CONTENT-LENGTH'",
    "two-lengths": "Invalid HTTP Header: 'CONTENT-LENGTH'",
    "length-of-no-number": "Invalid HTTP Header: 'CONTENT-LENGTH'",
}.items():
    differs(_REQUESTS, told(page(400, _said), REFUSED), f"wsgi-bad-{_name}")
differs(
    "RFC 9112, 3.2: HTTP/1.1 without one Host is refused; gunicorn lets it pass",
    told(
        (["content-length: 5", "set-cookie: a=1; Path=/", "set-cookie: b=2", "vary: cookie"], "baked"),
        REFUSED,
        status=(200, 400),
        **SERVER_CLOSES,
    ),
    "wsgi-bad-no-host",
)
