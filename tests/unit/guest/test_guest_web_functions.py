"""Functions behind routes: arguments from path, query and body as their annotations say; answers and refusals."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guest_web import Gateway, WebShard
from shardwright.guest import Describe, Described, Failure, FunctionReply, FunctionRequest, Open
from shardwright.guest._web_convert import BadRequest, Reading
from shardwright.model.envelope import Kind

SOURCE = """
    from __future__ import annotations

    import datetime
    import functools
    import uuid
    from dataclasses import dataclass, field
    from decimal import Decimal
    from enum import Enum
    from pathlib import PurePosixPath
    from typing import Annotated, Any, Literal, NamedTuple, Optional, TypedDict, TYPE_CHECKING

    import msgspec

    if TYPE_CHECKING:
        from nowhere import Thing

    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    @dataclass
    class Line:
        item: str
        count: int = 1

    @dataclass
    class Order:
        lines: list[Line]
        note: Optional[str] = None

    class Options(TypedDict, total=False):
        dry: bool

    class Point(NamedTuple):
        x: float
        y: float

    def text(a: str): return a
    def number(a: int): return a
    def real(a: float): return a
    def flag(a: bool): return a
    def day(a: datetime.date): return a
    def moment(a: datetime.datetime): return a
    def span(a: datetime.timedelta): return a
    def name(a: uuid.UUID): return a
    def money(a: Decimal): return a
    def colour(a: Colour): return a.name
    def literal(a: Literal["x", "y"]): return a
    def maybe(a: int | None = None): return a
    def numbers(a: list[int]): return a
    def distinct(a: set[int] = frozenset()): return sorted(a)
    def small(a: Annotated[int, msgspec.Meta(le=10)]): return a
    def where(a: PurePosixPath): return a
    def inferred(a=3, b="x", c=False): return [a, b, c]
    def bare(a): return a
    def keyword(*, a: int, b: int = 2): return [a, b]
    def positional(a: int, b: int = 2, /): return [a, b]
    def more(a: int, **rest: int): return [a, rest]
    def unresolved(a: int, b: Thing = None): return [a, b]

    def order(order: Order): return order
    def order_and_more(order: Order, dry: bool = False): return [len(order.lines), dry]
    def two(order: Order, options: Options): return [len(order.lines), options]
    def mapping(a: dict[str, int]): return a
    def point(point: Point): return point.x
    def reserve(item: str, count: int = 1): return {"item": item, "count": count}

    def decorate(function):
        @functools.wraps(function)
        def inner(*args, **kwargs):
            return ["decorated", function(*args, **kwargs)]
        return inner

    @decorate
    def wrapped(a: int): return a

    async def later(a: int): return a + 1
    def secretly_async(a: int): return later(a)

    def nothing(): return None
    def unwritable(): return object()
    def results(): return [{1, 2}, b"x", (Decimal("1.5"), Point(1, 2)), datetime.date(2024, 2, 29), Colour.RED, {1: 2}]
    def wide(): return 2**70

    class NotFound(Exception):
        status_code = 404

    class Teapot(Exception):
        http_status = 418

    class Sly(Exception):
        status_code = 200

    def missing(): raise NotFound("no such thing")
    def teapot(): raise Teapot("short and stout")
    def sly(): raise Sly("not you")
    def breaks(): raise ValueError("of this only the log may tell")
    async def breaks_later(): raise KeyError("key")

    class Unshowable(Exception):
        def __str__(self): raise ValueError

    def unshowable(): raise Unshowable
    def exits(): raise SystemExit(3)
    def surrogates(): raise ValueError("\\ud800" * 3000)

    class Ledger:
        def __init__(self): self.n = 0
        def add(self, a: int): self.n += a
"""


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebShard]:
    made = WebShard(tmp_path_factory.mktemp("functions"), SOURCE)
    yield made
    made.close()


@pytest.fixture
def gateway(shard: WebShard) -> Iterator[Gateway]:
    made = shard.gateway()
    yield made
    made.channel.close()  # a peer may have only so many


def value(reply: Any) -> Any:
    assert isinstance(reply, FunctionReply), reply
    assert (reply.status, reply.content_type) == (200, "application/json"), reply.body
    return json.loads(reply.body)


def errors(reply: Any, status: int = 422) -> list[dict[str, str]]:
    assert isinstance(reply, FunctionReply), reply
    problem = json.loads(reply.body)
    assert (reply.status, reply.content_type, problem["status"]) == (status, "application/problem+json", status)
    assert problem["type"] and problem["title"] and problem["detail"]
    found: list[dict[str, str]] = problem.get("errors", [])
    return found


GOOD = [
    ("text", "x ü", "x ü"),
    ("text", "3", "3"),
    ("number", "3", 3),
    ("number", "-12345678901", -12345678901),
    ("real", "1.5", 1.5),
    ("real", "2", 2.0),
    ("flag", "true", True),
    ("flag", "0", False),
    ("day", "2024-02-29", "2024-02-29"),
    ("moment", "2024-02-29T12:00:00Z", "2024-02-29T12:00:00Z"),
    ("span", "PT1S", "PT1S"),
    ("name", "12345678123456781234567812345678", "12345678-1234-5678-1234-567812345678"),
    ("money", "1.10", "1.10"),
    ("colour", "blue", "BLUE"),
    ("literal", "y", "y"),
    ("maybe", "4", 4),
    ("maybe", "null", None),
    ("numbers", "7", [7]),
    ("small", "10", 10),
    ("where", "/a/b", "/a/b"),
    ("bare", "3", "3"),
    ("keyword", "3", [3, 2]),
    ("positional", "3", [3, 2]),
    ("unresolved", "3", [3, None]),
    ("wrapped", "3", ["decorated", 3]),
    ("later", "3", 4),
    ("secretly_async", "3", 4),
]


@pytest.mark.parametrize("place", ["path", "query"])
@pytest.mark.parametrize(("function", "text", "expected"), GOOD)
def test_text_becomes_what_the_annotation_says(
    gateway: Gateway, function: str, text: str, expected: Any, place: str
) -> None:
    assert value(gateway.call(function, **{place: {"a": text}})) == expected


BAD = [
    ("number", "x", "int"),
    ("number", "", "int"),
    ("number", "1.5", "int"),
    ("flag", "maybe", "bool"),
    ("day", "2024-02-30", "date"),
    ("name", "12", "UUID"),
    ("money", "x", "Decimal"),
    ("colour", "green", "Colour"),
    ("literal", "z", "Literal['x', 'y']"),
    ("maybe", "x", "int | null"),
    ("numbers", "x", "int"),
    ("small", "11", "int <= 10"),
    ("later", "x", "int"),
]


@pytest.mark.parametrize(("function", "text", "expected"), BAD)
def test_text_that_does_not_fit_is_named(gateway: Gateway, function: str, text: str, expected: str) -> None:
    (error,) = errors(gateway.call(function, query={"a": text}))
    assert error == {"where": "query.a", "expected": expected, "got": text}


def test_lists_come_from_repeated_names(gateway: Gateway) -> None:
    assert value(gateway.call("numbers", query=(("a", "1"), ("a", "2")))) == [1, 2]
    assert value(gateway.call("distinct", query=(("a", "2"), ("a", "1"), ("a", "2")))) == [1, 2]
    assert value(gateway.call("distinct")) == []
    (error,) = errors(gateway.call("number", query=(("a", "1"), ("a", "2"))))
    assert error == {"where": "query.a", "expected": "one value", "got": "2 values"}


def test_missing_and_superfluous_arguments(gateway: Gateway) -> None:
    assert errors(gateway.call("number")) == [{"where": "query.a", "expected": "int", "got": "nothing"}]
    assert errors(gateway.call("reserve", method="POST")) == [
        {"where": "body.item", "expected": "str", "got": "nothing"}
    ]
    assert value(gateway.call("number", query={"a": "1", "utm_source": "mail"})) == 1
    assert value(gateway.call("more", query={"a": "1", "b": "2"})) == [1, {"b": 2}]
    assert value(gateway.call("inferred", query={"a": "5", "c": "true"})) == [5, "x", True]
    assert errors(gateway.call("inferred", query={"a": "x"}))[0]["expected"] == "int"


def test_the_members_of_a_body_are_arguments(gateway: Gateway) -> None:
    assert value(gateway.call("reserve", method="POST", body=b'{"item": "sword", "count": 2}')) == {
        "item": "sword",
        "count": 2,
    }
    # what the body lacks may be in the query, and the path comes first
    assert value(gateway.call("reserve", method="POST", body=b'{"item": "s"}', query={"count": "3"}))["count"] == 3
    assert value(gateway.call("reserve", method="PUT", path={"item": "p"}, body=b'{"count": 4}')) == {
        "item": "p",
        "count": 4,
    }
    both = b'{"order": {"lines": [{"item": "a"}]}, "options": {"dry": true}}'
    assert value(gateway.call("two", method="POST", body=both)) == [1, {"dry": True}]


def test_a_body_is_strict(gateway: Gateway) -> None:
    (error,) = errors(gateway.call("reserve", method="POST", body=b'{"item": "s", "count": "2"}'))
    assert error == {"where": "body.count", "expected": "int", "got": "str"}
    found = errors(gateway.call("reserve", method="POST", body=b'{"item": 1, "count": 2.5, "extra": []}'))
    assert {each["where"] for each in found} == {"body.item", "body.count", "body.extra"}
    assert errors(gateway.call("reserve", method="POST", body=b"[1]")) == [
        {"where": "body", "expected": "object", "got": "array"}
    ]


def test_one_data_class_is_the_body(gateway: Gateway) -> None:
    body = b'{"lines": [{"item": "a"}, {"item": "b", "count": 2}]}'
    assert value(gateway.call("order", method="POST", body=body))["lines"][0] == {"item": "a", "count": 1}
    assert value(gateway.call("order_and_more", method="POST", body=body, query={"dry": "1"})) == [2, True]
    assert value(gateway.call("mapping", method="POST", body=b'{"x": 1}')) == {"x": 1}
    (error,) = errors(gateway.call("order", method="POST", body=b'{"lines": [{"item": "a"}, {"item": 2}]}'))
    assert error == {"where": "body.lines[1].item", "expected": "str", "got": "int"}
    (error,) = errors(gateway.call("order", method="POST", body=b'{"lines": [{}]}'))
    assert error == {"where": "body.lines[0].item", "expected": "a value", "got": "nothing"}
    assert errors(gateway.call("order", method="POST")) == [{"where": "body", "expected": "Order", "got": "nothing"}]


@pytest.mark.parametrize("body", [b"{", b"nul", b"\xff\xfe", b'{"a": 1}}', b"[" * 100_000, b'{"a": NaN}', b"'x'"])
def test_malformed_json_is_400(gateway: Gateway, body: bytes) -> None:
    assert errors(gateway.call("number", method="POST", body=body), 400) == []


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/merge-patch+json", 200),
        ("", 200),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=latin-1", 415),
        ("application/jsonp", 415),
        ("\x00;;;charset", 415),
    ],
)
def test_bodies_are_json(gateway: Gateway, content_type: str, status: int) -> None:
    reply = gateway.call("number", method="POST", body=b'{"a": 1}', content_type=content_type)
    assert reply.status == status


def test_results(gateway: Gateway) -> None:
    assert value(gateway.call("nothing")) is None
    assert value(gateway.call("results")) == [
        [1, 2], "eA==", ["1.5", [1.0, 2.0]], "2024-02-29", "red", {"1": 2},
    ]  # fmt: skip
    failed = gateway.call("unwritable")
    assert isinstance(failed, Failure) and failed.type == "TypeError" and "unwritable()" in failed.message


def test_exceptions(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        for function, status in [("missing", 404), ("teapot", 418), ("sly", None)]:
            failed = gateway.call(function)
            assert isinstance(failed, Failure)
            assert (failed.status, failed.outcome, failed.code) == (status, "failed", "")
        assert [record.name for record in caplog.records] == ["shardwright.web"]  # what was meant is no mishap
        caplog.clear()
        failed = gateway.call("breaks")
        assert (failed.type, failed.message) == ("ValueError", "of this only the log may tell")
        assert "in breaks" in caplog.text and "only the log may tell" in caplog.text
        assert "shardwright/guest" not in caplog.text  # its traceback is the user's
    assert gateway.call("breaks_later").type == "KeyError"
    assert gateway.call("unshowable").type == "Unshowable"
    assert gateway.call("exits").type == "SystemExit"
    assert len(gateway.call("surrogates").message) <= 10_000
    assert value(gateway.call("nothing")) is None


def test_what_no_route_names_is_not_reached(shard: WebShard, gateway: Gateway) -> None:
    for name in ("Ledger", "Ledger.add"):
        refused = gateway.call(name, query={"a": "1"})
        assert isinstance(refused, Failure) and (refused.code, refused.outcome) == ("SW416", "not started")
    elsewhere = shard.gateway("web").call("nothing")  # a component of the user's cannot speak for clients
    assert isinstance(elsewhere, Failure) and elsewhere.code == "SW416"
    opened = gateway.answer(gateway.begin("nothing", Open(type="http", path="/")))
    assert isinstance(opened, Failure) and opened.code == "SW416"
    assert value(gateway.call("nothing")) is None


def test_a_deadline_that_passed(gateway: Gateway) -> None:
    failed = gateway.answer(gateway.begin("nothing", FunctionRequest("GET"), deadline_ns=1))
    assert isinstance(failed, Failure) and (failed.code, failed.outcome) == ("SW413", "not started")


def test_an_unknown_path_argument_is_the_manifests_mistake(gateway: Gateway) -> None:
    failed = gateway.call("nothing", path={"a": "1"})
    assert isinstance(failed, Failure) and failed.type == "TypeError" and "'a'" in failed.message


def described(gateway: Gateway, name: str, path: tuple[str, ...] = (), method: str = "GET") -> dict[str, Any]:
    answer = gateway.answer(gateway.begin(name, Describe(path, method)))
    assert isinstance(answer, Described), answer
    found: dict[str, Any] = json.loads(answer.operation)
    return found


def test_description(gateway: Gateway) -> None:
    found = described(gateway, "reserve", ("item",))
    assert found["parameters"] == [
        {"name": "item", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "count", "in": "query", "required": False, "schema": {"type": "integer", "default": 1}},
    ]
    assert "requestBody" not in found
    found = described(gateway, "reserve", (), "POST")
    schema = found["requestBody"]["content"]["application/json"]["schema"]
    assert (schema["required"], sorted(schema["properties"])) == (["item"], ["count", "item"])
    assert schema["additionalProperties"] is False
    found = described(gateway, "order_and_more", (), "POST")
    assert found["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/shop.Order"}
    assert [each["name"] for each in found["parameters"]] == ["dry"]
    assert sorted(found["schemas"]) == ["shop.Line", "shop.Order"]


def test_everything_can_be_described(
    shard: WebShard, gateway: Gateway, record_exercised: Callable[[str, int], None]
) -> None:
    routes = [route for route in shard.plan.routes if route.kind == "function"]
    for route in routes:
        for method in ("GET", "POST"):
            assert described(gateway, route.name.removeprefix("shop."), (), method)["responses"]
    record_exercised("functions described", 2 * len(routes))


def test_functions_run_one_at_a_time_in_their_session(tmp_path: Path) -> None:
    shard = WebShard(
        tmp_path,
        """
        import time
        from shardwright.guest import current_call
        inside = 0

        def enters():
            global inside
            inside += 1
            found = inside
            time.sleep(0.01)
            inside -= 1
            return [found, current_call.get().session_name, current_call.get().trace_id.hex()]
        """,
    )
    try:
        gateway = shard.gateway()
        trace = bytes(range(16))
        calls = [gateway.begin("enters", FunctionRequest("GET"), trace_id=trace) for _ in range(10)]
        for call in calls:
            assert value(gateway.answer(call)) == [1, "one", trace.hex()]
    finally:
        shard.close()


def test_a_float_without_a_fraction_is_an_integer_of_json() -> None:
    def both(whole: int, part: float, several: list[dict[str, int]]) -> None: ...

    reading = Reading(both, "both")

    def read(body: bytes) -> dict[str, Any]:
        return reading.read(FunctionRequest("POST", {}, (), body, "application/json"))[1]

    found = read(b'{"whole": 2.0, "part": 2.0, "several": [{"a": 1e3, "b": -0.0}]}')
    assert found == {"whole": 2, "part": 2.0, "several": [{"a": 1000, "b": 0}]}
    assert [type(found["whole"]), type(found["part"])] == [int, float]
    for wrong in (b"2.5", b"1e400", b"[" * 400 + b"1.5" + b"]" * 400):
        with pytest.raises(BadRequest):
            read(b'{"whole": ' + wrong + b', "part": 1, "several": []}')


@pytest.mark.parametrize("first", ["a call", "a late credit", "late data"])
def test_a_shard_without_routes_refuses_whoever_asks_for_the_gateway(tmp_path: Path, first: str) -> None:
    """The gateway's half is not even there before: it must come, and refuse, by itself."""
    shard = WebShard(tmp_path, "ran = []\ndef add(a: int): ran.append(a)\n", routed=False)
    try:
        gateway = shard.gateway()
        if first == "a late credit":  # for an exchange that is over: nobody's, and no violation
            gateway.post(Kind.CREDIT, 7, b"\0\0\0\1")
        elif first == "late data":
            gateway.post(Kind.DATA, 7, b"x")
        failed = gateway.call("add", query={"a": "1"})
        assert isinstance(failed, Failure) and (failed.code, failed.outcome) == ("SW416", "not started")
        assert "no route leads" in failed.message
        assert shard.module().ran == []
    finally:
        shard.close()
