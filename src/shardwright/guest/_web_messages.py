"""What the gateway and a shard say to each other about requests of the web: typed, plain data, in msgpack.

Neither side trusts the other. Every message is decoded strictly into one of these classes, and whatever does not fit is a
ProtocolViolation: no name in it is looked up, nothing in it runs. ``docs/protocol.md`` says in which envelopes they travel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from shardwright.errors import Outcome, ProtocolViolation

Headers = tuple[tuple[bytes, bytes], ...]
Status = Annotated[int, msgspec.Meta(ge=100, le=599)]
ClientFault = Annotated[int, msgspec.Meta(ge=400, le=499)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, forbid_unknown_fields=True):
    pass


CONTINUE = "http.response.continue"
"""The extension by which a gateway asks to be told when the application wants the body. Applications never see it."""

# -- events from the client to an application ---------------------------------------------------------------------


class HttpRequest(_Message, frozen=True, tag="request"):
    body: bytes = b""
    more_body: bool = False

    def event(self) -> dict[str, Any]:
        return {"type": "http.request", "body": self.body, "more_body": self.more_body}


class HttpDisconnect(_Message, frozen=True, tag="gone"):
    def event(self) -> dict[str, Any]:
        return {"type": "http.disconnect"}


class WebSocketConnect(_Message, frozen=True, tag="connect"):
    def event(self) -> dict[str, Any]:
        return {"type": "websocket.connect"}


class WebSocketReceive(_Message, frozen=True, tag="receive"):
    """A message of the client, or, with ``more``, a piece of it; text travels as UTF-8 and may be cut anywhere."""

    data: bytes
    text: bool = False
    more: bool = False

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.receive", **_content(self)}


class WebSocketDisconnect(_Message, frozen=True, tag="closed"):
    code: int = 1005
    reason: str = ""

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.disconnect", "code": self.code, "reason": self.reason}


# -- events from an application to the client ---------------------------------------------------------------------


class ResponseStart(_Message, frozen=True, tag="start"):
    status: Status
    headers: Headers = ()
    trailers: bool = False

    def event(self) -> dict[str, Any]:
        return {
            "type": "http.response.start",
            "status": self.status,
            "headers": list(self.headers),
            "trailers": self.trailers,
        }


class ResponseBody(_Message, frozen=True, tag="body"):
    body: bytes = b""
    more_body: bool = False

    def event(self) -> dict[str, Any]:
        return {"type": "http.response.body", "body": self.body, "more_body": self.more_body}


class ResponseTrailers(_Message, frozen=True, tag="trailers"):
    headers: Headers = ()
    more_trailers: bool = False

    def event(self) -> dict[str, Any]:
        return {
            "type": "http.response.trailers",
            "headers": list(self.headers),
            "more_trailers": self.more_trailers,
        }


class EarlyHint(_Message, frozen=True, tag="hint"):
    links: tuple[bytes, ...] = ()

    def event(self) -> dict[str, Any]:
        return {"type": "http.response.early_hint", "links": list(self.links)}


class Continue(_Message, frozen=True, tag="continue"):
    """The application asks for the body; sent once, and just where the gateway lists CONTINUE among its extensions.

    So a client that expects 100 Continue hears it when its body is wanted, and not when it is refused unread.
    """

    def event(self) -> dict[str, Any]:
        return {"type": "http.response.continue"}


class WebSocketAccept(_Message, frozen=True, tag="accept"):
    subprotocol: str | None = None
    headers: Headers = ()

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.accept", "subprotocol": self.subprotocol, "headers": list(self.headers)}


class WebSocketSend(_Message, frozen=True, tag="send"):
    """A message of the application, or, with ``more``, a piece of it; text travels as UTF-8 and may be cut anywhere."""

    data: bytes
    text: bool = False
    more: bool = False

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.send", **_content(self)}


class WebSocketClose(_Message, frozen=True, tag="close"):
    code: int = 1000
    reason: str = ""

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.close", "code": self.code, "reason": self.reason}


class DenialStart(_Message, frozen=True, tag="deny"):
    """A handshake is answered by a response (extension ``websocket.http.response``)."""

    status: Status
    headers: Headers = ()

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.http.response.start", "status": self.status, "headers": list(self.headers)}


class DenialBody(_Message, frozen=True, tag="denial"):
    body: bytes = b""
    more_body: bool = False

    def event(self) -> dict[str, Any]:
        return {"type": "websocket.http.response.body", "body": self.body, "more_body": self.more_body}


ClientEvent = HttpRequest | HttpDisconnect | WebSocketConnect | WebSocketReceive | WebSocketDisconnect
ApplicationEvent = (
    ResponseStart
    | ResponseBody
    | ResponseTrailers
    | EarlyHint
    | Continue
    | WebSocketAccept
    | WebSocketSend
    | WebSocketClose
    | DenialStart
    | DenialBody
)


# -- the payload of CALL ------------------------------------------------------------------------------------------


class FunctionRequest(_Message, frozen=True, tag="function"):
    """Call a function: its arguments are in the path, the query and the body, still as text."""

    method: str
    path: dict[str, str] = {}
    query: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    content_type: str = ""


class Describe(_Message, frozen=True, tag="describe"):
    """Say what a function takes and gives. ``path`` names the arguments that come from the path."""

    path: tuple[str, ...] = ()
    method: str = "GET"


class Open(_Message, frozen=True, tag="open"):
    """Open an exchange with an application: the scope of ASGI as plain data, and the first events that the client sent."""

    type: Literal["http", "websocket"]
    path: str
    raw_path: bytes = b""
    method: str = "GET"  # of http
    scheme: str = "http"
    http_version: str = "1.1"
    root_path: str = ""
    query_string: bytes = b""
    headers: Headers = ()
    client: tuple[str, Port] | None = None
    server: tuple[str, Port | None] | None = None
    subprotocols: tuple[str, ...] = ()  # of websocket
    extensions: tuple[str, ...] = ()  # what the gateway can honour
    events: tuple[ClientEvent, ...] = ()

    @classmethod
    def of(cls, scope: dict[str, Any], events: Sequence[ClientEvent] = ()) -> Open:
        """The message for a scope as an ASGI server makes it; what does not travel (state, asgi, tls) is left out."""
        client, server = scope.get("client"), scope.get("server")
        return cls(
            type=scope["type"],
            path=scope["path"],
            raw_path=bytes(scope.get("raw_path") or b""),
            method=scope.get("method", "GET"),
            scheme=scope.get("scheme", "http"),
            http_version=scope.get("http_version", "1.1"),
            root_path=scope.get("root_path", ""),
            query_string=bytes(scope.get("query_string", b"")),
            headers=tuple((bytes(name), bytes(value)) for name, value in scope.get("headers", ())),
            client=None if client is None else (client[0], client[1]),
            server=None if server is None else (server[0], server[1]),
            subprotocols=tuple(scope.get("subprotocols", ())),
            extensions=tuple(scope.get("extensions") or ()),
            events=tuple(events),
        )


Asked = FunctionRequest | Describe | Open


# -- the payload of RESULT and ERROR ------------------------------------------------------------------------------


class FunctionReply(_Message, frozen=True, tag="reply"):
    """What the function gave, or why it was not called (RFC 9457), ready to be sent."""

    status: Status
    body: bytes = b""
    content_type: str = "application/json"


class Described(_Message, frozen=True, tag="described"):
    """``operation``: JSON with ``parameters``, ``requestBody``, ``responses`` and ``schemas`` of OpenAPI 3.1."""

    operation: bytes


class Returned(_Message, frozen=True, tag="returned"):
    """The application has returned; ``events`` are the last that it sent."""

    events: tuple[ApplicationEvent, ...] = ()


class Failure(_Message, frozen=True, tag="failure"):
    """The call or exchange did not come to its end.

    ``code`` is that of the error if it is one of Shardwright's ("SW412"), else empty; ``type`` and ``message`` are for the
    log, never for the client. ``status`` is what the exception itself asks for.
    """

    type: str
    message: str = ""
    code: str = ""
    outcome: Outcome = "failed"
    remedy: str = ""
    status: ClientFault | None = None


Answer = FunctionReply | Described | Returned

_Any = TypeVar("_Any")
_encoder = msgspec.msgpack.Encoder()
_asked: msgspec.msgpack.Decoder[Asked] = msgspec.msgpack.Decoder(Asked)
_client_events = msgspec.msgpack.Decoder(tuple[ClientEvent, ...])
_application_events = msgspec.msgpack.Decoder(tuple[ApplicationEvent, ...])
_answer: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_failure = msgspec.msgpack.Decoder(Failure)


def encode_web(message: Asked | Answer | Failure | ClientEvent | ApplicationEvent) -> bytes:
    """The payload of a CALL, RESULT or ERROR of codec WEB; an event, as it stands inside a DATA."""
    return _encoder.encode(message)


def decode_asked(payload: bytes | memoryview) -> Asked:
    """The payload of a CALL. Raises ProtocolViolation."""
    return _decode(_asked, payload, "a call of the gateway")


def decode_client_events(payload: bytes | memoryview) -> tuple[ClientEvent, ...]:
    """The payload of a DATA that the gateway sent. Raises ProtocolViolation."""
    return _decode(_client_events, payload, "events of a client")


def decode_application_events(payload: bytes | memoryview) -> tuple[ApplicationEvent, ...]:
    """The payload of a DATA that a shard sent. Raises ProtocolViolation."""
    return _decode(_application_events, payload, "events of an application")


def decode_answer(payload: bytes | memoryview) -> Answer:
    """The payload of a RESULT. Raises ProtocolViolation."""
    return _decode(_answer, payload, "an answer")


def decode_failure(payload: bytes | memoryview) -> Failure:
    """The payload of an ERROR. Raises ProtocolViolation."""
    return _decode(_failure, payload, "a failure")


def _decode(decoder: msgspec.msgpack.Decoder[_Any], payload: bytes | memoryview, what: str) -> _Any:
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"{what} cannot be read: {error!s:.200}") from None


# -- between the events of ASGI and messages ----------------------------------------------------------------------

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


def check_headers(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raises ValueError, naming the header, when one would not stay one header on the wire."""
    for name, value in headers:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.100} is not a header name")
        if not _VALUE.fullmatch(value):
            raise ValueError(f"the header {name.decode()!r:.100} has a value with control characters")


def client_event(event: dict[str, Any]) -> ClientEvent:
    """The message for an event that an ASGI server would give to an application."""
    match event["type"]:
        case "http.request":
            return HttpRequest(bytes(event.get("body", b"")), bool(event.get("more_body", False)))
        case "http.disconnect":
            return HttpDisconnect()
        case "websocket.connect":
            return WebSocketConnect()
        case "websocket.receive":
            text = event.get("text")
            if text is not None:
                return WebSocketReceive(text.encode(), text=True)
            return WebSocketReceive(bytes(event["bytes"]))
        case "websocket.disconnect":
            return WebSocketDisconnect(event.get("code", 1005), event.get("reason") or "")
    raise ValueError(f"{event['type']!r} is not an event of a client")


def _content(message: WebSocketReceive | WebSocketSend) -> dict[str, Any]:
    if not message.text:
        return {"bytes": message.data}
    try:
        return {"text": message.data.decode()}
    except UnicodeDecodeError as error:
        raise ProtocolViolation(f"a text message is not UTF-8: {error}") from None
