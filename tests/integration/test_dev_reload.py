"""Other code in a running node: what is replaced and what is kept, that no call fails, and who is told of lost state."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright as public
from cli_apps import background, shardwright, write_app
from dev_terminals import begin
from guest_apps import journal_rows
from shardwright.errors import ComponentImportError, NodeError, PlanError, ShardLost
from shardwright.node import Node

MANIFEST = """
[app]
name = "rolling"
[components.front]
code = "front"
scale = { min = 2, max = 2 }
[components.pricing]
code = "pricing"
scale = { min = 1, max = 1 }
[components.counter]
code = "counter"
[components.basket]
code = "basket"
scope = "session"
"""
FRONT = """
import common
import pricing

def total(n):
    return pricing.price(n) + common.fee()
"""
PRICING = """
import time

def price(n):
    time.sleep(0.002)
    return n * 10
"""
COUNTER = """
seen = 0

def count():
    global seen
    seen += 1
    return seen
"""
BASKET = """
items = []

def add(item):
    items.append(item)
    return list(items)
"""


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return write_app(
        tmp_path / "app", MANIFEST, front=FRONT, pricing=PRICING, counter=COUNTER, basket=BASKET,
        common="def fee():\n    return 1\n", unused="x = 1\n",
    )  # fmt: skip


@pytest.fixture(params=["process", "inproc"])
def node(app: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    with public.start(app, inproc=request.param == "inproc", state=app / ".state") as node:
        yield node


def edit(app: Path, module: str, before: str, after: str) -> None:
    path = app / f"{module}.py"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def shards(node: Node) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for shard in node.shards():
        found.setdefault(shard.component, set()).add(shard.id)
    return found


def test_only_what_changed_is_replaced(app: Path, node: Node) -> None:
    with node.session("one") as session:
        assert session.call("front.total", 3) == 31
        assert session.call("counter.count") == 1
        assert session.call("basket.add", "a") == ["a"]
        before = shards(node)
        done = node.reload()
        assert done.replaced == {} and set(done.kept) == {"front", "pricing", "counter", "basket"}
        edit(app, "pricing", "n * 10", "n * 100")
        (app / "unused.py").write_text("x = 2\n")
        done = node.reload()
        assert set(done.replaced) == {"pricing"} and done.told == ()
        assert set(done.replaced["pricing"]) == before["pricing"]
        after = shards(node)
        assert after["pricing"].isdisjoint(before["pricing"]) and len(after["pricing"]) == 1
        assert {name: after[name] for name in after if name != "pricing"} == {
            name: before[name] for name in before if name != "pricing"
        }
        assert session.call("front.total", 3) == 301
        assert session.call("counter.count") == 2
        assert session.call("basket.add", "b") == ["a", "b"]


def test_common_code_replaces_those_that_import_it(app: Path, node: Node) -> None:
    with node.session() as session:
        before = shards(node)
        edit(app, "common", "return 1", "return 2")
        done = node.reload()
        assert set(done.replaced) == {"front"} and set(done.replaced["front"]) == before["front"]
        assert session.call("front.total", 1) == 12


def test_a_surface_that_changed_replaces_its_callers_too(app: Path, node: Node) -> None:
    with node.session() as session:
        assert session.call("front.total", 1) == 11
        edit(app, "pricing", "def price(n):", "def shout():\n    return 'loud'\n\ndef price(n):")
        done = node.reload()
        assert set(done.replaced) == {"pricing", "front"}
        assert session.call("pricing.shout") == "loud"
        assert session.call("front.total", 1) == 11
        edit(app, "pricing", "def shout", "def whisper")  # another at its place: numbers must not mix them up
        node.reload()
        assert session.call("pricing.whisper") == "loud"
        assert session.call("front.total", 2) == 21
        with pytest.raises(AttributeError, match="shout"):
            session.call("pricing.shout")


def test_lost_state_is_told_to_those_who_had_it_there(app: Path, node: Node) -> None:
    with node.session("first") as first, node.session("second") as second:
        assert first.call("counter.count") == 1
        assert first.call("basket.add", "a") == ["a"]
        assert second.call("basket.add", "b") == ["b"]
        edit(app, "basket", "return list(items)", "return sorted(items)")
        done = node.reload()
        assert set(done.replaced) == {"basket"} and set(done.told) == {"first", "second"}
        for session in (first, second):
            with pytest.raises(ShardLost):
                session.call("basket.add", "z")
            assert session.call("basket.add", "y") == ["y"]
        assert second.call("counter.count") == 2
        edit(app, "counter", "seen += 1", "seen += 10")
        done = node.reload()
        assert set(done.replaced) == {"counter"} and "first" in done.told
        with pytest.raises(ShardLost):
            first.call("counter.count")
        assert first.call("counter.count") == 10
        assert len(shards(node)["counter"]) == 1
    rows = [row[3] for row in journal_rows(app, "reload")]
    assert any("first" in row and "state" in row for row in rows), rows


def test_lost_state_is_told_where_the_caller_is_replaced_with_it(app: Path, node: Node) -> None:
    """Its surface changes, so those who call it are replaced too, and with them whoever would have told of the loss."""
    edit(app, "front", "import pricing\n", "import counter\nimport pricing\n")
    edit(app, "front", "def total", "def count():\n    return counter.count()\n\ndef total")
    node.reload()
    with node.session("first") as first, node.session("second") as second:
        assert [first.call("front.count"), second.call("front.count")] == [1, 2]
        for round_ in ("one", "two"):
            edit(app, "counter", "def count():", f"def {round_}():\n    return 0\n\ndef count():")
            done = node.reload()
            assert set(done.replaced) == {"counter", "front"} and set(done.told) == {"first", "second"}
            for number, session in enumerate((first, second)):
                with pytest.raises(ShardLost, match="counter"):
                    session.call("front.count")
                assert session.call("front.count") == number + 1
        with node.session("later") as later:
            assert later.call("front.count") == 3, "who had no state there lost none"


@pytest.mark.parametrize(
    ("module", "text", "error"),
    [
        ("pricing", "def price(n:\n", PlanError),
        ("pricing", "raise RuntimeError('not today')\ndef price(n):\n    return n\n", ComponentImportError),
    ],
)
def test_a_mistake_is_told_and_the_old_code_goes_on(
    app: Path, node: Node, module: str, text: str, error: type[Exception]
) -> None:
    with node.session() as session:
        assert session.call("front.total", 3) == 31
        before, good = shards(node), (app / f"{module}.py").read_text()
        (app / f"{module}.py").write_text(text)
        with pytest.raises(error):
            node.reload()
        assert shards(node) == before
        assert session.call("front.total", 4) == 41
        (app / f"{module}.py").write_text(good)
        assert node.reload().replaced == {}
        edit(app, "pricing", "n * 10", "n * 20")
        assert set(node.reload().replaced) == {"pricing"}
        assert session.call("front.total", 1) == 21


def test_a_mistake_that_only_a_shard_can_meet_keeps_the_old_one(app: Path, node: Node) -> None:
    """It asks its owner for a name while it is imported, which no template can."""
    with node.session() as session:
        before, good = shards(node), (app / "front.py").read_text()
        (app / "front.py").write_text("from pricing import nothing_of_the_kind\ndef total(n):\n    return 1\n")
        done = node.reload()
        assert done.replaced == {"front": ()} and len(done.notes) == 2 and "old code" in done.notes[0]
        assert done.failed == ("front",) and "nothing_of_the_kind" in done.notes[0]
        assert session.call("front.total", 3) == 31
        assert before["front"] <= shards(node)["front"]
        (app / "front.py").write_text(good)
        assert set(node.reload().replaced["front"]) >= before["front"]
        assert session.call("front.total", 3) == 31


def test_what_only_a_new_node_can_take_up_is_refused(app: Path, node: Node) -> None:
    manifest = app / "shardwright.toml"
    good = manifest.read_text()
    manifest.write_text(good.replace('scope = "session"', 'scope = "shared"'))
    with pytest.raises(NodeError, match="scope"):
        node.reload()
    manifest.write_text(good + '[components.unused]\ncode = "unused"\n')
    with pytest.raises(NodeError, match="unused is new"):
        node.reload()
    with node.session() as session:
        assert session.call("front.total", 3) == 31


def test_no_call_fails_while_code_is_replaced_under_load(
    app: Path, node: Node, record_exercised: Callable[[str, int], None]
) -> None:
    """Front and pricing have no state: every call in flight ends, and the next one goes to the new code."""
    stop = threading.Event()
    results: list[int] = []

    def load(session: Any) -> None:
        while not stop.is_set():
            results.append(session.call("front.total", 1))

    sessions = [node.session() for _ in range(4)]
    running = [begin(load, session) for session in sessions]
    try:
        for generation in range(1, 7):
            before = len(results)
            while len(results) < before + 20 and not any(future.done() for future in running):
                stop.wait(0.005)
            if generation % 2:
                edit(app, "pricing", "n * 1", "n * 11")  # 10, 110, 1110, ...
            else:
                edit(app, "common", f"return {generation // 2}", f"return {generation // 2 + 1}")
            done = node.reload()
            assert len(done.replaced) == 1 and not done.told and not done.notes
            assert len(shards(node)["front"]) == 2 and len(shards(node)["pricing"]) == 1
    finally:
        stop.set()
    for future in running:
        future.result(30)  # none failed
    for session in sessions:
        session.end()
    orders = [result for result, _ in itertools.groupby(results)]
    assert {11, 1114} <= set(results) | {1114} and len(orders) >= 6
    record_exercised("calls while code was replaced", len(results))


def test_the_command_reloads_with_every_change(tmp_path: Path, app: Path) -> None:
    def total() -> str:
        done = shardwright(tmp_path, "call", "rolling", "front.total", "3")
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    with background(tmp_path, "run", str(app), "--reload") as running:
        running.wait_for("is ready")
        assert total() == "31"
        edit(app, "pricing", "n * 10", "n * 20")
        assert "pricing (1)" in running.wait_for("replaced in")  # "code changed" where it has just begun to look
        running.wait_for("kept:")
        assert total() == "61"
        good = (app / "pricing.py").read_text()
        (app / "pricing.py").write_text("def price(n:\n")
        running.wait_for("error SW2")
        running.wait_for("old code goes on")
        assert total() == "61"
        (app / "pricing.py").write_text("boom = 1 / 0\ndef price(n):\n    return n\n")
        running.wait_for("ZeroDivisionError")
        running.wait_for("old code goes on")
        assert total() == "61"
        (app / "pricing.py").write_text(good.replace("n * 20", "n * 30"))
        assert "pricing.py changed" in running.wait_for("replaced in")
        assert total() == "91"
        assert "nothing has changed" in shardwright(tmp_path, "reload", "rolling").stdout
        assert running.end(signal.SIGTERM) == 0
