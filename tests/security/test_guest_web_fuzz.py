"""A hostile gateway by dice: calls, events and credits of the web with anything in them.

What must hold, whatever comes: the shard goes on to serve others, runs nothing but what a whole and well-formed call asked it
to, keeps no call whose gateway is gone, and holds no more of a client than the window and one message.
"""

from __future__ import annotations

import gc
import logging
import random
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guest_web import Gateway, WebShard
from shardwright.errors import ChannelClosed
from shardwright.guest import (
    CREDIT,
    MAX_EVENTS,
    MAX_WEBSOCKET_MESSAGE,
    PIECE,
    WINDOW,
    Describe,
    Failure,
    FunctionReply,
    FunctionRequest,
    HttpDisconnect,
    HttpRequest,
    Open,
    WebSocketConnect,
    WebSocketDisconnect,
    WebSocketReceive,
    encode_web,
    payload_of,
)
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import MethodId, SessionNumber
from shardwright.transport import pack

SOURCE = """
    import asyncio
    ran = []

    def quick(a: int = 0):
        ran.append("quick")
        return a

    async def later(a: int = 0):
        ran.append("later")
        return a

    class Ledger:
        def __init__(self):
            self.n = 0
            ran.append("Ledger")
        def add(self, a: int):
            self.n += a

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            raise NotImplementedError
        ran.append("app")
        if scope["path"] == "/hang":
            await asyncio.Event().wait()
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (event := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event.get("text") or ""})
            return
        await send({"type": "http.response.start", "status": 200})
        while (event := await receive())["type"] == "http.request":
            await send({"type": "http.response.body", "body": event["body"], "more_body": event["more_body"]})
            if not event["more_body"]:
                return
"""


@pytest.fixture
def shard(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[WebShard]:
    caplog.set_level(logging.CRITICAL, "shardwright.web")  # applications do fail here
    made = WebShard(tmp_path, SOURCE, app="app")
    yield made
    made.close()


def serves(shard: WebShard) -> None:
    gateway = shard.gateway()
    reply = gateway.call("quick", query={"a": "7"})
    assert isinstance(reply, FunctionReply) and reply.body == b"7"
    exchange = gateway.open(events=[HttpRequest(b"x")])
    assert exchange.response().body == b"x"
    gateway.channel.close()


def settles(shard: WebShard) -> None:
    """Every call whose gateway is gone ends."""
    responder = shard.runtime.responder
    end_s = time.monotonic() + 30
    while responder.busy:
        assert time.monotonic() < end_s, responder.calls()
        time.sleep(0.01)


class Dice:
    """Messages that a gateway might send, more or less."""

    def __init__(self, seed: int, shard: WebShard) -> None:
        self.random = random.Random(seed)
        self.methods = [shard.method(name) for name in ("quick", "later", "app", "Ledger", "Ledger.add")]
        self.open_ids: list[int] = []

    def text(self) -> str:
        return "".join(self.random.choices(["a", "/", "%", "\0", "ü", "\U0001f600", "9"], k=self.random.randrange(8)))

    def data(self) -> bytes:
        size = self.random.choice([0, 1, 10, 1000, PIECE, PIECE + 1, MAX_EVENTS])
        return self.random.randbytes(min(size, 64)) * (size // 64 or 1)

    def plain(self, depth: int = 0) -> Any:
        kinds = 9 if depth < 4 else 7
        match self.random.randrange(kinds):
            case 0:
                return None
            case 1:
                return self.random.choice([True, False, -1, 2**63, 2**64 - 1, -(2**63)])
            case 2:
                return self.random.choice([0.5, float("nan"), float("inf")])
            case 3:
                return self.text()
            case 4:
                return self.data()[:2000]
            case 5:
                return self.random.choice(["function", "open", "request", "http", "websocket", "app"])
            case 6:
                return []
            case 7:
                return [self.plain(depth + 1) for _ in range(self.random.randrange(6))]
        keys = ["t", "type", "path", "body", "method", "events", "headers", "data", "more", "more_body", "code", "x"]
        return {key: self.plain(depth + 1) for key in self.random.sample(keys, self.random.randrange(6))}

    def asked(self) -> bytes:
        events: tuple[Any, ...] = tuple(self.event() for _ in range(self.random.randrange(3)))
        choices: list[Callable[[], Any]] = [
            lambda: FunctionRequest("GET", {"a": self.text()}, ((self.text(), self.text()),), self.data(), self.text()),
            lambda: FunctionRequest("POST", body=b'{"a": %d}' % self.random.randrange(9)),
            lambda: FunctionRequest("POST", body=b"[" * 100_000),
            lambda: Describe((self.text(),), self.text()),
            lambda: Open(self.random.choice(["http", "websocket"]), self.random.choice(["/", "/hang"]), events=events),
            lambda: Open("http", self.text(), self.data()[:50], headers=((self.data()[:20], self.data()[:20]),)),
        ]
        try:
            return self.mangled(encode_web(self.random.choice(choices)()))
        except UnicodeEncodeError:
            return b""

    def event(self) -> Any:
        return self.random.choice(
            [
                HttpRequest(self.data(), self.random.random() < 0.7),
                HttpDisconnect(),
                WebSocketConnect(),
                WebSocketReceive(self.data(), self.random.random() < 0.5, self.random.random() < 0.5),
                WebSocketDisconnect(self.random.randrange(5000), self.text()),
            ]
        )

    def mangled(self, payload: bytes) -> bytes:
        match self.random.randrange(40):
            case 0:
                return self.data()
            case 1:
                return payload[: self.random.randrange(len(payload) + 1)]
            case 2:
                return payload + b"\0"
            case 3:
                changed = bytearray(payload)
                for _ in range(self.random.randrange(1, 4)):
                    changed[self.random.randrange(min(len(changed), 64))] = self.random.randrange(256)
                return bytes(changed)
            case 4:
                try:
                    return msgspec.msgpack.encode(self.plain())
                except UnicodeEncodeError:
                    return b"\xc1"
            case 5:
                return self.random.choice(
                    [b"\x91" * 100_000, b"\x81\xa1t" * 50_000, b"\xdd\xff\xff\xff\xff", b"\xc6\xff"]
                )
        return payload

    def message(self) -> Envelope:
        rolled = self.random.random()
        codec = PayloadCodec.WEB
        call_id = self.random.choice([*self.open_ids[-20:], 0, 1, 2**64 - 1, self.random.randrange(1000)])
        fields: dict[str, Any] = {"session": SessionNumber(self.random.choice([0, 1, 1, 1, 99]))}
        if rolled < 0.45:
            kind, payload = Kind.CALL, self.asked()
            call_id = len(self.open_ids) + 1000 if self.random.random() < 0.95 else call_id
            self.open_ids.append(call_id)
            fields["method"] = self.random.choice([*self.methods, *self.methods[:3], MethodId(77)])
            fields["deadline_ns"] = self.random.choice([0, 0, 0, 1])
        elif rolled < 0.8:
            kind = Kind.DATA
            payload = self.mangled(
                payload_of([encode_web(self.event()) for _ in range(self.random.choice([1, 1, 1, 0, 9]))])
            )
        elif rolled < 0.88:
            kind, codec = Kind.CREDIT, PayloadCodec.NONE
            payload = self.random.choice(
                [CREDIT.pack(100), CREDIT.pack(0), CREDIT.pack(2**32 - 1), b"", b"123", b"12345"]
            )
        elif rolled < 0.94:
            kind, codec, payload = Kind.CANCEL, PayloadCodec.NONE, b""
        else:
            kind = self.random.choice(list(Kind))
            codec = self.random.choice([PayloadCodec.WEB, PayloadCodec.TAGGED, PayloadCodec.PICKLE5])
            payload = self.data()[:1000]
        if self.random.random() < 0.01:
            fields["buffers"] = (b"extra",)
        if codec is PayloadCodec.NONE and kind is not Kind.CREDIT:
            fields.pop("buffers", None)
            payload = b""
        return Envelope(kind, call_id, codec=codec, payload=payload, **fields)


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_whatever_a_gateway_sends(
    shard: WebShard, seed: int, record_exercised: Callable[[str, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardwright.guest._asgi.GRACE_S", 0.0)
    dice = Dice(seed, shard)
    sent = cut_off = 0
    for _ in range(200):
        gateway = shard.gateway()
        try:
            for _ in range(60):
                gateway.channel.send(pack(dice.message()))
                sent += 1
                while gateway.channel.receive(timeout_s=0) is not None:
                    pass
        except ChannelClosed:
            cut_off += 1
        gateway.channel.close()
        shard.gateways.clear()
    settles(shard)
    serves(shard)
    assert not {"Ledger", "Ledger.add"} & set(shard.module().ran)  # no route leads there
    assert {"app", "quick", "later"} <= set(shard.module().ran)  # the dice did reach what they may
    assert 0 < cut_off <= 200
    record_exercised("hostile messages of a gateway", sent)


def _broken(gateway: Gateway) -> None:
    """The shard has cut this gateway off."""
    with pytest.raises(ChannelClosed):
        while gateway.channel.receive(timeout_s=20) is not None:
            pass


HTTP_ONLY = encode_web(HttpRequest(b"x", True))


@pytest.mark.parametrize(
    ("scope", "kind", "codec", "payload"),
    [
        ("http", Kind.DATA, PayloadCodec.WEB, payload_of([])),
        ("http", Kind.DATA, PayloadCodec.WEB, b"\x91\xc0"),
        ("http", Kind.DATA, PayloadCodec.WEB, payload_of([encode_web(WebSocketReceive(b"x"))])),
        ("http", Kind.DATA, PayloadCodec.WEB, payload_of([encode_web(WebSocketDisconnect())])),
        ("http", Kind.DATA, PayloadCodec.TAGGED, payload_of([HTTP_ONLY])),
        ("http", Kind.DATA, PayloadCodec.PICKLE5, payload_of([HTTP_ONLY])),
        ("http", Kind.DATA, PayloadCodec.WEB, payload_of([encode_web(HttpRequest(b"x")), HTTP_ONLY])),
        ("http", Kind.DATA, PayloadCodec.WEB, payload_of([encode_web(HttpRequest(b"x" * (WINDOW + 1), True))])),
        ("websocket", Kind.DATA, PayloadCodec.WEB, payload_of([HTTP_ONLY])),
        ("websocket", Kind.DATA, PayloadCodec.WEB, payload_of([encode_web(WebSocketReceive(b"\xff", text=True))])),
        ("websocket", Kind.DATA, PayloadCodec.WEB, payload_of([encode_web(WebSocketReceive(b"", more=True))])),
        ("http", Kind.CREDIT, PayloadCodec.NONE, CREDIT.pack(1)),
        ("http", Kind.CREDIT, PayloadCodec.NONE, CREDIT.pack(0)),
        ("http", Kind.CREDIT, PayloadCodec.NONE, b"1"),
        ("http", Kind.CREDIT, PayloadCodec.NONE, struct.pack("<Q", 1)),
    ],
)
def test_what_breaks_the_protocol_ends_the_link(
    shard: WebShard, scope: str, kind: Kind, codec: PayloadCodec, payload: bytes
) -> None:
    gateway = shard.gateway()
    exchange = gateway.open(type=scope, path="/hang")
    gateway.channel.send(pack(Envelope(kind, exchange.call_id, codec=codec, payload=payload)))
    _broken(gateway)
    serves(shard)


def test_calls_that_cannot_be_read_end_the_link(shard: WebShard) -> None:
    for payload in (b"\xc0", b"\x80", b"\x91" * 200_000, encode_web(HttpRequest()), b"x"):
        gateway = shard.gateway()
        gateway.ids += 1
        gateway.post(Kind.CALL, gateway.ids, payload, method=shard.method("quick"))
        _broken(gateway)
    gateway = shard.gateway()
    first = gateway.open(path="/hang")
    gateway.post(Kind.CALL, first.call_id, encode_web(Open("http", "/hang")), method=shard.method("app"))
    _broken(gateway)  # a number that is in use
    gateway = shard.gateway()
    large = Open("http", "/", headers=((b"a", b"b" * MAX_EVENTS),))
    gateway.begin("app", large)
    _broken(gateway)
    serves(shard)


def test_data_for_what_is_no_exchange(shard: WebShard) -> None:
    gateway = shard.gateway()
    for kind in (Kind.DATA, Kind.CREDIT):  # for a call that has ended, or never was: it may have been on its way
        gateway.post(kind, 4711, CREDIT.pack(1))
    assert isinstance(gateway.call("quick"), FunctionReply)
    shard.runtime.mailbox.acquire()  # so that the call waits
    try:
        call = gateway.begin("quick", FunctionRequest("GET"))
        gateway.post(Kind.DATA, call, payload_of([HTTP_ONLY]))
        _broken(gateway)
    finally:
        shard.runtime.mailbox.release()
    serves(shard)


def test_memory_is_bounded(shard: WebShard, record_exercised: Callable[[str, int], None]) -> None:
    """A gateway that sends all it may, to applications that never read."""
    serves(shard)
    gc.collect()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gateway = shard.gateway()
    exchanges = [gateway.open(path="/hang", type=kind) for kind in ("http", "websocket") for _ in range(20)]
    sent = 0
    for exchange in exchanges:
        body = b"z" * (2 * WINDOW)
        event = {"type": "http.request", "body": body, "more_body": True}
        if exchange in exchanges[20:]:
            event = {"type": "websocket.receive", "bytes": b"z" * 1000}
        try:
            for _ in range(400):
                exchange.send(event, timeout_s=0.02)
                sent += 1
        except TimeoutError:
            pass
    held = sum(_held(call.stream) for call in shard.runtime.web._exchanges())
    assert held <= len(exchanges) * WINDOW
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 100 * 1024
    record_exercised("bytes held of clients that nobody reads", held)
    # one message at a time may be larger than the window, and no larger than its limit
    whole = gateway.open(path="/hang", type="websocket")
    with pytest.raises(TimeoutError):
        for _ in range(5):
            whole.send({"type": "websocket.receive", "bytes": b"m" * (4 * WINDOW)}, timeout_s=0.1)
    (stream,) = (call.stream for call in shard.runtime.web._exchanges() if call.envelope.call_id == whole.call_id)
    assert _held(stream) <= 5 * WINDOW + PIECE
    too_large = gateway.open(path="/", type="websocket")
    with pytest.raises(ChannelClosed):
        too_large.send({"type": "websocket.receive", "bytes": b"m" * (MAX_WEBSOCKET_MESSAGE + 1)})
        _drain(gateway)
    serves(shard)


def _drain(gateway: Gateway) -> None:
    while gateway.channel.receive(timeout_s=20) is not None:
        pass


def _held(stream: Any) -> int:
    waiting = sum(len(getattr(event, "body", getattr(event, "data", b""))) for event, _ in stream._inbox)
    return waiting + int(stream._joiner._bytes)


def test_other_codecs_reach_no_application(shard: WebShard) -> None:
    gateway = shard.gateway()
    for codec in (PayloadCodec.TAGGED, PayloadCodec.PICKLE5):
        gateway.ids += 1
        gateway.post(Kind.CALL, gateway.ids, b"\x11\x03\x00\x10\x00", method=shard.method("app"), codec=codec)
        answered = gateway.heard(gateway.ids)
        assert answered is not None and answered.kind is Kind.ERROR
    refused = gateway.answer(gateway.begin("app", FunctionRequest("GET")))
    assert isinstance(refused, Failure) and refused.code == "SW416"
    assert "app" not in shard.module().ran
