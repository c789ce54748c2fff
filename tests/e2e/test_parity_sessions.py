"""What sessions, scopes, losses and refusals mean is the same in processes and in one process."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import CannotCross, DeadlineExceeded, NotPermitted, Overloaded, ShardLost
from shardwright.node import Node

MANIFEST = """
[app]
name = "sessions"
[components.left]
code = "left"
scope = "session"
warm = { min = 1, max = 8 }
[components.again]
code = "again"
scope = "session"
reuse = true
warm = { min = 1, max = 1 }
[components.many]
code = "many"
scope = "session"
sessions_per_shard = 8
[components.right]
code = "right"
state = "memory"
queue = 4
[components.room]
code = "room"
scope = "key:name"
state = "memory"
[policy]
node_grace = "0s"
"""
LEFT = """
    import functools
    import threading

    import right
    import room

    _mine = []


    def mine(value):
        _mine.append(value)
        return list(_mine)


    def shared(value):
        return right.put(value)


    def from_thread(value):
        found = []
        thread = threading.Thread(target=lambda: found.append(right.put(value)))
        thread.start()
        thread.join()
        return found[0]


    def enter(name, who):
        return room.enter(name, who)


    def there_and_back(n):
        return 0 if n == 0 else 1 + right.back(n - 1)


    def hand_over(what):
        given = {
            "lock": threading.Lock(), "lambda": lambda: 1, "proxy": right.put, "file": open(__file__),
            "partial": functools.partial(right.put, 1), "module": threading, "nested": {"a": [1, (2, threading.Lock())]},
        }
        try:
            return right.keep(1, given[what])
        finally:
            given["file"].close()


    def take(what):
        return right.give(what)


    def slow(seconds):
        return right.sleep(seconds)


    def box():
        return right.Box()


    def write():
        right.Box().value = 3
"""
FILES = {
    "left.py": LEFT,
    "again.py": "import right\n\n\ndef shared(value):\n    return right.put(value)\n",
    "many.py": (
        "import right\n\n_box = {}\n\n\ndef shared(value):\n    return right.put(value)\n\n\n"
        "def made(who):\n    _box[who] = right.Box()\n    return _box[who].add(1)\n\n\n"
        "def more(who):\n    return _box[who].add(1)\n"
    ),
    "room.py": "_inside = []\n\n\ndef enter(name, who):\n    _inside.append(who)\n    return list(_inside)\n",
    "right.py": """
        import threading
        import time

        _kept = []


        class Box:
            def __init__(self):
                self.value = 0

            def add(self, n):
                self.value += n
                return self.value


        def put(value):
            _kept.append(value)
            return len(_kept)


        def back(n):
            import left
            return 0 if n == 0 else 1 + left.there_and_back(n - 1)


        def keep(first, second):
            return "kept"


        def give(what):
            return {"lock": threading.Lock(), "lambda": lambda: 1, "iterator": iter([1])}[what]


        def sleep(seconds):
            time.sleep(seconds)
            return seconds
    """,
}
MODES = ("processes", "inproc")


@pytest.fixture(params=MODES)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Node]:
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    for name, text in FILES.items():
        (app / name).write_text(textwrap.dedent(text).lstrip("\n"))
    with shardwright.start(app, inproc=request.param == "inproc", state=tmp_path / "state") as node:
        yield node
    for thread in threading.enumerate():  # calls that were cut off in this process run to their end
        if thread.name.startswith("right-"):
            thread.join(5)


def kill(node: Node, component: str) -> None:
    (shard,) = [shard for shard in node.shards() if shard.component == component]
    running = node.running
    if running._inproc is None:
        os.kill(shard.pid, signal.SIGKILL)
    else:
        running.submit(running._inproc.end(running.core.ports()[shard.id])).result(10)


def test_module_state_is_per_session_and_per_key(node: Node) -> None:
    with node.session("one") as one, node.session("two") as two:
        assert [one.call("left.mine", 1), two.call("left.mine", 2), one.call("left.mine", 3)] == [[1], [2], [1, 3]]
        assert one.call("left.enter", "wood", "ann") == ["ann"]
        assert two.call("left.enter", "wood", "bob") == ["ann", "bob"]
        assert two.call("left.enter", "sea", "bob") == ["bob"]
    with node.session("three") as three:
        assert three.call("left.mine", 4) == [4], "a shard that may not be reused is not"


def test_a_reused_shard_serves_the_next_session(node: Node) -> None:
    for turn in (1, 2, 3):
        with node.session() as session:
            assert session.call("again.shared", turn) == turn


def test_a_shard_that_multiplexes_sessions_calls_for_each(node: Node) -> None:
    with node.session("one") as one:
        assert one.call("many.made", "one") == 1
        with node.session("two") as two:
            assert two.call("many.shared", 0) == 1
            assert two.call("many.made", "two") == 1
        assert one.call("many.more", "one") == 2, "the end of another session takes no object away"


def test_a_thread_of_a_component_may_call(node: Node) -> None:
    with node.session("one") as one:
        assert one.call("left.from_thread", "x") == 1
        assert one.call("left.shared", "y") == 2


def test_two_sessions_call_back_and_forth_at_once(node: Node, record_exercised: Callable[[str, int], None]) -> None:
    with node.session("one") as one, node.session("two") as two, ThreadPoolExecutor(4) as pool:
        begun = time.monotonic()
        jobs = [pool.submit(session.call, "left.there_and_back", 40) for session in (one, two) * 2]
        assert [job.result(20) for job in jobs] == [40] * 4
        assert one.call("left.there_and_back", 200) == 200
        assert time.monotonic() - begun < 10
    record_exercised("calls there and back between two shards", 4 * 40 + 200)


@pytest.mark.parametrize("what", ["lock", "lambda", "proxy", "file", "partial", "module", "nested"])
def test_an_argument_that_cannot_cross_is_named(node: Node, what: str) -> None:
    types = {
        "lock": "lock", "lambda": "function", "proxy": "function", "file": "TextIOWrapper", "partial": "partial",
        "module": "module", "nested": "lock",
    }  # fmt: skip
    with node.session("one") as session:
        with pytest.raises(CannotCross) as refused:
            session.call("left.hand_over", what)
        text = str(refused.value)
        assert "right.keep()" in text
        assert "argument 2" in text or "'second'" in text or "second" in text
        assert types[what] in text
        assert refused.value.outcome == "failed"  # of right.keep() nothing was started, but left.hand_over() ran


@pytest.mark.parametrize(("what", "kind"), [("lock", "lock"), ("lambda", "function"), ("iterator", "list_iterator")])
def test_a_result_that_cannot_cross_is_named(node: Node, what: str, kind: str) -> None:
    with node.session("one") as session:
        with pytest.raises(CannotCross) as refused:
            session.call("left.take", what)
        assert "right.give()" in str(refused.value)
        assert "result" in str(refused.value)
        assert kind in str(refused.value)
        assert refused.value.outcome == "failed"


def test_what_a_cut_cannot_keep_is_refused_clearly(node: Node) -> None:
    with node.session("one") as session:
        with pytest.raises(AttributeError, match=r"cannot set Box\.value"):
            session.call("left.write")
        with pytest.raises(NotPermitted, match="did you mean 'left'"):
            session.call("lift.mine", 1)


def test_a_lost_shard_is_told_of_once(node: Node) -> None:
    with node.session("one") as one, node.session("two") as two:
        assert one.call("left.shared", 1) == 1
        box = one.call("left.box")
        assert box.add(1) == 1
        kill(node, "right")
        with pytest.raises(ShardLost):
            one.call("left.shared", 2)
        assert one.call("left.shared", 3) == 1, "fresh state, and it was said"
        with pytest.raises(ShardLost):
            box.add(1)
        assert two.call("left.shared", 4) == 2, "this session had no state there"


def test_deadlines_and_overload(node: Node) -> None:
    with node.session("one") as one, ThreadPoolExecutor(10) as pool:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            one.with_timeout(0.2).call("left.slow", 0.8)
        assert time.monotonic() - begun < 0.7
        jobs = [pool.submit(one.call, "right.sleep", 0.3) for _ in range(10)]
        errors = [error for error in (job.exception(20) for job in jobs) if error is not None]
        assert errors
        assert {type(error) for error in errors} == {Overloaded}
        assert {error.outcome for error in errors if isinstance(error, Overloaded)} == {"not started"}
