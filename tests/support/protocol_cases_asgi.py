"""HTTP cases of the ASGI probe. A name of ``CASES`` is one line of the table."""

from __future__ import annotations

import json
from functools import partial

from protocol_cases_expect import EXPECTING, expect_cases
from protocol_wire import Case, Gone, Request, Talk, chunk

__all__ = ["CASES", "PLAIN"]

MEGABYTES = b"u" * 3_000_000

# Requests that are answered as a whole: asked over HTTP/1.1 of both servers, and over HTTP/2 of the gateway.
PLAIN: dict[str, Request] = {
    "scope": Request("GET", "/scope"),
    "scope-of-an-odd-path": Request("GET", "/scope/a%20b/%C3%A9/%2F/;p=1?q=%20+&empty=&%C3%A9"),
    "scope-of-many-headers": Request(
        "GET",
        "/scope",
        (("X-Twice", "1"), ("x-twice", "2"), ("X-Latin", "caf\xe9"), ("X-Empty", ""), ("Accept", "a, b")),
    ),
    "scope-of-a-post": Request("POST", "/scope", (("Content-Type", "text/plain; charset=x"),), b"body"),
    "lifespan-state": Request("GET", "/state"),
    "body-with-length": Request("POST", "/echo", (), b"a body"),
    "body-empty": Request("POST", "/echo", (), b""),
    "body-of-a-get": Request("GET", "/echo", (), b"of a get"),
    "body-absent": Request("GET", "/echo"),
    "body-of-every-byte": Request("PUT", "/echo", (), bytes(range(256))),
    "body-large": Request("POST", "/length", (), MEGABYTES),
    "body-untaken": Request("POST", "/untaken", (), b"nobody looks"),
    "method-options": Request("OPTIONS", "/echo", (), b"options"),
    "method-delete": Request("DELETE", "/echo"),
    "method-patch": Request("PATCH", "/echo", (), b"patch"),
    "method-propfind": Request("PROPFIND", "/scope"),
    "head-with-length": Request("HEAD", "/cookies"),
    "head-without-length": Request("HEAD", "/pieces"),
    "head-of-an-error": Request("HEAD", "/boom"),
    "status-204": Request("GET", "/nothing"),
    "status-304": Request("GET", "/unmodified"),
    "status-404": Request("GET", "/no-such-thing"),
    "stream-of-pieces": Request("GET", "/pieces"),
    "stream-of-exact-length": Request("GET", "/exact"),
    "stream-large": Request("GET", "/large"),
    "headers-repeated": Request("GET", "/cookies"),
    "headers-odd": Request("GET", "/odd-headers"),
    "headers-transfer-encoding": Request("GET", "/chunked"),
    "headers-injected": Request("GET", "/injected"),
    "error-before-the-start": Request("GET", "/boom"),
    "error-after-the-body": Request("POST", "/boom-read", (), b"taken"),
    "error-after-the-start": Request("GET", "/boom-started"),
    "error-after-the-first-byte": Request("GET", "/boom-later"),
    "error-within-a-length": Request("GET", "/boom-length"),
    "error-after-the-response": Request("GET", "/boom-after"),
    "error-cancelled": Request("GET", "/exits"),
    "returns-without-a-word": Request("GET", "/silent"),
    "returns-in-the-middle": Request("GET", "/unended"),
    "returns-something": Request("GET", "/returns"),
    "sends-what-it-must-not": Request("GET", "/grumble"),
    "sends-too-much": Request("GET", "/too-long"),
    "sends-too-little": Request("GET", "/too-short"),
}
CASES: dict[str, Case] = {}


def _plain(request: Request, talk: Talk) -> None:
    talk.ask(request)
    talk.note_log()


CASES.update({name: partial(_plain, request) for name, request in PLAIN.items()})


def case(script: Case) -> Case:
    CASES[script.__name__.replace("_", "-")] = script
    return script


def raw(name: str, data: bytes, *methods: str) -> None:
    CASES[name] = lambda talk: talk.raw(data, *methods)


# -- connections -------------------------------------------------------------------------------------------------

_GET = b"GET /own HTTP/1.1\r\nHost: x\r\n\r\n"
raw("http10", b"GET /cookies HTTP/1.0\r\n\r\n")
raw("http10-kept-alive", b"GET /cookies HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
raw("http10-stream", b"GET /pieces HTTP/1.0\r\n\r\n")
raw("http10-post", b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
raw("connection-close", b"GET /own HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
raw("connection-close-in-a-list", b"GET /own HTTP/1.1\r\nHost: x\r\nConnection: te, close\r\nTE: trailers\r\n\r\n")
raw("closed-by-the-application", b"GET /closing HTTP/1.1\r\nHost: x\r\n\r\n")
raw("pipelined", b"".join(b"GET /slow?%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(4)), *["GET"] * 4)
raw("pipelined-behind-a-body", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + _GET, "POST", "GET")
raw("pipelined-behind-an-untaken-body", b"POST /untaken HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + _GET,
    "POST", "GET")  # fmt: skip
raw("pipelined-behind-an-error", b"GET /boom HTTP/1.1\r\nHost: x\r\n\r\n" + _GET, "GET", "GET")
raw("empty-lines-first", b"\r\n\r\n" + _GET)
raw("absolute-target", b"GET http://elsewhere.test/scope/x?q=1 HTTP/1.1\r\nHost: x\r\n\r\n")
raw("upgrade-to-something", b"GET /own HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: smoke/1\r\n\r\n")
raw("upgrade-to-h2c", b"GET /own HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")  # fmt: skip
raw(
    "expect-something-else",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: miracles\r\nContent-Length: 2\r\n\r\nhi",
    "POST",
)


@case
def kept_alive(talk: Talk) -> None:
    talk.ask(PLAIN["headers-repeated"], PLAIN["body-with-length"], PLAIN["status-204"], PLAIN["stream-of-pieces"])


@case
def byte_by_byte(talk: Talk) -> None:
    with talk.wire() as wire:
        wire.trickle(Request("POST", "/echo", (("X-A", "b"),), chunks=(b"ab", b"cde")).encode(talk.case))
        talk.answer(wire)
        talk.note("open", wire.stays_open())
    talk.note_log()


# -- chunks ------------------------------------------------------------------------------------------------------


def _chunks(name: str, *chunks: bytes) -> None:
    CASES[name] = partial(_plain, Request("POST", "/echo", chunks=chunks))


_chunks("chunks-none")
_chunks("chunks-one", b"one")
_chunks("chunks-many", *(b"%d;" % n for n in range(200)))
_chunks("chunks-large", b"a" * 100_000, b"b" * 300_000)
_CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
raw("pipelined-behind-chunks", _CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + _GET, "POST", "GET")
raw("chunks-with-extensions", _CHUNKED + b'3;name=value;quoted="a b"\r\nabc\r\n0;last\r\n\r\n', "POST")
raw("chunks-with-trailers", _CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n", "POST")
raw("chunks-in-capitals", _CHUNKED + b"0000A\r\n0123456789\r\n0\r\n\r\n", "POST")
raw("chunks-of-no-number", _CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n", "POST")
raw("chunks-too-short", _CHUNKED + b"2\r\nabc\r\n0\r\n\r\n", "POST")


@case
def both_ways(talk: Talk) -> None:
    """The answer to a piece of the body comes before the next piece is sent."""
    with talk.wire() as wire:
        wire.send(Request("POST", "/talk", chunks=()).head(talk.case))
        parts = []
        response = None
        for text in (b"one", b"two", b"three"):
            wire.send(chunk(text))
            response = response or wire.head("POST")
            parts.append(wire.chunk().decode())
        wire.send(chunk(b""))
        parts.append(wire.chunk().decode())
        talk.note("parts", parts)
    talk.note_log()


@case
def step_by_step(talk: Talk) -> None:
    """A piece of the response comes before the next one is sent."""
    with talk.wire() as wire:
        wire.send(Request("GET", f"/stepwise?{talk.case}").encode(talk.case))
        talk.note("framing", wire.head().framing)
        parts = [wire.chunk().decode()]
        talk.get(f"/go?{talk.case}")
        parts += [wire.chunk().decode(), wire.chunk().decode()]
        talk.note("parts", parts)
    talk.note_log()


# -- Expect: 100-continue ----------------------------------------------------------------------------------------

expect_cases(case)


@case
def expect_of_an_error(talk: Talk) -> None:
    with talk.wire() as wire:
        wire.send(Request("POST", "/boom", EXPECTING, b"never sent").head(talk.case))
        talk.answer(wire, "POST")


@case
def expect_of_http10(talk: Talk) -> None:
    talk.raw(b"POST /echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", "POST")


# -- ends --------------------------------------------------------------------------------------------------------


@case
def heard_after_the_end(talk: Talk) -> None:
    talk.ask(Request("POST", "/after-end", (), b"x"))
    talk.note_log()


def _leaves(talk: Talk, request: Request, *, reset: bool, answered: bool) -> None:
    with talk.wire() as wire:
        wire.send(request.encode(talk.case))
        if answered:
            wire.head()
            wire.chunk()
        else:
            talk.until(bool)
        if reset:
            wire.reset()
    talk.note_log()


CASES["client-leaves-unanswered"] = partial(_leaves, request=Request("GET", "/wait-end"), reset=False, answered=False)
CASES["client-resets-unanswered"] = partial(
    _leaves, request=Request("POST", "/wait-end", (), b"a"), reset=True, answered=False
)
CASES["client-leaves-a-stream"] = partial(_leaves, request=Request("GET", "/stream-end"), reset=False, answered=True)
CASES["client-resets-a-stream"] = partial(_leaves, request=Request("GET", "/stream-end"), reset=True, answered=True)


@case
def client_leaves_an_upload(talk: Talk) -> None:
    with talk.wire() as wire:
        head = Request("POST", "/upload-end", (("Content-Length", "1000"),)).head(talk.case)
        wire.send(head + b"x" * 100)
        talk.until(bool)
    talk.note_log()


@case
def client_leaves_chunks(talk: Talk) -> None:
    with talk.wire() as wire:
        wire.send(Request("POST", "/upload-end", chunks=()).head(talk.case) + chunk(b"x" * 100) + b"20\r\n")
        talk.until(bool)
    talk.note_log()


@case
def client_shuts_its_side(talk: Talk) -> None:
    """A client that sends its FIN behind its request."""
    with talk.wire() as wire:
        wire.send(Request("GET", "/slow?2").encode(talk.case))
        wire.socket.shutdown(1)
        talk.answer(wire)


@case
def work_behind_the_response(talk: Talk) -> None:
    """The client has its answer, and gets the next one, while the application still works for the first."""
    with talk.wire() as wire:
        wire.send(Request("POST", f"/behind?{talk.case}", (), b"x").encode(talk.case))
        talk.answer(wire)
        talk.note("open", wire.stays_open())
        talk.note("before", talk.log())
    talk.get(f"/go?{talk.case}")
    talk.note_log()


# -- what is no request ------------------------------------------------------------------------------------------

for name, data in {
    "no-request": b"nonsense\r\n\r\n",
    "no-version": b"GET /own\r\n\r\n",
    "no-host": b"GET /own HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET /own HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    "future-version": b"GET /own HTTP/3.0\r\nHost: x\r\n\r\n",
    "no-such-method": b"FETCH /own HTTP/1.1\r\nHost: x\r\n\r\n",
    "small-method": b"get /own HTTP/1.1\r\nHost: x\r\n\r\n",
    "space-before-colon": b"GET /own HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
    "folded-header": b"GET /own HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "no-colon": b"GET /own HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "zero-byte": b"GET /own HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
    "length-and-chunks": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length-of-no-number": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\nab",
    "length-negative": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    "unknown-transfer-encoding": b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    "target-of-options": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
}.items():
    raw(f"bad-{name}", data)


@case
def huge_header(talk: Talk) -> None:
    """Beyond what the manifest permits."""
    talk.raw(b"GET /own HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 70_000 + b"\r\n\r\n")


@case
def lifespan_state_is_shared(talk: Talk) -> None:
    """What lies in the state is one for all requests, the state itself a copy for each."""
    first, second = (json.loads(talk.get("/state").body) for _ in range(2))
    talk.note("own", [first["own"], second["own"]])
    talk.note("startups", second["startups"])
    talk.note("shared", second["shared"])


@case
def request_is_never_whole(talk: Talk) -> None:
    """Half a head, and the client leaves: the application hears nothing of it."""
    with talk.wire() as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Case: " + talk.case.encode() + b"\r\n")
        wire.socket.shutdown(1)
        try:
            talk.note_response(wire.response())
        except Gone:
            talk.note("answer", "none")
    talk.note("application", talk.log())
