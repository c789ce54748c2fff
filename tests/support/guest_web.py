"""A gateway of a few lines: the other side of a shard's web calls, over a real channel, one thread, blocking."""

from __future__ import annotations

import dataclasses
import textwrap
import time
from collections import defaultdict, deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec.structs

from shardwright.errors import ChannelClosed
from shardwright.guest import (
    CREDIT,
    Described,
    Failure,
    FunctionReply,
    FunctionRequest,
    HttpRequest,
    Inflow,
    Joiner,
    Open,
    Outflow,
    Returned,
    Runtime,
    WebSocketSend,
    client_event,
    decode_answer,
    decode_application_events,
    decode_failure,
    encode_web,
    payloads,
    read_credit,
)
from shardwright.guest._runtime import peer_of
from shardwright.manifest import load
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import ComponentName, MethodId, SessionNumber, ShardId
from shardwright.model.shard import GATEWAY_COMPONENT, EntryKind, EntryPoint, RouteTarget, ShardPlan
from shardwright.sharding import plan as plan_of
from shardwright.transport import pack, unpack
from shardwright.transport.socket import SocketTransport

PATIENCE_S = 20.0


class NobodyElse:
    """A shard that calls nobody."""

    def bind(self, route: Any, context: Any, lost: Any = ()) -> Any:
        raise ChannelClosed("there is nobody else")

    def release(self, route: Any, link: Any) -> None:
        pass

    def why(self, peer: Any) -> str:
        return ""


class WebShard:
    """A shard of one component ``shop``, whose module is ``source``, with routes to all that it has, or to nothing."""

    def __init__(self, folder: Path, source: str, *, app: str = "", manifest: str = "", routed: bool = True) -> None:
        code = f"shop:{app}" if app else "shop"
        (folder / "shardwright.toml").write_text(
            f'[app]\nname = "town"\n[components.shop]\ncode = "{code}"\n{manifest}\n'
        )
        (folder / "shop.py").write_text(textwrap.dedent(source))
        plan = plan_of(load(folder, environment={}))
        shop = ComponentName("shop")
        if app:
            plan = _with_application(plan, app)
        routes = tuple(
            RouteTarget("/", (), shop, entry.method_id, f"shop.{entry.name}", entry.kind)
            for entry in plan.definition(shop).entry_points
            if routed and entry.kind in (EntryKind.FUNCTION, EntryKind.APPLICATION)
        )
        self.plan = msgspec.structs.replace(plan, routes=routes)
        self.runtime = Runtime(self.plan, shop, inproc=True)
        self.runtime.activate(ShardId("shop-00000001"), NobodyElse())
        self.runtime.session_begins(SessionNumber(1), "one")
        self.gateways: list[Gateway] = []

    def gateway(self, component: str = GATEWAY_COMPONENT) -> Gateway:
        transport = SocketTransport()
        ours, theirs = transport.pair()
        channel = transport.open(ours)
        peer = peer_of(component, f"{component}-00000001", None)
        self.runtime.connect(transport.open(theirs), peer, outgoing=False)
        self.gateways.append(Gateway(self, channel))
        return self.gateways[-1]

    def method(self, name: str) -> MethodId:
        return self.plan.definition(ComponentName("shop")).entry(name).method_id

    def module(self) -> Any:
        return self.runtime.import_module("shop")

    def close(self) -> None:
        for gateway in self.gateways:
            gateway.channel.close()
        self.runtime.close()


def _with_application(plan: ShardPlan, app: str) -> ShardPlan:
    """The plan, where what is called ``app`` is an application in whatever way it is written."""
    (shop,) = (each for each in plan.definitions if each.component == "shop")
    entries = [entry for entry in shop.entry_points if entry.name != app]
    entries.append(EntryPoint(MethodId(0), app, "shop", app, EntryKind.APPLICATION))
    numbered = tuple(msgspec.structs.replace(entry, method_id=MethodId(n)) for n, entry in enumerate(entries))
    shop = msgspec.structs.replace(shop, entry_points=numbered)
    return msgspec.structs.replace(plan, definitions=(shop,))


class Gateway:
    """The far end of a link. Whatever comes for an exchange that nobody asks for yet waits."""

    def __init__(self, shard: WebShard, channel: Any) -> None:
        self.shard = shard
        self.channel = channel
        self.ids = 0
        self._waiting: dict[int, deque[Envelope]] = defaultdict(deque)

    def post(self, kind: Kind, call_id: int, payload: bytes = b"", **fields: Any) -> None:
        codec = PayloadCodec.WEB if payload and kind is not Kind.CREDIT else PayloadCodec.NONE
        fields = {"codec": codec, "session": SessionNumber(1), **fields}
        self.channel.send(pack(Envelope(kind, call_id, payload=payload, **fields)))

    def begin(self, name: str, message: Any, **fields: Any) -> int:
        self.ids += 1
        self.post(Kind.CALL, self.ids, encode_web(message), method=self.shard.method(name), **fields)
        return self.ids

    def heard(self, call_id: int, timeout_s: float = PATIENCE_S) -> Envelope | None:
        """The next message about that call, or None when none came in time."""
        end_s = time.monotonic() + timeout_s
        while not self._waiting[call_id]:
            frame = self.channel.receive(timeout_s=max(0.0, end_s - time.monotonic()))
            if frame is None:
                return None
            envelope = unpack(frame)
            self._waiting[envelope.call_id].append(envelope)
        return self._waiting[call_id].popleft()

    def answer(self, call_id: int) -> FunctionReply | Described | Returned | Failure:
        envelope = self.heard(call_id)
        assert envelope is not None, "no answer"
        assert envelope.codec is PayloadCodec.WEB
        if envelope.kind is Kind.ERROR:
            return decode_failure(envelope.payload)
        assert envelope.kind is Kind.RESULT, envelope
        return decode_answer(envelope.payload)

    def call(self, name: str, **request: Any) -> Any:
        fields = {"method": "GET", **request}
        if isinstance(fields.get("query"), dict):
            fields["query"] = tuple(fields["query"].items())
        return self.answer(self.begin(name, FunctionRequest(**fields)))

    def open(self, name: str = "app", *, events: Iterable[Any] = (), **scope: Any) -> Exchange:
        full = {"type": "http", "path": "/", "raw_path": b"/", **scope}
        return Exchange(self, self.begin(name, Open.of(full, tuple(events))))

    def get(self, name: str = "app", **scope: Any) -> Response:
        """A whole request without a body, unless ``events`` are one."""
        scope.setdefault("events", [HttpRequest()])
        return self.open(name, **scope).response()

    def ask(self, name: str, *chunks: bytes, **scope: Any) -> Response:
        exchange = self.open(name, **scope)
        for number, chunk in enumerate(chunks):
            exchange.send({"type": "http.request", "body": chunk, "more_body": number + 1 < len(chunks)})
        return exchange.response()


@dataclasses.dataclass
class Response:
    """What a client would have seen; ``failure`` if the exchange failed. ``status`` 0: nothing came."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = dataclasses.field(default_factory=list)
    body: bytes = b""
    chunks: list[bytes] = dataclasses.field(default_factory=list)
    complete: bool = False
    failure: Failure | None = None
    others: list[dict[str, Any]] = dataclasses.field(default_factory=list)


class Exchange:
    """One exchange, seen from the gateway."""

    def __init__(self, gateway: Gateway, call_id: int) -> None:
        self.gateway = gateway
        self.call_id = call_id
        self.outflow = Outflow()
        self.inflow = Inflow()
        self.joiner = Joiner()
        self.end: Returned | Failure | None = None
        self.grants = True  # whether what is received is granted again
        self._events: deque[Any] = deque()

    def send(self, event: dict[str, Any], *, timeout_s: float = PATIENCE_S) -> None:
        """Raises TimeoutError when the shard gives no credit; does nothing once the exchange has ended."""
        for payload in payloads(client_event(event)):
            while not self.outflow.take(payload):
                if self.end is not None:
                    return
                if not self._hear(timeout_s):
                    raise TimeoutError("no credit")
            self.gateway.post(Kind.DATA, self.call_id, payload)

    def cancel(self) -> None:
        self.gateway.post(Kind.CANCEL, self.call_id)

    def receive(self, *, timeout_s: float = PATIENCE_S) -> dict[str, Any] | None:
        """The next event of the application; None: it has ended. Raises TimeoutError."""
        while not self._events:
            if self.end is not None:
                return None
            if not self._hear(timeout_s):
                raise TimeoutError("nothing from the application")
        event: dict[str, Any] = self._events.popleft().event()
        return event

    def _hear(self, timeout_s: float) -> bool:
        envelope = self.gateway.heard(self.call_id, timeout_s)
        if envelope is None:
            return False
        match envelope.kind:
            case Kind.CREDIT:
                self.outflow.granted(read_credit(envelope.payload))
            case Kind.DATA:
                cost = self.inflow.arrived(envelope.payload)
                self._enter(decode_application_events(envelope.payload))
                granted = self.inflow.used(cost) if self.grants else 0
                if granted:
                    self.gateway.post(Kind.CREDIT, self.call_id, CREDIT.pack(granted))
            case Kind.RESULT:
                answer = decode_answer(envelope.payload)
                assert isinstance(answer, Returned)
                self._enter(answer.events)
                self.end = answer
            case Kind.ERROR:
                self.end = decode_failure(envelope.payload)
            case kind:
                raise AssertionError(kind)
        return True

    def _enter(self, events: Iterable[Any]) -> None:
        for event in events:
            whole = self.joiner.add(event) if isinstance(event, WebSocketSend) else event
            if whole is not None:
                self._events.append(whole)

    def response(self) -> Response:
        """Everything until the application ended."""
        found = Response()
        while (event := self.receive()) is not None:
            match event["type"]:
                case "http.response.start":
                    found.status, found.headers = event["status"], event["headers"]
                case "http.response.body":
                    found.chunks.append(event["body"])
                    found.complete = not event["more_body"]
                case _:
                    found.others.append(event)
        found.body = b"".join(found.chunks)
        found.failure = self.end if isinstance(self.end, Failure) else None
        return found

    def finish(self) -> Returned | Failure:
        """Read until it has ended."""
        while self.receive() is not None:
            pass
        assert self.end is not None
        return self.end
