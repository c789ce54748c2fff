"""The OpenAPI document of functions behind routes, and whether they are as it says: schemathesis makes up the requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from jsonschema import Draft202012Validator

import shardwright
from cli_apps import write_app
from shardwright.node import Node

MANIFEST = """
[app]
name = "described"
[components.shop]
code = "shop"
[gateway]
bind = "127.0.0.1:0"
[[routes]]
path = "/items/{item}"
methods = ["GET"]
call = "shop.item"
[[routes]]
path = "/items"
methods = ["POST"]
call = "shop.add"
[[routes]]
path = "/search"
call = "shop.search"
[[routes]]
path = "/orders/{order}/lines/{line}"
methods = ["PUT", "PATCH", "DELETE"]
call = "shop.change"
[[routes]]
path = "/when"
methods = ["GET", "POST"]
call = "shop.when"
[[routes]]
path = "/files/{name:path}"
methods = ["GET"]
call = "shop.file"
[[routes]]
path = "/anything"
methods = ["POST"]
call = "shop.anything"
[[routes]]
path = "/total"
methods = ["POST"]
call = "shop.total"
[[routes]]
path = "/nothing"
methods = ["GET", "DELETE"]
call = "shop.nothing"
"""
SHOP = """
from __future__ import annotations
import datetime
import enum
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, TypedDict
import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]

class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"

@dataclass
class Size:
    width: int
    height: int = 1

@dataclass
class Item:
    name: str
    price: Decimal
    colour: Colour = Colour.RED
    tags: list[str] = field(default_factory=list)
    size: Size | None = None
    made: datetime.date | None = None

class Line(TypedDict):
    item: str
    amount: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    note: NotRequired[str]

def item(item: int, full: bool = False, colour: Colour | None = None) -> Item | None:
    return Item(str(item), Decimal(item), colour or Colour.RED) if item % 2 == 0 else None

def add(new: Item, dry: bool = True) -> Item:
    return new

def search(text: str, limit: int = 10, tags: list[str] = [], order: Literal["up", "down"] = "up") -> dict[str, Any]:
    return {"text": text, "limit": limit, "tags": tags, "order": order}

def change(order: uuid.UUID, line: int, amount: int = 1, note: str | None = None) -> list[str | int | None]:
    return [str(order), line, amount, note]

async def when(at: datetime.datetime, zone: Literal["utc", "local"] = "utc", share: float = 0.5) -> datetime.datetime:
    return at

def file(name: str, part: int | None = None) -> str:
    return name

def anything(**members: Any) -> dict[str, Any]:
    return members

def total(lines: list[Line], *, discount: Share = 0.0, weights: dict[str, int] = {}, pair: tuple[int, str] = (1, "a")) -> float:
    return sum(line["amount"] for line in lines) * (1 - discount)

def nothing() -> None:
    pass
"""
EXAMPLES = 30  # of each operation and mode
Record = Callable[[str, int], None]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    app = write_app(tmp_path / "described", MANIFEST, shop=SHOP)
    with shardwright.start(app, state=tmp_path / "s") as started:
        yield started


def document(node: Node) -> dict[str, Any]:
    with urlopen(node.urls[0] + "/openapi.json", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from inside(each)
    elif isinstance(value, list):
        for each in value:
            yield from inside(each)


def test_the_document_is_whole(node: Node) -> None:
    found = document(node)
    assert found["openapi"] == "3.1.0"
    for each in inside(found):
        if "$ref" in each:
            assert each["$ref"].removeprefix("#/components/schemas/") in found["components"]["schemas"]
        if "schema" in each:
            Draft202012Validator.check_schema(each["schema"])
    for schema in found["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [each["operationId"] for each in inside(found["paths"]) if "operationId" in each]
    assert len(names) == len(set(names)) >= 17
    search = found["paths"]["/search"]
    assert set(search) == {"delete", "get", "patch", "post", "put"}
    assert {each["name"] for each in search["get"]["parameters"]} == {"text", "limit", "tags", "order"}
    assert "requestBody" not in search["get"]
    assert not search["post"].get("parameters")
    body = search["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert (set(body["properties"]), body["required"]) == ({"text", "limit", "tags", "order"}, ["text"])
    assert [each["name"] for each in found["paths"]["/files/{name}"]["get"]["parameters"]] == ["name", "part"]
    (at,) = (each for each in found["paths"]["/when"]["get"]["parameters"] if each["name"] == "at")
    assert at["schema"] == {"type": "string", "format": "date-time"}
    anything = found["paths"]["/anything"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert anything == {"type": "object", "properties": {}, "additionalProperties": True}
    item = found["components"]["schemas"]["shop.Item"]["properties"]
    assert {each["type"] for each in item["price"]["anyOf"]} == {"string", "number"}


def test_functions_are_as_the_document_says(node: Node, record_exercised: Record) -> None:
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from schemathesis.specs.openapi.checks import negative_data_rejection

    schema = schemathesis.openapi.from_url(node.urls[0] + "/openapi.json")
    schema.validate()
    modes = schemathesis.GenerationMode
    asked = 0
    unwrongable: set[str] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in (modes.POSITIVE, modes.NEGATIVE):

            @settings(
                max_examples=EXAMPLES,
                deadline=None,
                derandomize=True,
                database=None,
                phases=(Phase.generate, Phase.shrink),
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def conforms(case: Any) -> None:
                nonlocal asked
                asked += 1
                # In a query one value and a list of one look the same, whatever the types were before they became text.
                listed = case.path == "/search" and bool(case.query)
                case.call_and_validate(timeout=30, excluded_checks=[negative_data_rejection] if listed else [])

            try:
                conforms()
            except Unsatisfiable:
                assert mode is modes.NEGATIVE
                unwrongable.add(f"{operation.method.upper()} {operation.path}")
    assert unwrongable == {"GET /nothing", "DELETE /nothing"}
    assert asked >= 300
    record_exercised("requests made up by schemathesis", asked)
    with urlopen(node.urls[0] + "/_shardwright/ready", timeout=30) as answer:
        assert answer.status == 200
