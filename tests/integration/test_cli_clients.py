"""Commands in another terminal: ps, call, logs, events, sessions, decisions, stop, against a node that really runs."""

from __future__ import annotations

import base64
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import shardwright as public
from cli_apps import Background, background, shardwright, write_app
from limits_here import need_limits
from shardwright.node import Node

MANIFEST = """
[app]
name = "shop"
[components.desk]
code = "desk"
scope = "session"
[components.store]
code = "store"
state = "memory"
limits = { cpu = 1.0, memory = "128MiB" }
"""
DESK = """
import dataclasses, enum, logging, sys, time
import store

class Colour(enum.Enum):
    RED = "red"

@dataclasses.dataclass
class Parcel:
    name: str
    colour: Colour
    content: bytes
    tags: frozenset
    size: tuple

log = logging.getLogger("desk")

def parcel(name, *, tag="plain"):
    print("packing", name)
    log.warning("heavy %s", name)
    return Parcel(name, Colour.RED, b"hi", frozenset({tag}), (1, 2.5))

def echo(*values, **named):
    return [list(values), named]

async def later(value):
    return value

def odd():
    return [float("nan"), 2 ** 80, 1 + 2j, {1: "one"}]

def fail(text):
    raise LookupError(text)

def quit():
    sys.exit(3)

def sleep(seconds):
    time.sleep(seconds)

def big(size):
    return "x" * size

def chatter(count):
    for number in range(count):
        print("line", number)

count = 0
def counted():
    global count
    count += 1
    return count
"""
STORE = "def stock(name):\n    return len(name)\n"


@pytest.fixture(scope="module")
def shop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("shop") / "shop", MANIFEST, desk=DESK, store=STORE)


@pytest.fixture
def shop(shop_folder: Path, tmp_path: Path) -> Iterator[Node]:
    with public.start(shop_folder, state=tmp_path / "state") as node:
        yield node


def test_ps_lists_the_shards(shop: Node, tmp_path: Path) -> None:
    with shop.session("visit"):
        done = shardwright(tmp_path, "ps", "--json")
        assert done.returncode == 0, done.stderr
        shards = json.loads(done.stdout)["shards"]
        assert {shard["component"] for shard in shards} == {"desk", "store"}
        (desk,) = (shard for shard in shards if shard["component"] == "desk")
        assert desk["sessions"] == ["visit"] and desk["scope"] == "session" and desk["usage"]["memory_bytes"] > 0
        plain = shardwright(tmp_path, "ps").stdout.splitlines()
        assert plain[0].split()[:3] == ["SHARD", "STATUS", "PID"]
        assert any(line.startswith("desk-") and "visit" in line for line in plain)
        held = json.loads(shardwright(tmp_path, "sessions", "--json").stdout)["sessions"]
        assert [session["name"] for session in held] == ["visit"] and len(held[0]["shards"]) == 2


@pytest.mark.parametrize("how", ["name", "folder", "manifest", "pid"])
def test_a_node_is_named_in_four_ways(shop: Node, shop_folder: Path, tmp_path: Path, how: str) -> None:
    import os

    target = {"name": "shop", "folder": str(shop_folder), "pid": str(os.getpid())}.get(
        how, str(shop_folder / "shardwright.toml")
    )
    assert shardwright(tmp_path, "ps", target, "--json").returncode == 0


def test_no_node_and_a_wrong_name(shop_folder: Path, tmp_path: Path) -> None:
    for command in (["ps"], ["call", "desk.echo"], ["logs"], ["events"], ["sessions"], ["decisions"], ["stop"]):
        done = shardwright(tmp_path, *command)
        assert done.returncode == 3, command
        assert "no node is running" in done.stderr and "shardwright run PATH" in done.stderr
    with public.start(shop_folder, state=tmp_path / "state"):
        done = shardwright(tmp_path, "ps", "shopp")
        assert done.returncode == 3 and "running: shop (pid" in done.stderr


def test_several_nodes_must_be_told_apart(shop: Node, tmp_path: Path) -> None:
    other = write_app(tmp_path / "other", "[app]\nname = 'other'\n[components.store]\ncode = 'store'\n", store=STORE)
    with public.start(other, state=tmp_path / "other-state"):
        done = shardwright(tmp_path, "ps")
        assert done.returncode == 2 and "other (pid" in done.stderr and "shop (pid" in done.stderr
        assert shardwright(tmp_path, "call", "other", "store.stock", "four").stdout == "4\n"


def test_call_prints_what_json_can_say(shop: Node, tmp_path: Path) -> None:
    def call(*words: str) -> object:
        done = shardwright(tmp_path, "call", *words)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert call("desk.parcel", "box", "-k", 'tag="frail"') == {
        "name": "box",
        "colour": "red",
        "content": {"__bytes__": base64.b64encode(b"hi").decode()},
        "tags": ["frail"],
        "size": [1, 2.5],
    }
    assert call("shop", "desk.echo", "1", '"1"', "plain text", "[null]", "-k", "a={}") == [
        [1, "1", "plain text", [None]],
        {"a": {}},
    ]
    assert call("desk.later", "true") is True
    strange = call("desk.odd")
    assert isinstance(strange, list) and strange[:3] == ["nan", str(2**80), "(1+2j)"] and strange[3] == {"1": "one"}


def test_a_session_is_joined_by_its_name(shop: Node, tmp_path: Path) -> None:
    with shop.session("visit") as session:
        assert session.call("desk.counted") == 1
        assert shardwright(tmp_path, "call", "desk.counted", "--session", "visit").stdout == "2\n"
        assert shardwright(tmp_path, "call", "desk.counted").stdout == "1\n"  # a session of its own
        assert session.call("desk.counted") == 3


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["desk.fail", "gone"], "LookupError: gone"),
        (["desk.fial", "gone"], "did you mean 'fail'?"),
        (["desc.fail"], "did you mean 'desk'?"),
        (["desk.quit"], "SystemExit"),
        (["desk.sleep", "30", "--timeout", "0.3"], "SW413"),
        (["desk.echo", "-k", "value=" + json.dumps({"__bytes__": "not base64!"})], "ase64"),
    ],
)
def test_a_failed_call_has_status_one_and_an_unknown_name_two(
    shop: Node, tmp_path: Path, words: list[str], says: str
) -> None:
    done = shardwright(tmp_path, "call", *words)
    assert done.returncode == (2 if "did you mean" in says else 1), done.stderr
    assert says in done.stderr and done.stdout == ""
    assert "shardwright/node" not in done.stderr and "shardwright/cli" not in done.stderr
    assert shardwright(tmp_path, "call", "desk.echo").returncode == 0  # the node is none the worse


def test_an_error_as_json(shop: Node, tmp_path: Path) -> None:
    done = shardwright(tmp_path, "call", "desk.fail", "gone", "--json")
    told = json.loads(done.stderr)["error"]
    assert told["type"] == "LookupError" and told["outcome"] == "failed" and "in fail" in told["traceback"]


def test_a_result_too_large_to_show(shop: Node, tmp_path: Path) -> None:
    done = shardwright(tmp_path, "call", "desk.big", str(17 << 20))
    assert done.returncode == 1 and "SW415" in done.stderr


def follow(tmp_path: Path, *arguments: str) -> Background:
    return Background(tmp_path, *arguments)


def test_logs_are_followed_by_shard_and_session(shop: Node, tmp_path: Path) -> None:
    with background(tmp_path, "logs", "-f") as everything, background(tmp_path, "logs", "-f", "--session", "b") as one:
        with shop.session("a") as a, shop.session("b") as b:
            a.call("desk.parcel", "first")
            b.call("desk.parcel", "second")
        line = everything.wait_for("packing first")
        assert line.split()[1].startswith("desk-") and " a | " in line
        everything.wait_for("WARNING desk: heavy first")
        everything.wait_for("packing second")
        one.wait_for("heavy second")
        assert one.end(signal.SIGINT) == 130
        assert not any("first" in line for line in one.seen)
        shop.close()
        assert everything.end() == 0  # the node's end is the end
    assert not any("Traceback" in line for line in everything.seen + one.seen)


def test_kept_logs(shop: Node, tmp_path: Path) -> None:
    with shop.session("a") as session:
        session.call("desk.chatter", 50)
        session.call("store.stock", "x")
    lines = [
        json.loads(line) for line in shardwright(tmp_path, "logs", "desk", "--json", "--tail", "3").stdout.splitlines()
    ]
    assert [line["text"] for line in lines] == ["line 47", "line 48", "line 49"]
    since = shardwright(tmp_path, "logs", "--since", str(lines[1]["sequence"]), "--json").stdout.splitlines()
    assert [json.loads(line)["text"] for line in since] == ["line 49"]
    assert shardwright(tmp_path, "logs", "store").stdout == ""


def test_a_reader_that_has_enough(shop: Node, tmp_path: Path) -> None:
    import subprocess
    import sys

    from cli_apps import environment

    with shop.session("a") as session:
        session.call("desk.chatter", 5000)
    pipeline = f"{sys.executable} -m shardwright logs | head -n 1"
    done = subprocess.run(
        ["bash", "-c", pipeline], capture_output=True, text=True, env=environment(tmp_path), timeout=30
    )
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


def test_events_and_decisions(shop: Node, tmp_path: Path) -> None:
    with background(tmp_path, "events", "-f", "--json") as events:
        events.wait_for('"ready"')
        with shop.session("visit"):
            pass
        line = json.loads(events.wait_for('"lease"'))
        assert line["kind"] == "lease" and line["sequence"] > 0
        assert events.end(signal.SIGINT) == 130
    rows = json.loads(shardwright(tmp_path, "decisions", "--kind", "launch", "--json").stdout)["decisions"]
    assert rows and all(row["kind"] == "launch" and row["reason"] for row in rows)
    assert "launch" in shardwright(tmp_path, "decisions").stdout
    number = str(rows[-1]["sequence"])
    assert json.loads(shardwright(tmp_path, "explain", "decision", number, "--json").stdout) == rows[-1]
    told = shardwright(tmp_path, "explain", "decision", number).stdout
    assert (
        f"decision {number}" in told and rows[-1]["reason"] in told and all(name in told for name in rows[-1]["inputs"])
    )
    unknown = shardwright(tmp_path, "explain", "decision", "999999")
    assert unknown.returncode != 0 and "there is no decision 999999" in unknown.stderr
    assert "keeps the minimum" in shardwright(tmp_path, "ps", "--pool").stdout


def test_what_a_shard_says_is_no_line_of_the_node_s(shop: Node, tmp_path: Path) -> None:
    forged = "fine\n00:00:00.000 stop      node                 killed\u2028by\x85me\rnow"
    shop.running.core.record("note", forged, component=next(iter(shop.shards())).component)
    lines = shardwright(tmp_path, "events").stdout
    assert "fine\\u000a00:00:00.000 stop" in lines and "killed\\u2028by\\u0085me\\u000dnow" in lines
    assert not any(line.startswith("00:00:00.000") for line in lines.splitlines())


def test_stop_waits_for_the_end(shop_folder: Path, tmp_path: Path) -> None:
    with background(tmp_path, "run", str(shop_folder)) as run:
        run.wait_for("shop is ready")
        done = shardwright(tmp_path, "stop", "shop", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"stopped": "shop", "pid": run.process.pid}
        assert run.end() == 0


def test_stop_ends_a_node_inside_somebody_s_program(shop: Node, tmp_path: Path) -> None:
    assert shardwright(tmp_path, "stop").returncode == 0
    assert not [t for t in threading.enumerate() if t.name == "shardwright-api-call"]


def test_resize_reads_back(shop: Node, tmp_path: Path) -> None:
    need_limits()
    done = shardwright(tmp_path, "resize", "store", "--max-memory", "96MiB", "--json")
    assert done.returncode == 0, done.stderr
    (limits,) = json.loads(done.stdout)["resized"].values()
    assert limits["ceiling"]["memory_bytes"] == 96 << 20
    assert shardwright(tmp_path, "resize", "store").returncode == 2
    assert shardwright(tmp_path, "resize", "nobody", "--cpu", "1").returncode == 2
    assert shardwright(tmp_path, "logs", "nobody").returncode == 2
