"""Cases of the WSGI probe. A name of ``CASES`` is one line of the table."""

from __future__ import annotations

from functools import partial

from protocol_cases_expect import expect_cases
from protocol_wire import PATIENCE_S, Case, Request, Talk, chunk

__all__ = ["CASES", "PLAIN"]

# Requests that are answered as a whole: asked over HTTP/1.1 of both servers, and over HTTP/2 of the gateway.
PLAIN: dict[str, Request] = {
    "environ": Request("GET", "/scope"),
    "environ-of-an-odd-path": Request("GET", "/scope/a%20b/%C3%A9/%2F/;p=1?q=%20+&empty=&%C3%A9"),
    "environ-of-many-headers": Request(
        "GET",
        "/scope",
        (
            ("X-Twice", "1"),
            ("x-twice", "2"),
            ("X-Latin", "caf\xe9"),
            ("X-Empty", ""),
            ("Accept", "a, b"),
            ("Proxy", "x"),
        ),
    ),
    "environ-of-an-underscore": Request("GET", "/scope", (("X_Under", "1"), ("X-Under", "2"), ("Content_Length", "9"))),
    "environ-of-cookies": Request("GET", "/scope", (("Cookie", "a=1; b=2"),)),
    "environ-of-a-post": Request("POST", "/scope", (("Content-Type", "text/plain; charset=x"),), b"body"),
    "body-with-length": Request("POST", "/echo", (), b"a body"),
    "body-empty": Request("POST", "/echo", (), b""),
    "body-absent": Request("GET", "/echo"),
    "body-of-a-get": Request("GET", "/echo", (), b"of a get"),
    "body-of-every-byte": Request("PUT", "/echo", (), bytes(range(256))),
    "body-large": Request("POST", "/length", (), b"u" * 3_000_000),
    "body-read-in-every-way": Request("POST", "/reads", (), b"abcdef\nghijkl\nmn\nop\nqrs\ntuv\nwx\nyz"),
    "body-in-lines-with-a-hint": Request("POST", "/hinted", (), b"one\ntwo\nthree\nfour"),
    "body-in-lines": Request("POST", "/lines", (), b"one\ntwo\n\nlast without an end"),
    "body-untaken": Request("POST", "/untaken", (), b"nobody looks"),
    "method-options": Request("OPTIONS", "/echo", (), b"options"),
    "method-delete": Request("DELETE", "/echo"),
    "method-propfind": Request("PROPFIND", "/scope"),
    "head-with-length": Request("HEAD", "/cookies"),
    "head-without-length": Request("HEAD", "/pieces"),
    "head-of-a-file": Request("HEAD", "/file"),
    "head-of-an-error": Request("HEAD", "/boom"),
    "status-204": Request("GET", "/nothing"),
    "status-304": Request("GET", "/unmodified"),
    "status-404": Request("GET", "/no-such-thing"),
    "status-of-its-own": Request("GET", "/odd-status"),
    "iterable": Request("GET", "/pieces"),
    "iterable-empty": Request("GET", "/empty"),
    "iterable-lazy": Request("GET", "/lazy"),
    "iterable-late": Request("GET", "/late"),
    "iterable-of-exact-length": Request("GET", "/exact"),
    "iterable-large": Request("GET", "/large"),
    "iterable-too-long": Request("GET", "/too-long"),
    "iterable-too-short": Request("GET", "/too-short"),
    "write-callable": Request("GET", "/writes"),
    "headers-repeated": Request("GET", "/cookies"),
    "headers-odd": Request("GET", "/odd-headers"),
    "headers-hop-by-hop": Request("GET", "/hop"),
    "headers-injected": Request("GET", "/injected"),
    "file-wrapper": Request("GET", "/file"),
    "file-wrapper-without-length": Request("GET", "/file-bare"),
    "file-wrapper-from-the-middle": Request("GET", "/file-part"),
    "file-wrapper-of-memory": Request("GET", "/file-memory"),
    "file-wrapper-of-a-pipe": Request("GET", "/file-pipe"),
    "error-before-the-status": Request("GET", "/boom"),
    "error-after-the-status": Request("GET", "/boom-status"),
    "error-at-the-first-part": Request("GET", "/boom-first"),
    "error-after-the-first-byte": Request("GET", "/boom-later"),
    "error-within-a-length": Request("GET", "/boom-length"),
    "error-at-the-close": Request("GET", "/boom-close"),
    "error-replaced": Request("GET", "/replaced"),
    "error-replaced-too-late": Request("GET", "/replaced-late"),
    "misuse-of-start-response": Request("GET", "/grumble"),
    "misuse-without-a-status": Request("GET", "/unstarted"),
    "misuse-text": Request("GET", "/text"),
    "misuse-none": Request("GET", "/none"),
    "errors-stream": Request("GET", "/errors"),
}
CASES: dict[str, Case] = {}


def _plain(request: Request, talk: Talk) -> None:
    talk.ask(request)
    talk.note_log()


CASES.update({f"wsgi-{name}": partial(_plain, request) for name, request in PLAIN.items()})


def _short(talk: Talk) -> None:
    """Fewer bytes than were promised: is the client told that nothing more comes?"""
    with talk.wire() as wire:
        wire.send(PLAIN["iterable-too-short"].encode(talk.case))
        found = wire.head()
        talk.note_log()  # the server has sent all that it will
        wire.socket.settimeout(0.5)
        wire.body(found)
        talk.note_response(found)
        wire.socket.settimeout(PATIENCE_S)
        talk.note("open", wire.stays_open())


CASES["wsgi-iterable-too-short"] = _short


def case(script: Case) -> Case:
    CASES["wsgi-" + script.__name__.replace("_", "-")] = script
    return script


def raw(name: str, data: bytes, *methods: str) -> None:
    CASES[f"wsgi-{name}"] = lambda talk: talk.raw(data, *methods)


_GET = b"GET /cookies HTTP/1.1\r\nHost: x\r\n\r\n"
raw("http10", b"GET /cookies HTTP/1.0\r\n\r\n")
raw("http10-kept-alive", b"GET /cookies HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
raw("http10-iterable", b"GET /pieces HTTP/1.0\r\n\r\n")
raw("http10-environ", b"GET /scope HTTP/1.0\r\n\r\n")
raw("http10-post", b"POST /echo HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", "POST")
raw("connection-close", b"GET /cookies HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
raw("pipelined", _GET * 3, *["GET"] * 3)
raw("pipelined-behind-a-body", b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + _GET, "POST", "GET")
raw("pipelined-behind-an-untaken-body", b"POST /untaken HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc" + _GET,
    "POST", "GET")  # fmt: skip


@case
def kept_alive(talk: Talk) -> None:
    talk.ask(
        PLAIN["headers-repeated"],
        PLAIN["body-with-length"],
        PLAIN["status-204"],
        PLAIN["iterable"],
        PLAIN["file-wrapper"],
    )


@case
def byte_by_byte(talk: Talk) -> None:
    with talk.wire() as wire:
        wire.trickle(Request("POST", "/echo", (("X-A", "b"),), chunks=(b"ab", b"cde")).encode(talk.case))
        talk.answer(wire)
        talk.note("open", wire.stays_open())
    talk.note_log()


@case
def beside_another(talk: Talk) -> None:
    """Two requests at once, of which one waits for the other."""
    with talk.wire() as wire:
        wire.send(Request("GET", "/meet").encode(talk.case))
        talk.until(bool)
        talk.get("/met")
        talk.answer(wire)


# -- chunks ------------------------------------------------------------------------------------------------------


def _chunks(name: str, *chunks: bytes, target: str = "/echo") -> None:
    CASES[f"wsgi-{name}"] = partial(_plain, Request("POST", target, chunks=chunks))


_chunks("chunks-none")
_chunks("chunks-many", *(b"%d;" % n for n in range(200)))
_chunks("chunks-large", b"a" * 100_000, b"b" * 300_000)
_chunks("chunks-in-lines", b"one\ntw", b"o\n", b"three", target="/lines")
_chunks("chunks-environ", b"x", target="/scope")
_CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
raw("chunks-with-extensions", _CHUNKED + b"3;name=value\r\nabc\r\n0;last\r\n\r\n", "POST")
raw("chunks-with-trailers", _CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", "POST")


@case
def step_by_step(talk: Talk) -> None:
    """A part of the response comes before the rest of the request is sent: both directions are open at once."""
    with talk.wire() as wire:
        wire.send(Request("POST", "/stepwise", (), b"y").head(talk.case))
        talk.note("framing", wire.head().framing)
        parts = [wire.chunk().decode()]
        wire.send(b"y")
        parts += [wire.chunk().decode(), wire.chunk().decode()]
        talk.note("parts", parts)
    talk.note_log()


# -- Expect: 100-continue ----------------------------------------------------------------------------------------

expect_cases(case)


# -- a client that leaves ----------------------------------------------------------------------------------------


@case
def client_leaves_an_upload(talk: Talk) -> None:
    with talk.wire() as wire:
        wire.send(Request("POST", "/upload-end", (("Content-Length", "1000"),)).head(talk.case) + b"x" * 100)
        talk.until(bool)
    talk.note_log()


@case
def client_leaves_chunks(talk: Talk) -> None:
    with talk.wire() as wire:
        wire.send(Request("POST", "/upload-end", chunks=()).head(talk.case) + chunk(b"x" * 100) + b"20\r\nxx")
        talk.until(bool)
    talk.note_log()


def _leaves_a_response(talk: Talk, *, reset: bool) -> None:
    """The iterable is closed all the same."""
    with talk.wire() as wire:
        wire.send(Request("GET", "/endless").encode(talk.case))
        wire.head()
        wire.chunk()
        if reset:
            wire.reset()
    talk.note_log()


CASES["wsgi-client-leaves-a-response"] = partial(_leaves_a_response, reset=False)
CASES["wsgi-client-resets-a-response"] = partial(_leaves_a_response, reset=True)

# -- what is no request ------------------------------------------------------------------------------------------

for name, data in {
    "no-request": b"nonsense\r\n\r\n",
    "no-host": b"GET /cookies HTTP/1.1\r\n\r\n",
    "future-version": b"GET /cookies HTTP/3.0\r\nHost: x\r\n\r\n",
    "space-before-colon": b"GET /cookies HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n",
    "no-colon": b"GET /cookies HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n",
    "length-and-chunks": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length-of-no-number": b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\nab",
}.items():
    raw(f"bad-{name}", data)
