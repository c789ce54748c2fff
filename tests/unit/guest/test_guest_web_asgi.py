"""ASGI applications in a shard: what they are told, what they may send, and how they end; as under uvicorn."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest_web import Exchange, Gateway, WebShard
from shardwright.guest import WINDOW, Failure, HttpRequest, Returned, _asgi
from shardwright.guest._web_manner import Manner
from shardwright.model.envelope import Kind

LONG = 20.0

# One application, whose path says what it does.
PROBE = """
    import asyncio
    import contextvars
    import json
    import threading

    seen = []            # what it noted, for the test
    noted = threading.Event()
    tenant = contextvars.ContextVar("tenant", default="nobody")
    go_on = threading.Event()

    def note(what):
        seen.append(what)
        noted.set()

    async def start(send, status=200, headers=(), **more):
        await send({"type": "http.response.start", "status": status, "headers": headers, **more})

    async def body(send, body=b"", more_body=False):
        await send({"type": "http.response.body", "body": body, "more_body": more_body})

    async def whole(receive):
        found = b""
        while True:
            event = await receive()
            assert event["type"] == "http.request", event
            found += event["body"]
            if not event["more_body"]:
                return found

    async def scope_(scope, receive, send):
        shown = {k: v for k, v in scope.items() if k != "state"}
        await start(send)
        await body(send, repr(shown).encode())

    async def echo(scope, receive, send):
        await start(send)
        while True:
            event = await receive()
            await body(send, event["body"], event["more_body"])
            if not event["more_body"]:
                break

    async def late(scope, receive, send):
        found = await whole(receive)
        await start(send)
        await body(send, str(len(found)).encode())

    async def waits(scope, receive, send):
        await start(send)
        await body(send, b"first", True)
        event = await receive()
        assert event["type"] == "http.request"
        note((await receive())["type"])
        await body(send, b"nobody is there")
        note("sent")

    async def hangs(scope, receive, send):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            note("cancelled")
            raise

    async def background(scope, receive, send):
        await start(send)
        await body(send, b"done")
        note((await receive())["type"])
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        note("background ended")

    async def big(scope, receive, send):
        await start(send)
        await body(send, b"x" * 3_000_000)

    async def endless(scope, receive, send):
        await start(send)
        for number in range(10_000):
            await body(send, b"y" * 10_000, True)
            note(number)

    async def trailers(scope, receive, send):
        await start(send, trailers=True)
        await body(send, b"x")
        await send({"type": "http.response.trailers", "headers": [(b"sum", b"1")]})

    async def hint(scope, receive, send):
        await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
        await start(send)
        await body(send)

    async def context(scope, receive, send):
        before = tenant.get()
        tenant.set("one")
        await asyncio.sleep(0)
        inside = await asyncio.create_task(read_tenant())
        threaded = await asyncio.to_thread(tenant.get)
        loop = asyncio.get_running_loop() is asyncio.get_event_loop()
        await start(send)
        await body(send, json.dumps([before, inside, threaded, loop]).encode())

    async def call_context(scope, receive, send):
        from shardwright.guest import current_call
        names = [current_call.get().session_name, await asyncio.to_thread(lambda: current_call.get().session_name)]
        await start(send)
        await body(send, json.dumps([*names, current_call.get().over]).encode())

    async def read_tenant():
        return tenant.get()

    async def at_once(scope, receive, send):
        # two tasks, one that listens for the end
        heard = asyncio.create_task(listen(receive))
        await start(send)
        await body(send, b"x")
        await heard

    async def listen(receive):
        while (event := await receive())["type"] != "http.disconnect":
            pass
        note(event["type"])

    # -- mistakes
    async def returns_something(scope, receive, send):
        await start(send)
        await body(send)
        return 3
    async def silent(scope, receive, send): pass
    async def no_end(scope, receive, send):
        await start(send)
        await body(send, b"x", True)
    async def raises(scope, receive, send): raise ValueError("before")
    async def raises_late(scope, receive, send):
        await start(send)
        await body(send, b"x", True)
        await asyncio.sleep(0.01)
        raise ValueError("after")
    async def body_first(scope, receive, send): await body(send)
    async def twice(scope, receive, send):
        await start(send)
        await start(send)
    async def after_the_end(scope, receive, send):
        await start(send)
        await body(send)
        await body(send)
    async def unknown(scope, receive, send): await send({"type": "http.nonsense"})
    async def no_type(scope, receive, send): await send({})
    async def no_status(scope, receive, send): await send({"type": "http.response.start"})
    async def status_text(scope, receive, send): await start(send, "200")
    async def status_large(scope, receive, send): await start(send, 1000)
    async def status_small(scope, receive, send): await start(send, 100)
    async def header_text(scope, receive, send): await start(send, headers=[("a", "b")])
    async def header_break(scope, receive, send): await start(send, headers=[(b"a", b"b\\r\\nset-cookie: x")])
    async def header_name(scope, receive, send): await start(send, headers=[(b"a b", b"b")])
    async def header_triple(scope, receive, send): await start(send, headers=[(b"a", b"b", b"c")])
    async def header_huge(scope, receive, send): await start(send, headers=[(b"a", b"b" * 200_000)])
    async def body_text(scope, receive, send):
        await start(send)
        await body(send, "text")
    async def body_none(scope, receive, send):
        await start(send)
        await body(send, None)
    async def too_long(scope, receive, send):
        await start(send, headers=[(b"Content-Length", b"2")])
        await body(send, b"xxx")
    async def too_short(scope, receive, send):
        await start(send, headers=[(b"content-length", b"5")])
        await body(send, b"xxx")
    async def bad_length(scope, receive, send): await start(send, headers=[(b"content-length", b"x")])
    async def trailers_unasked(scope, receive, send):
        await start(send, trailers=True)
        await body(send)
        await send({"type": "http.response.trailers", "headers": []})

    async def forgives(scope, receive, send):
        await start(send)
        try:
            await start(send)
        except RuntimeError as error:
            await body(send, str(error).encode())

    async def quits(scope, receive, send): raise SystemExit(1)
    async def huge_error(scope, receive, send): raise ValueError("x" * 10_000_000)

    # -- WebSockets
    async def ws_echo(scope, receive, send):
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0],
                    "headers": [(b"x-a", b"b")]})
        while (event := await receive())["type"] == "websocket.receive":
            answer = {"type": "websocket.send"}
            if event.get("text") is not None:
                answer["text"] = event["text"]
            else:
                answer["bytes"] = event["bytes"]
            await send(answer)
        note(event)

    async def ws_closes(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
        note(await receive())

    async def ws_denies(scope, receive, send):
        await send({"type": "websocket.close"})
        note((await receive())["type"])
        note(await receive())

    async def ws_answers(scope, receive, send):
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"a", b"b")]})
        await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"are you?"})

    async def ws_sends_late(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        assert (await receive())["type"] == "websocket.disconnect"
        try:
            await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            note(type(error).__name__)
            raise

    async def ws_patient(scope, receive, send):
        await receive()
        await send({"type": "websocket.accept"})
        for _ in range(50):
            try:
                await asyncio.wait_for(receive(), 0.0005)
            except asyncio.TimeoutError:
                pass
        await send({"type": "websocket.send", "text": "still here"})
        note((await receive())["text"])

    async def ws_silent(scope, receive, send): pass
    async def ws_half(scope, receive, send): await send({"type": "websocket.accept"})
    async def ws_raises(scope, receive, send):
        await send({"type": "websocket.accept"})
        raise ValueError("in the middle")
    async def ws_sends_first(scope, receive, send): await send({"type": "websocket.send", "text": "x"})
    async def ws_http(scope, receive, send): await start(send)
    async def ws_after_close(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close"})
        await send({"type": "websocket.send", "text": "x"})
    async def ws_bad_code(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 99})
    async def ws_text_bytes(scope, receive, send):
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": b"x"})

    async def app(scope, receive, send):
        assert scope["type"] in ("http", "websocket")
        name = scope["path"].strip("/")
        return await {"scope": scope_}.get(name, globals().get(name))(scope, receive, send)
"""


@pytest.fixture
def shard(tmp_path: Path) -> Iterator[WebShard]:
    made = WebShard(tmp_path, PROBE, app="app")
    yield made
    made.close()


@pytest.fixture
def gateway(shard: WebShard) -> Gateway:
    return shard.gateway()


def noted(shard: WebShard, count: int = 1) -> list[Any]:
    """What the application noted, once there is so much."""
    module = shard.module()
    while len(module.seen) < count:
        module.noted.clear()
        if len(module.seen) < count:
            assert module.noted.wait(LONG), module.seen
    found: list[Any] = module.seen
    return found


def _eventually(holds: Callable[[], bool]) -> None:
    end_s = time.monotonic() + LONG
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.001)


def websocket(gateway: Gateway, path: str, **scope: Any) -> Exchange:
    return gateway.open(path=path, type="websocket", **scope)


# -- HTTP ----------------------------------------------------------------------------------------------------------


def test_the_scope_is_uvicorns(gateway: Gateway) -> None:
    found = gateway.get(
        path="/scope",
        raw_path=b"/sc%6fpe",
        query_string=b"a=1&b=%20",
        headers=[(b"host", b"x"), (b"a", b"1"), (b"a", b"2")],
        client=("10.0.0.1", 5000),
        server=("::1", 8000),
        root_path="/mounted",
        http_version="2",
        method="PATCH",
        scheme="https",
        extensions={"http.response.trailers": {}, "http.response.pathsend": {}, "tls": {}},
    )
    scope = eval(found.body)
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "2",
        "server": ("::1", 8000),
        "client": ("10.0.0.1", 5000),
        "scheme": "https",
        "method": "PATCH",
        "root_path": "/mounted",
        "path": "/scope",
        "raw_path": b"/sc%6fpe",
        "query_string": b"a=1&b=%20",
        "headers": [(b"host", b"x"), (b"a", b"1"), (b"a", b"2")],
        "extensions": {"http.response.trailers": {}},
    }
    assert "extensions" not in eval(gateway.get(path="/scope").body)


def test_a_body_streams_both_ways(gateway: Gateway) -> None:
    exchange = gateway.open(path="/echo")
    start = None
    for text in (b"one", b"two", b""):
        exchange.send({"type": "http.request", "body": text, "more_body": bool(text)})
        if start is None:
            start = exchange.receive()
            assert start is not None and start["status"] == 200
        assert exchange.receive() == {"type": "http.response.body", "body": text, "more_body": bool(text)}
    assert isinstance(exchange.finish(), Returned)


def test_what_comes_with_the_opening_is_heard(gateway: Gateway) -> None:
    exchange = gateway.open(path="/late", events=[HttpRequest(b"abc", True)])
    exchange.send({"type": "http.request", "body": b"d"})
    assert exchange.response().body == b"4"


def test_large_bodies_are_cut_and_wait_for_credit(gateway: Gateway) -> None:
    size = 3 * WINDOW + 17
    assert gateway.ask("app", b"z" * size, b"", path="/late").body == str(size).encode()
    found = gateway.get(path="/big")
    assert (len(found.body), found.complete, len(found.chunks)) == (3_000_000, True, 46)


def test_a_body_that_is_not_read_is_not_taken(gateway: Gateway) -> None:
    exchange = gateway.open(path="/hangs")
    with pytest.raises(TimeoutError):
        exchange.send({"type": "http.request", "body": b"z" * (2 * WINDOW), "more_body": True}, timeout_s=0.3)
    assert exchange.outflow.available < 70_000
    exchange.cancel()


def test_a_response_that_is_not_taken_is_not_made(shard: WebShard, gateway: Gateway) -> None:
    exchange = gateway.open(path="/endless")
    exchange.grants = False
    events = 0
    with pytest.raises(TimeoutError):
        while exchange.receive(timeout_s=0.3):
            events += 1
    assert 20 < events <= WINDOW // 10_000 + 1
    assert len(shard.module().seen) <= WINDOW // 10_000 + 1
    exchange.cancel()
    exchange.finish()  # and then it ends soon: nothing that it sends goes anywhere


def test_what_is_sent_at_once_leaves_at_once(gateway: Gateway) -> None:
    exchange = gateway.open(path="/late", events=[HttpRequest(b"abc")])
    answer = gateway.answer(exchange.call_id)  # start, body and return in one message
    assert isinstance(answer, Returned)
    assert [type(event).__name__ for event in answer.events] == ["ResponseStart", "ResponseBody"]
    exchange = gateway.open(path="/background")
    envelope = gateway.heard(exchange.call_id)
    assert envelope is not None and (envelope.kind, envelope.payload[0]) == (
        Kind.DATA,
        0x92,
    )  # it goes on to do something


def test_disconnect_is_heard_and_sending_after_it_does_nothing(shard: WebShard, gateway: Gateway) -> None:
    exchange = gateway.open(path="/waits", events=[HttpRequest()])
    assert exchange.receive() and exchange.receive()
    exchange.cancel()
    assert noted(shard, 2) == ["http.disconnect", "sent"]
    assert isinstance(exchange.finish(), Returned)


def test_a_disconnect_may_come_as_an_event(shard: WebShard, gateway: Gateway) -> None:
    exchange = gateway.open(path="/waits", events=[HttpRequest()])
    assert exchange.receive() and exchange.receive()
    exchange.send({"type": "http.disconnect"})
    assert noted(shard, 2) == ["http.disconnect", "sent"]


def test_who_does_not_end_by_itself_is_cancelled(
    shard: WebShard, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_asgi, "GRACE_S", 0.05)
    exchange = gateway.open(path="/hangs", events=[HttpRequest()])
    assert gateway.get(path="/late", events=[HttpRequest()]).status == 200  # by now it hangs
    exchange.cancel()
    assert noted(shard) == ["cancelled"]
    assert isinstance(exchange.finish(), Failure)


def test_what_goes_on_after_the_answer_is_not_cancelled(
    shard: WebShard, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_asgi, "GRACE_S", 0.0)
    exchange = gateway.open(path="/background")
    assert exchange.receive() and exchange.receive()
    exchange.cancel()
    assert noted(shard) == ["http.disconnect"]
    assert gateway.get(path="/scope").status == 200
    shard.module().go_on.set()
    assert noted(shard, 2)[-1] == "background ended"
    assert isinstance(exchange.finish(), Returned)


def test_the_end_of_the_link_is_the_end_of_its_clients(shard: WebShard, gateway: Gateway) -> None:
    exchange = gateway.open(path="/waits", events=[HttpRequest()])
    assert exchange.receive() and exchange.receive()
    gateway.channel.close()
    assert noted(shard, 2) == ["http.disconnect", "sent"]
    assert shard.gateway().get(path="/scope").status == 200


def test_an_exchange_that_was_cancelled_before_it_began_is_not_run(shard: WebShard, gateway: Gateway) -> None:
    shard.runtime.mailbox.acquire()  # nothing runs meanwhile
    try:
        exchange = gateway.open(path="/raises")
        exchange.cancel()
    finally:
        shard.runtime.mailbox.release()
    assert gateway.get(path="/scope").status == 200


def test_trailers_and_hints_where_the_gateway_can(gateway: Gateway) -> None:
    found = gateway.get(path="/trailers", extensions={"http.response.trailers": {}})
    assert found.others == [{"type": "http.response.trailers", "headers": [(b"sum", b"1")], "more_trailers": False}]
    found = gateway.get(path="/hint", extensions={"http.response.early_hint": {}})
    assert found.others == [{"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}]
    refused = gateway.get(path="/hint").failure
    assert refused is not None and "Expected ASGI message 'http.response.start'" in refused.message


def test_the_gateway_is_told_when_the_body_is_wanted(gateway: Gateway) -> None:
    exchange = gateway.open(path="/late", extensions={"http.response.continue": {}})
    assert exchange.receive() == {"type": "http.response.continue"}
    exchange.send({"type": "http.request", "body": b"abc", "more_body": True})
    exchange.send({"type": "http.request", "body": b"d"})
    found = exchange.response()
    assert (found.body, found.others) == (b"4", [])


def test_head_and_bodiless_statuses(gateway: Gateway) -> None:
    found = gateway.get(path="/big", method="HEAD")
    assert (found.status, found.body, found.complete) == (200, b"", True)


def test_contexts_do_not_leak_between_requests(gateway: Gateway) -> None:
    for _ in range(3):
        assert json.loads(gateway.get(path="/context").body) == ["nobody", "one", "one", True]


def test_an_application_knows_its_session(gateway: Gateway) -> None:
    for _ in range(2):  # the first finds out how the application is called
        assert json.loads(gateway.get(path="/call_context").body) == ["one", "one", False]


def test_who_listens_while_sending_hears_of_the_end(shard: WebShard, gateway: Gateway) -> None:
    assert gateway.get(path="/at_once", events=[HttpRequest()]).complete
    assert noted(shard) == ["http.disconnect"]


MISTAKES = [
    ("returns_something", "callable should return None, but returned 3"),
    ("silent", "returned without starting response"),
    ("no_end", "returned without completing response"),
    ("raises", "before"),
    ("raises_late", "after"),
    ("body_first", "Expected ASGI message 'http.response.start', but got 'http.response.body'."),
    ("twice", "Expected ASGI message 'http.response.body', but got 'http.response.start'."),
    ("after_the_end", "Unexpected ASGI message 'http.response.body' sent, after response already completed."),
    ("unknown", "Expected ASGI message 'http.response.start', but got 'http.nonsense'."),
    ("no_type", "'type'"),
    ("no_status", "'status'"),
    ("status_text", "the status must be an int, not str"),
    ("status_large", "1000 is not the status of a response"),
    ("status_small", "100 is not the status of a response"),
    ("header_text", "the name of a header must be bytes, not str"),
    ("header_break", "control characters"),
    ("header_name", "is not a header name"),
    ("header_triple", "too many values to unpack"),
    ("header_huge", "ResponseStart takes"),
    ("body_text", "the body must be bytes, not str"),
    ("body_none", "the body must be bytes, not NoneType"),
    ("too_long", "Response content longer than Content-Length"),
    ("too_short", "Response content shorter than Content-Length"),
    ("bad_length", "Invalid Content-Length"),
    ("trailers_unasked", "after response already completed"),
    ("quits", "1"),
    ("huge_error", "xxxx"),
]


@pytest.mark.parametrize(("path", "said"), MISTAKES)
def test_mistakes_are_raised_where_they_are_made(
    gateway: Gateway, path: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "shardwright.web"):
        found = gateway.get(path=f"/{path}")
    assert found.failure is not None, found
    assert said in found.failure.message
    assert len(found.failure.message) <= 1000
    assert "Exception in ASGI application" in caplog.text
    # what was sent before is sent
    assert bool(found.status) == (path in STARTED), found


STARTED = {"returns_something", "no_end", "raises_late", "twice", "after_the_end", "body_text", "body_none", "too_long"}
STARTED |= {"too_short", "trailers_unasked"}


def test_a_mistake_can_be_caught(gateway: Gateway) -> None:
    assert gateway.get(path="/forgives").body.startswith(b"Expected ASGI message 'http.response.body'")


# -- WebSockets ----------------------------------------------------------------------------------------------------


def test_a_conversation(shard: WebShard, gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_echo", subprotocols=["chat", "other"])
    assert exchange.receive() == {"type": "websocket.accept", "subprotocol": "chat", "headers": [(b"x-a", b"b")]}
    for content in ({"text": "hello ü"}, {"bytes": b"\0\xff"}, {"text": ""}, {"bytes": b""}):
        exchange.send({"type": "websocket.receive", **content})
        assert exchange.receive() == {"type": "websocket.send", **content}
    exchange.send({"type": "websocket.disconnect", "code": 4000, "reason": "bye"})
    assert noted(shard) == [{"type": "websocket.disconnect", "code": 4000, "reason": "bye"}]
    assert isinstance(exchange.finish(), Returned)


def test_large_messages_arrive_whole(gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_echo")
    assert exchange.receive()
    for content in ({"text": "ü" * 700_001}, {"bytes": bytes(range(256)) * 5000}, {"text": "small"}):
        exchange.send({"type": "websocket.receive", **content})
        assert exchange.receive() == {"type": "websocket.send", **content}


def test_what_was_said_before_the_end_is_heard(shard: WebShard, gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_echo")
    exchange.send({"type": "websocket.connect"})  # it knows that already
    exchange.send({"type": "websocket.receive", "text": "x"})
    assert exchange.receive() and exchange.receive()
    exchange.cancel()
    assert noted(shard)[0]["code"] == 1006


def test_closing_and_denying(shard: WebShard, gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_closes")
    assert exchange.receive()
    assert exchange.receive() == {"type": "websocket.close", "code": 4001, "reason": "enough"}
    assert isinstance(exchange.finish(), Returned)
    assert noted(shard) == [{"type": "websocket.disconnect", "code": 4001, "reason": "enough"}]
    exchange = websocket(gateway, "/ws_denies")
    assert exchange.receive() == {"type": "websocket.close", "code": 1000, "reason": ""}
    assert noted(shard, 3)[1:] == ["websocket.connect", {"type": "websocket.disconnect", "code": 1006}]
    exchange = websocket(gateway, "/ws_answers")
    kinds = []
    while (event := exchange.receive()) is not None:
        kinds.append((event["type"], event.get("status"), event.get("body")))
    assert kinds == [
        ("websocket.http.response.start", 401, None),
        ("websocket.http.response.body", None, b"who "),
        ("websocket.http.response.body", None, b"are you?"),
    ]


def test_sending_to_a_client_that_is_gone_is_an_oserror(shard: WebShard, gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_sends_late")
    assert exchange.receive()
    exchange.cancel()
    assert noted(shard) == ["ClientDisconnected"]
    assert isinstance(exchange.finish(), Returned)  # it ended as it should


def test_who_gives_up_waiting_leaves_nothing_behind(shard: WebShard, gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_patient")
    assert exchange.receive() and exchange.receive()
    (call,) = shard.runtime.web._exchanges()
    assert len(call.stream._waiting) <= 1
    exchange.send({"type": "websocket.receive", "text": "nothing was lost"})
    assert noted(shard) == ["nothing was lost"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("ws_silent", "returned without completing handshake"),
        ("ws_raises", "in the middle"),
        ("ws_sends_first", "Expected ASGI message 'websocket.accept', 'websocket.close'"),
        ("ws_http", "but got 'http.response.start'"),
        ("ws_after_close", "after sending 'websocket.close'."),
        ("ws_bad_code", "99 is not a close code"),
        ("ws_text_bytes", "the text of a message must be a str, not bytes"),
    ],
)
def test_websocket_mistakes(gateway: Gateway, path: str, said: str) -> None:
    end = websocket(gateway, f"/{path}").finish()
    assert isinstance(end, Failure) and said in end.message


def test_websockets_are_not_counted_as_calls_that_wait(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    shard = WebShard(tmp_path, PROBE, app="app", manifest="queue = 4")
    try:
        gateway = shard.gateway()
        assert gateway.get(path="/scope").status == 200
        many = [websocket(gateway, "/ws_echo") for _ in range(300)]
        for exchange in many:
            assert exchange.receive()
        hanging = [gateway.open(path="/hangs") for _ in range(4)]
        refused = gateway.get(path="/scope").failure
        assert refused is not None and (refused.code, refused.outcome) == ("SW412", "not started")
        for exchange in many:
            exchange.send({"type": "websocket.receive", "text": "x"})
        for exchange in many:
            assert exchange.receive() == {"type": "websocket.send", "text": "x"}
        assert len(hanging) == 4
        assert len(shard.runtime.web.websockets) == len(many)
        for exchange in many:
            exchange.cancel()
        assert all(isinstance(exchange.finish(), Returned) for exchange in many)
        _eventually(lambda: not shard.runtime.web.websockets)  # soon after its end each is forgotten
        record_exercised("WebSockets open at once in one shard", len(many))
    finally:
        shard.close()


def test_a_shard_has_so_many_websockets(shard: WebShard, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwright.guest._web.MAX_WEBSOCKETS", 2)
    first, second = (websocket(gateway, "/ws_echo") for _ in range(2))
    assert first.receive() and second.receive()
    refused = websocket(gateway, "/ws_echo").finish()
    assert isinstance(refused, Failure) and (refused.code, refused.outcome) == ("SW412", "not started")
    first.cancel()
    first.finish()
    _eventually(lambda: len(shard.runtime.web.websockets) == 1)
    assert websocket(gateway, "/ws_echo").receive()


def test_a_shard_that_ends_says_so(shard: WebShard, gateway: Gateway) -> None:
    exchange = websocket(gateway, "/ws_echo")
    assert exchange.receive()
    shard.runtime.web.going_away()
    assert noted(shard)[0]["code"] == 1012
    assert exchange.receive() == {"type": "websocket.close", "code": 1012, "reason": ""}
    assert isinstance(exchange.finish(), Returned)


# -- the lifespan --------------------------------------------------------------------------------------------------

LIFE = """
    import asyncio
    log = []
    class Pool: pass

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
            assert (await receive())["type"] == "lifespan.startup"
            await asyncio.sleep(0.01)
            scope["state"]["pool"] = Pool()
            scope["state"]["count"] = 0
            log.append("startup")
            await send({"type": "lifespan.startup.complete"})
            assert (await receive())["type"] == "lifespan.shutdown"
            log.append("shutdown")
            await send({"type": "lifespan.shutdown.complete"})
            return
        scope["state"]["count"] += 1
        text = f"{scope['state']['count']} {scope['state']['pool'].__class__.__name__} {id(scope['state']['pool'])}"
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": text.encode()})
"""


def test_the_lifespan_comes_once_and_its_state_is_copied(tmp_path: Path) -> None:
    shard = WebShard(tmp_path, LIFE, app="app")
    try:
        gateway = shard.gateway()
        bodies = {exchange.response().body for exchange in [gateway.open() for _ in range(5)]}
        assert len(bodies) == 1 and bodies.pop().startswith(b"1 Pool")
        log = shard.module().log
        assert log == ["startup"]
    finally:
        shard.close()
    assert log == ["startup", "shutdown"]


@pytest.mark.parametrize(
    "lifespan",
    [
        "raise AssertionError",  # it does not know of it
        "return",
        "await receive()",
        "raise asyncio.CancelledError",
    ],
)
def test_an_application_without_a_lifespan_is_served(tmp_path: Path, lifespan: str) -> None:
    source = f"""
        import asyncio
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                {lifespan}
                return
            await send({{"type": "http.response.start", "status": 200}})
            await send({{"type": "http.response.body", "body": repr(scope["state"]).encode()}})
    """
    shard = WebShard(tmp_path, source, app="app")
    try:
        gateway = shard.gateway()
        assert gateway.get().body == b"{}"
        assert gateway.get().body == b"{}"
    finally:
        shard.close()


def test_a_startup_that_fails_is_told_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = """
        tries = []
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                await receive()
                tries.append(1)
                if len(tries) < 3:
                    await send({"type": "lifespan.startup.failed", "message": "Traceback...\\nOSError: no database\\n"})
                    raise OSError
                await send({"type": "lifespan.startup.complete"})
                await receive()
                raise ValueError("at the end")
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body"})
    """
    shard = WebShard(tmp_path, source, app="app")
    try:
        gateway = shard.gateway()
        for _ in range(2):
            failed = gateway.get().failure
            assert failed is not None and failed.code == "SW423"
            assert "OSError: no database" in failed.message
        assert gateway.get().status == 200
        assert "no database" in caplog.text
    finally:
        shard.close()
    assert "Exception in 'lifespan' protocol" in caplog.text


# -- other manners -------------------------------------------------------------------------------------------------


def test_double_callables(tmp_path: Path) -> None:
    source = """
        class app:
            def __init__(self, scope):
                self.scope = scope
            async def __call__(self, receive, send):
                if self.scope["type"] == "lifespan":
                    raise NotImplementedError
                await send({"type": "http.response.start", "status": 200})
                await send({"type": "http.response.body", "body": repr(self.scope["asgi"]).encode()})
    """
    _served(tmp_path, source, "{'version': '2.0', 'spec_version': '2.3'}")


MANNERS = {
    "function": "async def app(scope, receive, send): await answer(send)",
    "other names": "async def app(s, r, w): await answer(w)",
    "instance": """
    class Plain:
        async def __call__(self, scope, receive, send): await answer(send)
    app = Plain()
    """,
    "plain function": """
    def app(scope, receive, send): return answer(send)
    """,
    "wrapped": """
    import functools
    async def inner(scope, receive, send): await answer(send)
    @functools.wraps(inner)
    def outer(*args): return inner(*args)
    app = outer
    """,
    "partial": """
    import functools
    async def inner(extra, scope, receive, send): await answer(send)
    app = functools.partial(inner, 1)
    """,
    "awaitable class": """
    class app:
        def __init__(self, scope, receive, send): self.send = send
        def __await__(self): return answer(self.send).__await__()
    """,
    "bound method": """
    class Plain:
        async def serve(self, scope, receive, send): await answer(send)
    app = Plain().serve
    """,
    "double function": """
    def app(scope):
        async def inner(receive, send): await answer(send)
        return inner
    """,
    "wsgi": """
    def app(environ, start_response):
        start_response("200 OK", [])
        return [b"fine"]
    """,
    "wsgi instance": """
    class Plain:
        def __call__(self, env, start):
            start("200 OK", [])
            return [b"fine"]
    app = Plain()
    """,
    "wsgi with more": """
    def app(environ, start_response, extra=None):
        start_response("200 OK", [])
        return [b"fine"]
    """,
}


@pytest.mark.parametrize("manner", MANNERS)
def test_how_an_application_is_called_is_found(tmp_path: Path, manner: str) -> None:
    source = """
    async def answer(send):
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"fine"})
    """
    _served(tmp_path, source + MANNERS[manner], "fine")


@pytest.mark.parametrize("app", ["app = 3", "app = print", "app = lambda: None", "def app(*args): pass\napp = app"])
def test_what_is_no_application_is_told(tmp_path: Path, app: str) -> None:
    shard = WebShard(tmp_path, app, app="app")
    try:
        failed = shard.gateway().get().failure
        assert failed is not None and (failed.code, failed.outcome) == ("SW424", "not started"), failed
    finally:
        shard.close()


def _served(folder: Path, source: str, body: str) -> None:
    shard = WebShard(folder, source, app="app")
    try:
        gateway = shard.gateway()
        for _ in range(2):
            found = gateway.get()
            assert (found.status, found.body, found.failure) == (200, body.encode(), None)
    finally:
        shard.close()


def test_calls_of_other_shards_go_on_beside_threads_of_an_application(shard: WebShard) -> None:
    """Requests are served by one loop: while one waits, others run; what blocks it blocks them, as it does uncut."""
    gateway = shard.gateway()
    hanging = [gateway.open(path="/hangs", events=[HttpRequest()]) for _ in range(20)]
    done = threading.Event()

    def ask() -> None:
        assert shard.gateway().get(path="/scope").status == 200
        done.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert done.wait(LONG)
    thread.join()
    assert len(hanging) == 20


def test_what_routes_lead_to_is_looked_at_before_anybody_asks(tmp_path: Path) -> None:
    shard = WebShard(tmp_path, "async def app(scope, receive, send): ...", app="app")
    try:
        _eventually(lambda: shard.runtime.web.manner(shard.method("app")) is Manner.ASGI3)
    finally:
        shard.close()
