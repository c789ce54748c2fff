"""Plans as JSON and as text."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from shardwright.model.limits import Limits, Resources
from shardwright.model.scope import Scope, ScopeKind
from shardwright.model.shard import ShardPlan
from shardwright.sharding import plan_json, plan_text

FILES = {
    "web.py": "import stock\nasync def home(): return [stock.get('a'), list(stock.every())]\n",
    "stock.py": "import os\nSEEN = {}\ndef get(name):\n    SEEN[name] = os.environ['KEY']\ndef every():\n    yield 1\n",
    "keyed.py": "def push(world, dx): ...\ndef odd(): ...\n",
}


def make(plan_app: Any) -> ShardPlan:
    limits = Limits(Resources(cpu=0.25, memory_bytes=64 * 2**20))
    keyed = {"code": "keyed", "scope": Scope(ScopeKind.KEY, "world")}
    result: ShardPlan = plan_app(FILES, {"web": {"code": "web", "limits": limits}, "stock": "stock", "keyed": keyed})
    return result


def test_text(plan_app: Any) -> None:
    assert plan_text(make(plan_app)) == (
        """\
Plan of app: 3 shard definitions, 1 edge

component  code   scope      state   entry points  guarantee        depends on
---------  -----  ---------  ------  ------------  ---------------  ----------
web        web    shared     none    1             0.25 cpu, 64MiB  stock
stock      stock  shared     memory  2             -                -
keyed      keyed  key:world  none    2             -                -

Entry points
  web: home (async)
  stock: every (generator), get
  keyed: odd, push

Isolation, where it is auto
  web: namespace, for its code reaches no files, no network and no processes
  stock: namespace, for its code reaches no files, no network and no processes
  keyed: namespace, for its code reaches no files, no network and no processes

Edges
  web -> stock  [found, added]  calls every, get
      at web.py:2

Data dependencies
  stock: globals written stock:SEEN; environment KEY

Refusals (1)
  SW240  keyed.py:2: keyed.odd cannot be routed: it has no argument 'world'
         remedy: add the argument 'world', or move odd to a component of another scope

Notes (3)
  SW220  web.py:2: the edge web -> stock was added: calls every, get
         remedy: add 'stock' to its depends_on
  SW230  stock.py:4: stock keeps state in memory: SEEN is written after import
         remedy: set `state = "none"` if the state does not matter
  SW260  web.py:2: web calls generator every of stock; every item is asked for when its turn comes
         remedy: return a list where that is small, or list the generator in `ahead`
"""
    )


def test_json_is_plain_and_whole(plan_app: Any) -> None:
    plan = make(plan_app)
    found = plan_json(plan)
    assert json.loads(json.dumps(found)) == found
    assert [item["component"] for item in found["definitions"]] == ["web", "stock", "keyed"]
    assert found["definitions"][2]["scope"] == "key:world"
    assert found["definitions"][2]["entry_points"][1]["key"] == {
        "name": "world",
        "position": 0,
        "default": "",
        "annotation": "",
    }
    assert found["edges"][0]["sites"] == [{"path": "web.py", "line": 2}]
    assert [item["code"] for item in found["refusals"]] == ["SW240"]
    assert {item["module"] for item in found["modules"]} == {"web", "stock", "keyed"}
    assert all("stub_source" not in item for item in found["modules"])


def test_a_plan_travels_as_msgpack(plan_app: Any) -> None:
    plan = make(plan_app)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(plan), type=ShardPlan) == plan
