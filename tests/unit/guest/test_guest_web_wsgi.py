"""WSGI applications in a shard, as PEP 3333 has it and gunicorn does it; they run under the shard's baton."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from wsgiref.validate import validator

import pytest

from guest_web import Gateway, WebShard
from shardwright.guest import WINDOW, Failure, HttpRequest, Returned

LONG = 20.0

PROBE = '''
    import io
    import json
    import sys
    import threading
    import time

    seen = []
    noted = threading.Event()
    inside = 0
    most = 0

    def note(what):
        seen.append(what)
        noted.set()

    class Closing:
        """A response that notes its end."""
        def __init__(self, items): self.items = iter(items)
        def __iter__(self): return self
        def __next__(self): return next(self.items)
        def close(self): note("closed")

    def environ_(environ, start_response):
        start_response("200 OK", [("Content-Type", "application/json")])
        shown = {k: v if isinstance(v, (str, bool)) else list(v) if isinstance(v, tuple) else type(v).__name__
                 for k, v in environ.items()}
        return [json.dumps(shown).encode()]

    def hello(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"hello"]

    def typed(environ, start_response):
        source = environ["wsgi.input"]
        found = [source.read(2), source.readline(), *source.readlines(3), *source]
        environ["wsgi.errors"].write("fine")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return Closing(found)

    def length(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 Fine", [("Content-Length", str(len(str(len(body)))))])
        return [str(len(body)).encode()]

    def reads(environ, start_response):
        source = environ["wsgi.input"]
        found = [source.read(3), source.readline(), source.readline(2), list(source), source.read(), source.read(5)]
        start_response("200 OK", [])
        return [repr(found).encode()]

    def lines(environ, start_response):
        start_response("200 OK", [])
        for line in environ["wsgi.input"]:
            yield line.upper()

    def streams(environ, start_response):
        start_response("200 OK", [])
        for number in range(5):
            yield str(number).encode()

    def empty_parts(environ, start_response):
        start_response("200 OK", [])
        yield b""
        note("nothing yet")
        yield b"x"
        yield b""

    def nothing(environ, start_response):
        start_response("204 No Content", [])
        return []

    def late_start(environ, start_response):
        def body():
            start_response("201 Created", [("a", "b")])
            yield b"late"
        return body()

    def writes(environ, start_response):
        write = start_response("200 OK", [])
        write(b"written ")
        write(b"")
        return [b"returned"]

    def closes(environ, start_response):
        start_response("200 OK", [])
        return Closing([b"a", b"b"])

    def file_(environ, start_response):
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"f" * 200_000), 1000)

    def big(environ, start_response):
        start_response("200 OK", [])
        return [b"x" * 3_000_000]

    def endless(environ, start_response):
        start_response("200 OK", [])
        def forever():
            for number in range(100_000):
                note(number)
                yield b"y" * 10_000
        return Closing(forever())

    def replaces(environ, start_response):
        start_response("200 OK", [("a", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oh", [("a", "2")], sys.exc_info())
        return [b"replaced"]

    def replaces_late(environ, start_response):
        write = start_response("200 OK", [])
        write(b"begun")
        try:
            raise ValueError("the cause")
        except ValueError:
            start_response("500 Oh", [], sys.exc_info())
        return [b"never"]

    def too_much(environ, start_response):
        start_response("200 OK", [("Content-Length", "3")])
        return [b"ab", b"cd", b"ef"]

    def hops(environ, start_response):
        start_response("200 OK", [("Connection", "close"), ("Transfer-Encoding", "chunked"), ("X", " y ")])
        return [b"x"]

    def latin(environ, start_response):
        start_response("200 Très bien", [("x", "\\xe9")])
        return [b"x"]

    def logs(environ, start_response):
        print("to the log", file=environ["wsgi.errors"])
        environ["wsgi.errors"].flush()
        start_response("200 OK", [])
        return [b"x"]

    def alone(environ, start_response):
        global inside, most
        environ["wsgi.input"].read()
        inside += 1
        most = max(inside, most)
        time.sleep(0.005)
        inside -= 1
        start_response("200 OK", [])
        return [str(most).encode()]

    def gives_up(environ, start_response):
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            note(type(error).__mro__[1].__name__)
            raise

    # -- mistakes
    def silent(environ, start_response): return [b"x"]
    def silent_empty(environ, start_response): return []
    def none(environ, start_response): start_response("200 OK", [])
    def raises(environ, start_response): raise ValueError("before")
    def raises_late(environ, start_response):
        start_response("200 OK", [])
        def body():
            yield b"begun"
            raise ValueError("after")
        return Closing(body())
    def raises_early_in_body(environ, start_response):
        start_response("200 OK", [])
        def body():
            raise ValueError("in the body")
            yield b""
        return Closing(body())
    def twice(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])
    def text(environ, start_response):
        start_response("200 OK", [])
        return ["text"]
    def status_bytes(environ, start_response): start_response(b"200 OK", [])
    def status_odd(environ, start_response): start_response("OK", [])
    def status_break(environ, start_response): start_response("200 OK\\r\\nx: y", [])
    def header_bytes(environ, start_response): start_response("200 OK", [(b"a", b"b")])
    def header_break(environ, start_response): start_response("200 OK", [("a", "b\\nc")])
    def header_name(environ, start_response): start_response("200 OK", [("a b", "c")])
    def header_wide(environ, start_response): start_response("200 OK", [("a", "\\u20ac")])
    def bad_length(environ, start_response): start_response("200 OK", [("Content-Length", "-1")])
    def too_little(environ, start_response):
        start_response("200 OK", [("Content-Length", "5")])
        return [b"abc"]
    def close_raises(environ, start_response):
        start_response("200 OK", [])
        class Odd(list):
            def close(self): raise ValueError("in close")
        return Odd([b"x"])
    def quits(environ, start_response): raise SystemExit(1)

    checked = {}

    def app(environ, start_response):
        name = environ["PATH_INFO"].strip("/")
        called = {"environ": environ_, "file": file_}.get(name, globals().get(name))
        return checked.get(name, called)(environ, start_response)
'''


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[WebShard]:
    made = WebShard(tmp_path, PROBE, app="app")
    yield made
    made.close()


@pytest.fixture
def gateway(shard: WebShard) -> Gateway:
    return shard.gateway()


def get(gateway: Gateway, name: str, **scope: Any) -> Any:
    path = f"/{name}"
    return gateway.get(path=path, raw_path=path.encode(), **scope)


def opened(gateway: Gateway, name: str, **scope: Any) -> Any:
    path = f"/{name}"
    return gateway.open(path=path, raw_path=path.encode(), **scope)


def noted(shard: WebShard, count: int = 1) -> list[Any]:
    module = shard.module()
    while len(module.seen) < count:
        module.noted.clear()
        if len(module.seen) < count:
            assert module.noted.wait(LONG), module.seen
    found: list[Any] = module.seen
    return found


def test_environ(gateway: Gateway) -> None:
    found = json.loads(
        gateway.get(
            method="POST",
            path="/mounted/environ",
            raw_path=b"/mounted/%65nviron",
            root_path="/mounted",
            query_string=b"a=%20&b",
            scheme="https",
            http_version="1.0",
            client=("10.0.0.1", 5000),
            server=("example.org", 8443),
            headers=[
                (b"host", b"example.org"),
                (b"content-type", b"text/plain"),
                (b"content-length", b"0"),
                (b"x-many", b"1"),
                (b"x-many", b"2"),
                (b"cookie", b"a=1"),
                (b"cookie", b"b=2"),
                (b"x_many", b"forged"),
                (b"x-latin", b"\xe9"),
            ],
        ).body
    )
    assert found == {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/mounted",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "a=%20&b",
        "RAW_URI": "/mounted/%65nviron?a=%20&b",
        "REQUEST_URI": "/mounted/%65nviron?a=%20&b",
        "SERVER_PROTOCOL": "HTTP/1.0",
        "SERVER_SOFTWARE": "shardwright",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8443",
        "REMOTE_ADDR": "10.0.0.1",
        "REMOTE_PORT": "5000",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "0",
        "HTTP_HOST": "example.org",
        "HTTP_X_MANY": "1,2",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_LATIN": "é",
        "wsgi.version": [1, 0],
        "wsgi.url_scheme": "https",
        "wsgi.input": "BufferedReader",
        "wsgi.errors": "EncodedFile",
        "wsgi.multithread": True,
        "wsgi.multiprocess": found["wsgi.multiprocess"],
        "wsgi.run_once": False,
        "wsgi.file_wrapper": "type",
        "wsgi.input_terminated": True,
    }


def test_paths_are_latin_one(gateway: Gateway) -> None:
    found = json.loads(get(gateway, "environ", query_string=b"\xff").body)
    assert found["QUERY_STRING"] == "\xff"
    body = gateway.get(path="/\ufffd", raw_path=b"/environ/%ff%c3%a9").failure
    assert body is not None  # no such function: but it came to the application
    environ = json.loads(get(gateway, "environ", http_version="2").body)
    assert (environ["SERVER_PROTOCOL"], environ["SERVER_PORT"], environ["SCRIPT_NAME"]) == ("HTTP/2.0", "80", "")


BODIES = [
    ("hello", 200, b"hello"),
    ("length", 200, b"0"),
    ("streams", 200, b"01234"),
    ("empty_parts", 200, b"x"),
    ("nothing", 204, b""),
    ("late_start", 201, b"late"),
    ("writes", 200, b"written returned"),
    ("closes", 200, b"ab"),
    ("file", 200, b"f" * 200_000),
    ("replaces", 500, b"replaced"),
    ("too_much", 200, b"abc"),
    ("big", 200, b"x" * 3_000_000),
]


@pytest.mark.parametrize(("name", "status", "body"), BODIES)
def test_responses(gateway: Gateway, name: str, status: int, body: bytes) -> None:
    found = get(gateway, name)
    assert (found.status, found.body == body, found.complete, found.failure) == (status, True, True, None)
    head = get(gateway, name, method="HEAD")
    assert (head.status, head.body, head.complete, head.headers) == (status, b"", True, found.headers)


def test_headers(gateway: Gateway) -> None:
    assert get(gateway, "replaces").headers == [(b"a", b"2")]
    assert get(gateway, "hops").headers == [(b"X", b"y")]
    assert get(gateway, "latin").headers == [(b"x", b"\xe9")]


def test_a_response_of_known_length_is_one_message(gateway: Gateway) -> None:
    exchange = opened(gateway, "length", events=[HttpRequest(b"abc")])
    envelope = gateway.heard(exchange.call_id)
    assert envelope is not None and envelope.payload[0] == 0x92


def test_headers_wait_for_the_first_byte(shard: WebShard, gateway: Gateway) -> None:
    found = get(gateway, "empty_parts")
    assert found.chunks == [b"x", b""] and noted(shard) == ["nothing yet"]


def test_request_bodies(gateway: Gateway) -> None:
    size = 3 * WINDOW + 17
    exchange = opened(gateway, "length")
    exchange.send({"type": "http.request", "body": b"z" * size, "more_body": True})
    exchange.send({"type": "http.request", "body": b"", "more_body": True})
    exchange.send({"type": "http.request", "body": b"y"})
    assert exchange.response().body == str(size + 1).encode()
    exchange = opened(gateway, "reads", events=[HttpRequest(b"ab", True)])
    exchange.send({"type": "http.request", "body": b"cde\nfghi\nj\nk"})
    assert eval(exchange.response().body) == [b"abc", b"de\n", b"fg", [b"hi\n", b"j\n", b"k"], b"", b""]


def test_the_gateway_is_told_when_the_body_is_wanted(gateway: Gateway) -> None:
    exchange = opened(gateway, "length", extensions={"http.response.continue": {}})
    assert exchange.receive() == {"type": "http.response.continue"}
    exchange.send({"type": "http.request", "body": b"abc", "more_body": True})
    exchange.send({"type": "http.request", "body": b"d"})
    found = exchange.response()
    assert (found.body, found.others) == (b"4", [])


def test_both_ways_at_once(gateway: Gateway) -> None:
    exchange = opened(gateway, "lines")
    for number, line in enumerate((b"one\n", b"two\n", b"three\n")):
        exchange.send({"type": "http.request", "body": line, "more_body": True})
        if not number:
            assert exchange.receive()["status"] == 200
        assert exchange.receive()["body"] == line.upper()
    exchange.send({"type": "http.request"})
    assert exchange.receive() == {"type": "http.response.body", "body": b"", "more_body": False}
    assert isinstance(exchange.finish(), Returned)


def test_close_is_called_however_it_ends(shard: WebShard, gateway: Gateway) -> None:
    for name in ("closes", "raises_late", "raises_early_in_body"):
        before = len(shard.module().seen)
        get(gateway, name)
        assert noted(shard, before + 1)[-1] == "closed"


def test_a_response_that_is_not_taken_is_not_made(shard: WebShard, gateway: Gateway) -> None:
    exchange = opened(gateway, "endless", events=[HttpRequest()])
    exchange.grants = False
    with pytest.raises(TimeoutError):
        while exchange.receive(timeout_s=0.3):
            pass
    assert 20 < len(shard.module().seen) <= WINDOW // 10_000 + 2
    # it waits with the baton put down: others are served
    assert get(gateway, "hello").body == b"hello"
    exchange.cancel()
    assert isinstance(exchange.finish(), Returned)
    assert noted(shard)[-1] == "closed"


def test_slow_clients_hinder_nobody_and_code_runs_alone(gateway: Gateway) -> None:
    many = [opened(gateway, "alone") for _ in range(20)]
    for exchange in many:
        exchange.send({"type": "http.request", "body": b"x", "more_body": True})
    assert get(gateway, "hello").body == b"hello"
    for exchange in many:
        exchange.send({"type": "http.request"})
    assert {exchange.response().body for exchange in many} == {b"1"}


def test_a_client_that_goes_before_its_body(
    shard: WebShard, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    exchange = opened(gateway, "gives_up", events=[HttpRequest(b"x", True)])
    assert get(gateway, "hello").body == b"hello"
    exchange.cancel()
    assert noted(shard) == ["ConnectionResetError"]
    assert isinstance(exchange.finish(), Returned)
    assert not caplog.records  # that a client goes is nobody's mistake


MISTAKES = [
    ("silent", "start_response() was not called"),
    ("silent_empty", "never called start_response()"),
    ("none", "'NoneType' object is not iterable"),
    ("raises", "before"),
    ("raises_late", "after"),
    ("raises_early_in_body", "in the body"),
    ("replaces_late", "the cause"),
    ("twice", "Response headers already set!"),
    ("text", "'text' is not a bytes object"),
    ("status_bytes", "b'200 OK' is not a string"),
    ("status_odd", "Invalid status 'OK'"),
    ("status_break", "Invalid status"),
    ("header_bytes", "b'a' is not a string"),
    ("header_break", "control characters"),
    ("header_name", "is not a header name"),
    ("header_wide", "latin-1"),
    ("bad_length", "Invalid Content-Length"),
    ("too_little", "2 bytes shorter than its Content-Length"),
    ("close_raises", "in close"),
    ("quits", "1"),
]


@pytest.mark.parametrize(("name", "said"), MISTAKES)
def test_mistakes(gateway: Gateway, name: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "shardwright.web"):
        found = get(gateway, name)
    assert isinstance(found.failure, Failure) and said in found.failure.message
    assert "Exception in WSGI application" in caplog.text
    begun = name in ("raises_late", "replaces_late", "too_little", "close_raises")
    assert bool(found.status) is begun
    assert found.complete is (name == "close_raises")
    assert get(gateway, "hello").body == b"hello"


def test_errors_go_to_the_log(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    assert get(gateway, "logs").body == b"x"
    assert "to the log" in capfd.readouterr().err


def test_it_serves_no_websocket(gateway: Gateway) -> None:
    end = gateway.open(type="websocket", path="/hello").finish()
    assert isinstance(end, Failure) and "serves no WebSocket" in end.message


@pytest.mark.parametrize("name", ["hello", "typed"])
def test_the_reference_validator_is_content(shard: WebShard, gateway: Gateway, name: str) -> None:
    module = shard.module()
    module.checked[name] = validator(getattr(module, name))
    headers = [(b"content-length", b"9"), (b"content-type", b"text/plain")]
    exchange = opened(gateway, name, headers=headers, method="POST", server=("localhost", 80))
    exchange.send({"type": "http.request", "body": b"ab\ncd\nef\n"})
    found = exchange.response()
    assert (found.status, found.failure) == (200, None)
    assert found.body == {"hello": b"hello", "typed": b"ab\ncd\nef\n"}[name]


def test_many_threads_wait_and_a_further_request_is_refused(tmp_path: Path) -> None:
    shard = WebShard(tmp_path, PROBE, app="app")
    try:
        gateway = shard.gateway()
        limit = shard.runtime.mailbox._max_workers
        waiting = [opened(gateway, "length") for _ in range(limit)]
        done = threading.Event()

        def ask() -> None:
            found = get(shard.gateway(), "hello")
            assert found.failure is not None and found.failure.code == "SW412"
            done.set()

        while shard.runtime.mailbox._workers < limit or shard.runtime.mailbox._held:
            done.wait(0.01)
        ask()
        for exchange in waiting:
            exchange.send({"type": "http.request", "body": b"abc"})
        assert {exchange.response().body for exchange in waiting} == {b"3"}
    finally:
        shard.close()
