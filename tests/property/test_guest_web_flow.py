"""The flow of an exchange and the reading of requests, for any events and any values."""

from __future__ import annotations

import datetime
import json
import uuid
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.errors import ProtocolViolation
from shardwright.guest import (
    MAX_BATCH,
    PIECE,
    WINDOW,
    FunctionRequest,
    HttpRequest,
    Inflow,
    Joiner,
    Open,
    Outflow,
    ResponseBody,
    WebSocketReceive,
    client_event,
    decode_application_events,
    decode_asked,
    decode_client_events,
    encode_web,
    payload_of,
    payloads,
    pieces,
)
from shardwright.guest._web_convert import BadRequest, Reading
from shardwright.guest._web_values import encode_result

sizes = st.integers(0, 3 * PIECE) | st.sampled_from([0, 1, PIECE - 1, PIECE, PIECE + 1, WINDOW, 2 * WINDOW])
events = st.builds(lambda size, more: HttpRequest(b"x" * size, more), sizes, st.booleans())
messages = st.one_of(
    st.builds(lambda text: WebSocketReceive(text.encode(), text=True), st.text(max_size=50)),
    st.builds(lambda size: WebSocketReceive(b"\xfe" * size), sizes),
    st.builds(lambda size: WebSocketReceive("ü".encode() * (size // 2), text=True), sizes),
)


@given(event=events)
def test_cut_bodies_join_again(event: HttpRequest) -> None:
    parts = [part for payload in payloads(event) for part in decode_client_events(payload)]
    assert all(isinstance(part, HttpRequest) and len(part.body) <= PIECE for part in parts)
    assert b"".join(part.body for part in parts if isinstance(part, HttpRequest)) == event.body
    ends = [part.more_body for part in parts if isinstance(part, HttpRequest)]
    assert ends == [True] * (len(ends) - 1) + [event.more_body]


@given(sent=st.lists(messages, max_size=5))
def test_cut_messages_join_again(sent: list[WebSocketReceive]) -> None:
    joiner = Joiner()
    heard = []
    for message in sent:
        for payload in payloads(message):
            for part in decode_client_events(payload):
                assert isinstance(part, WebSocketReceive)
                whole = joiner.add(part)
                if whole is not None:
                    heard.append(whole)
    assert heard == sent
    assert [client_event(each.event()) for each in heard] == sent


@given(bodies=st.lists(sizes, min_size=1, max_size=12), greed=st.integers(1, 20))
def test_nobody_overdraws_and_nobody_starves(bodies: list[int], greed: int) -> None:
    """A sender that always sends what it may, and a receiver that takes ``greed`` messages at a time."""
    out, into = Outflow(), Inflow()
    wire: deque[bytes] = deque()
    todo = deque(payload for size in bodies for payload in payloads(ResponseBody(b"z" * size)))
    received = 0
    while todo or wire:
        before = len(todo), len(wire)
        while todo and out.take(todo[0]):
            wire.append(todo.popleft())
        assert sum(map(len, wire)) <= WINDOW
        for _ in range(min(greed, len(wire))):
            payload = wire.popleft()
            used = into.arrived(payload)
            received += len(decode_application_events(payload)[0].body)  # type: ignore[union-attr]
            granted = into.used(used)
            if granted:
                out.granted(granted)
        assert (len(todo), len(wire)) != before
    assert received == sum(bodies)
    assert 0 <= out.available <= WINDOW


@given(parts=st.lists(st.integers(0, 5000), min_size=2, max_size=MAX_BATCH))
def test_a_batch_costs_what_it_takes_on_the_wire(parts: list[int]) -> None:
    encoded = [piece for size in parts for piece in pieces(ResponseBody(b"z" * size, True))]
    alone = sum(76 + len(payload_of([piece])) for piece in encoded)
    together = 76 + len(payload_of(encoded))
    assert alone - together == 77 * (len(encoded) - 1)
    assert [each.body for each in decode_application_events(payload_of(encoded))] == [  # type: ignore[union-attr]
        b"z" * size for size in parts
    ]


@given(amount=st.integers(-5, 2**32))
def test_a_sender_believes_no_grant_that_it_is_not_owed(amount: int) -> None:
    out = Outflow()
    assert out.take(b"x" * 924)  # 1000 with its header
    if 0 < amount <= 1000:
        out.granted(amount)
    else:
        with pytest.raises(ProtocolViolation):
            out.granted(amount)


@given(noise=st.binary(max_size=200))
def test_noise_is_a_protocol_violation_or_a_message(noise: bytes) -> None:
    for decode in (decode_asked, decode_client_events, decode_application_events):
        try:
            decode(noise)
        except ProtocolViolation:
            pass


@given(
    scope=st.fixed_dictionaries(
        {
            "type": st.sampled_from(["http", "websocket"]),
            "path": st.text(st.characters(exclude_categories=["Cs"])),
            "raw_path": st.binary(),
            "query_string": st.binary(),
            "headers": st.lists(st.tuples(st.binary(), st.binary())),
            "client": st.none() | st.tuples(st.just("::1"), st.integers(0, 65535)),
        }
    )
)
def test_scopes_travel_as_they_are(scope: dict[str, Any]) -> None:
    heard = decode_asked(encode_web(Open.of(scope)))
    assert isinstance(heard, Open)
    for name, value in scope.items():
        found = getattr(heard, name)
        assert (list(found) if name == "headers" else found) == value


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Line:
    item: str
    count: int = 1
    tags: list[str] = field(default_factory=list)


@dataclass
class Order:
    lines: list[Line]
    when: datetime.datetime
    price: Decimal
    colour: Colour | None = None
    more: dict[str, int] = field(default_factory=dict)


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
numbers = st.integers(-(2**63), 2**63 - 1)
lines = st.builds(Line, words, numbers, st.lists(words, max_size=3))
orders = st.builds(
    Order,
    st.lists(lines, max_size=3),
    st.datetimes(timezones=st.just(datetime.UTC)),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.none() | st.sampled_from(Colour),
    st.dictionaries(words, numbers, max_size=3),
)


def takes(order: Order, n: int = 0) -> Order:
    return order


@given(order=orders)
def test_a_data_class_comes_as_its_own_json(order: Order) -> None:
    body = encode_result(order, "takes").body
    args, kwargs = Reading(takes, "takes").read(FunctionRequest("POST", body=body))
    assert (args, kwargs) == ([], {"order": order})
    assert vars(kwargs["order"]).keys() == vars(order).keys()
    assert encode_result(kwargs["order"], "takes").body == body


def scalars(
    a: int, b: float, c: bool, d: datetime.date, e: uuid.UUID, f: Colour, g: str, h: int | None = None
) -> None: ...


@given(
    values=st.tuples(
        numbers, st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.dates(), st.uuids(),
        st.sampled_from(Colour), words, st.none() | numbers,
    )
)  # fmt: skip
def test_scalars_come_as_text(values: tuple[Any, ...]) -> None:
    expected = dict(zip("abcdefgh", values, strict=True))
    plain = msgspec.to_builtins(expected)
    texts = tuple((name, value if isinstance(value, str) else json.dumps(value)) for name, value in plain.items())
    assert Reading(scalars, "scalars").read(FunctionRequest("GET", query=texts)) == ([], expected)


json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(body=json_values, query=st.lists(st.tuples(st.sampled_from("abcdeforder"), words), max_size=5))
def test_every_request_is_read_or_refused_with_reasons(body: Any, query: list[tuple[str, str]]) -> None:
    request = FunctionRequest("POST", query=tuple(query), body=msgspec.json.encode(body))
    for function in (takes, scalars):
        try:
            Reading(function, "it").read(request)
        except BadRequest as bad:
            problem = json.loads(bad.reply.body)
            assert bad.reply.status == problem["status"] == 422
            assert problem["errors"]
            for each in problem["errors"]:
                assert (each.keys() == {"where", "expected", "got"} and all(each.values())) or each["got"] == ""
