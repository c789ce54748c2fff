"""One trace from a call through every shard into every line; and no secret in any of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shardwright
import shardwright.errors
from cli_apps import write_app
from shardwright.node import LogLine, Node, Options, Running
from shardwright.telemetry import OwnLog

MANIFEST = """
[app]
name = "traced"
[components.front]
code = "front"
secrets = { API_KEY = "file:key" }
[components.middle]
code = "middle"
scope = "session"
[components.back]
code = "back"
state = "memory"
"""
FRONT = """
import asyncio, contextvars, logging, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import middle
log = logging.getLogger("front")
pool = ThreadPoolExecutor(1)
pool.submit(lambda: None).result()
def ask(number):
    print("front asks", number)
    return middle.ask(number)
def ask_from_a_thread(number):
    found = []
    def work():
        print("thread of front", number)
        found.append(middle.ask(number))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]
async def ask_from_tasks(number):
    async def one(n):
        print("task of front", n)
        await asyncio.sleep(0)
        log.warning("task warns %s", n)
        return await asyncio.to_thread(middle.ask, n)
    return await asyncio.gather(*(one(number * 100 + n) for n in range(3)))
def ask_from_a_pool(number):
    pool.submit(print, "pool without context", number).result()
    pool.submit(contextvars.copy_context().run, print, "pool with context", number).result()
def leak():
    key = os.environ["API_KEY"]
    print("the key is", key)
    log.error("json: %s", __import__("json").dumps({"key": key}))
    sys.stderr.write(repr(key) + chr(10))
    os.write(2, key.encode() + b"\\n")
    raise ValueError(f"rejected {key}")
def crash():
    sys.stderr.write("dying with " + os.environ["API_KEY"] + chr(10))
    os._exit(3)
"""
MIDDLE = """
import logging, sys
import back
logging.basicConfig(format="%(levelname)s [%(shardwright_trace)s] %(message)s", level="INFO", stream=sys.stdout)
def ask(number):
    logging.info("middle asks %s", number)
    return back.answer(number)
"""
BACK = """
import logging, sys
def answer(number):
    print("back answers", number, file=sys.stderr)
    logging.getLogger("back").warning("back warns %s", number)
    return number + 1
"""
SECRET = 'planted-"secret"-7f3a\n\tä'


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = write_app(tmp_path / "traced", MANIFEST, front=FRONT, middle=MIDDLE, back=BACK)
    (folder / "key").write_text(SECRET, encoding="utf-8")
    return folder


def lines(node: Node, of: Callable[[LogLine], bool], count: int) -> list[LogLine]:
    """At least so many lines, waited for: they come through pipes."""

    async def read() -> list[LogLine]:
        node.running.core.logs.drain()
        return node.running.core.logs.since()

    deadline = time.monotonic() + 20
    while True:
        found = [line for line in node.running.submit(read()).result() if of(line)]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.01)


def about(number: int) -> Callable[[LogLine], bool]:
    return lambda line: line.text.endswith(f" {number}")


def test_a_request_through_three_shards_has_one_trace(app: Path, tmp_path: Path) -> None:
    with (
        shardwright.start(app, state=tmp_path / "s") as node,
        node.session("one") as session,
        node.session("two") as other,
    ):
        assert session.call("front.ask", 7) == 8
        assert other.call("front.ask", 9) == 10
        assert session.call("front.ask", 11) == 12
        found = {number: lines(node, about(number), 4) for number in (7, 9, 11)}
    for number, mine in found.items():
        assert {line.component for line in mine} == {"front", "middle", "back"}, number
        assert {line.session for line in mine} == {"two" if number == 9 else "one"}
        (trace,) = {line.trace for line in mine}
        assert re.fullmatch("[0-9a-f]{32}", trace) and set(trace) != {"0"}
        # the user's own format has it too, where it asks for it
        (logged,) = [line.text for line in mine if line.component == "middle"]
        assert logged == f"INFO [{trace}] middle asks {number}"
    assert len({mine[0].trace for mine in found.values()}) == 3


@pytest.mark.parametrize("how", ["a_thread", "tasks"])
def test_the_trace_goes_along_into_threads_and_tasks(app: Path, tmp_path: Path, how: str) -> None:
    with (
        shardwright.start(app, state=tmp_path / "s") as node,
        node.session("one") as session,
    ):
        session.call(f"front.ask_from_{how}", 5)
        numbers = [5] if how == "a_thread" else [500, 501, 502]
        found = [line for number in numbers for line in lines(node, about(number), 4)]
        session.call("front.ask", 6)
        next_one = lines(node, about(6), 4)
    assert {line.component for line in found} == {"front", "middle", "back"}
    assert len({line.trace for line in found}) == 1 and found[0].trace
    # a plain thread of a shared component acts for the shard itself, and not for the session of who began it
    assert {line.session for line in found if line.component != "front"} == ({""} if how == "a_thread" else {"one"})
    assert {line.session for line in found if line.component == "front"} == {"one"}
    assert {line.trace for line in next_one}.isdisjoint({line.trace for line in found})


def test_threads_of_a_pool_work_for_many_and_take_the_context_that_they_are_given(app: Path, tmp_path: Path) -> None:
    with (
        shardwright.start(app, state=tmp_path / "s") as node,
        node.session("one") as session,
    ):
        session.call("front.ask_from_a_pool", 3)
        found = {line.text: line.trace for line in lines(node, about(3), 2)}
    assert found["pool without context 3"] == ""
    assert re.fullmatch("[0-9a-f]{32}", found["pool with context 3"])


def test_a_planted_secret_is_in_no_log_no_journal_no_event_and_no_number(app: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.log"
    with own.open("w") as stream:
        log = OwnLog(stream, level="debug")
        options = Options(state=tmp_path / "s", log=log)
        node = Node(Running(app, options))
        try:
            with node.session("one") as session:
                with pytest.raises(ValueError, match="planted"):  # what the program itself computes is not touched
                    session.call("front.leak")
                with pytest.raises(shardwright.errors.ShardLost):
                    session.call("front.crash")
                shown = lines(node, lambda line: "[secret]" in line.text, 5)
            node.running.submit(note(node, f"the shard said {SECRET}")).result()
            events = repr(node.running.events.since())
            numbers = node.metrics().decode()
            everything = repr(lines(node, lambda line: True, 0))
        finally:
            node.close()
            log.close()
    assert len(shown) >= 5
    journal = b"".join(path.read_bytes() for path in (tmp_path / "s").iterdir())
    said = own.read_text()
    assert b"the shard said [secret]" in journal and "the shard said [secret]" in said
    for text in (everything, events, numbers, said, journal.decode("utf-8", "replace")):
        assert "planted" not in text and "7f3a" not in text
    assert all(json.loads(line)["event"] for line in said.splitlines())


async def note(node: Node, text: str) -> None:
    node.running.core.record("note", text, inputs=(("said", text),))
