"""Shards in the user's own process: the same semantics as in processes, and nothing left when the node closes."""

from __future__ import annotations

import asyncio
import os
import re
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import (
    CannotCross,
    ComponentImportError,
    DeadlineExceeded,
    NotPermitted,
    Overloaded,
    ShardLost,
    StartFailed,
)
from shardwright.node import Node, Options, Running

MANIFEST = """
[app]
name = "inproc"
main = "front:main"
[components.front]
code = "front"
scope = "session"
[components.world]
code = "world"
scope = "key:name"
state = "memory"
[components.hub]
code = "hub"
state = "memory"
queue = 2
[policy]
node_grace = "0s"
"""
FILES = {
    "common.py": "seen = []\n\n\nclass Card:\n    def __init__(self, n):\n        self.n = n\n",
    "front.py": """
        import os
        import sys
        import threading

        import common
        import hub
        import world

        _mine = []


        def remember(value):
            _mine.append(value)
            common.seen.append(value)
            return list(_mine), list(common.seen)


        def everywhere(value):
            common.seen.append(value)
            return list(common.seen), hub.seen(value)


        def visit(name, who):
            return world.enter(name, who)


        def say(text):
            print(text)
            print(text, file=sys.stderr)


        def process():
            return os.getpid(), threading.current_thread().name


        def ping(n):
            return n if n == 0 else hub.pong(n - 1)


        def call_hub(seconds):
            return hub.sleep(seconds)


        def main():
            print("main on", threading.current_thread().name, "with", sys.argv[1:])
            print(hub.seen("from main"))
            sys.exit(int(sys.argv[1]))
    """,
    "world.py": """
        _inside = []


        def enter(name, who):
            _inside.append(who)
            return list(_inside)
    """,
    "hub.py": """
        import threading
        import time

        import common
        import front

        _lock = threading.Lock()
        _door = threading.Event()


        class Room:
            def __init__(self):
                self.people = []

            def come(self, who):
                self.people.append(who)
                return len(self.people)


        def seen(value):
            common.seen.append(value)
            return list(common.seen)


        def pong(n):
            return n if n == 0 else front.ping(n - 1)


        def sleep(seconds):
            time.sleep(seconds)
            return seconds


        def wait():
            _door.wait(10)
            return "waited"


        def lock():
            return _lock


        def take(value):
            return "taken"
    """,
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    (folder / "shardwright.toml").write_text(MANIFEST)
    for name, text in FILES.items():
        (folder / name).write_text(textwrap.dedent(text).lstrip("\n"))
    return folder


@pytest.fixture
def node(app: Path) -> Iterator[Node]:
    threads = set(threading.enumerate())
    modules = {name for name in ("front", "hub", "world", "common") if name in sys.modules}
    with shardwright.start(app, inproc=True, state=app / "state") as node:
        yield node
    assert set(threading.enumerate()) <= threads, "threads are left"
    assert {name for name in ("front", "hub", "world", "common") if name in sys.modules} == modules
    assert isinstance(asyncio.get_event_loop_policy(), asyncio.DefaultEventLoopPolicy)


def kill(node: Node, component: str) -> None:
    """What the death of a process is to the others."""
    running = node.running
    (port,) = [port for port in running.core.ports().values() if port.component == component]
    assert running._inproc is not None
    running.submit(running._inproc.end(port)).result(10)


def test_all_shards_live_in_this_process(node: Node) -> None:
    with node.session("one") as session:
        pid, thread = session.call("front.process")
        assert pid == os.getpid()
        assert thread != threading.current_thread().name
        status = node.shards()
        assert {s.component for s in status} >= {"front", "hub"}
        assert {(s.pid, s.start, s.transport) for s in status} == {(os.getpid(), "inproc", "inproc")}


def test_each_session_key_and_component_has_module_state_of_its_own(node: Node) -> None:
    with node.session("one") as one, node.session("two") as two:
        assert one.call("front.remember", 1) == ([1], [1])
        assert two.call("front.remember", 2) == ([2], [2])
        assert one.call("front.remember", 3) == ([1, 3], [1, 3])
        assert one.call("front.visit", "wood", "ann") == ["ann"]
        assert two.call("front.visit", "wood", "bob") == ["ann", "bob"], "one shard for each key"
        assert two.call("front.visit", "sea", "bob") == ["bob"]
        # common modules are each shard's own copy
        assert two.call("front.everywhere", "x") == ([2, "x"], ["x"])
        assert one.call("front.everywhere", "y") == ([1, 3, "y"], ["x", "y"])


def test_output_goes_to_the_terminal_of_the_user(node: Node, capfd: pytest.CaptureFixture[str]) -> None:
    with node.session("one") as session:
        session.call("front.say", "hello")
    out, err = capfd.readouterr()
    assert out == "hello\n"
    assert err == "hello\n"


def test_reentrant_calls_and_two_sessions_at_once_do_not_deadlock(
    node: Node, record_exercised: Callable[[str, int], None]
) -> None:
    with node.session("one") as one, node.session("two") as two, ThreadPoolExecutor(2) as pool:
        begun = time.monotonic()
        jobs = [pool.submit(session.call, "front.ping", 100) for session in (one, two) for _ in range(5)]
        assert [job.result(timeout=30) for job in jobs] == [0] * 10
        assert time.monotonic() - begun < 10
    record_exercised("re-entrant calls between shards in one process", 10 * 100)


def test_a_lost_shard_is_told_once_and_then_replaced(node: Node) -> None:
    with node.session("one") as session, ThreadPoolExecutor(1) as pool:
        room = session.call("hub.Room")
        assert room.come("ann") == 1
        waiting = pool.submit(session.call, "hub.sleep", 0.5)
        while not any(port.runtime.responder.busy for port in node.running.core.ports().values()):  # type: ignore[attr-defined]
            assert not waiting.done()
        kill(node, "hub")
        with pytest.raises(ShardLost) as lost:
            waiting.result(10)
        assert lost.value.outcome == "unknown"
        with pytest.raises(ShardLost):
            room.come("bob")
        assert session.call("hub.take", 1) == "taken"
    for thread in threading.enumerate():  # the call that was cut off runs to its end
        if re.fullmatch(r"hub-\d+", thread.name):
            thread.join(5)


def test_a_lost_shard_between_calls_is_told_to_every_session(node: Node) -> None:
    with node.session("one") as one, node.session("two") as two:
        assert one.call("front.everywhere", "x")[1] == ["x"]
        assert two.call("front.everywhere", "y")[1] == ["x", "y"]
        kill(node, "hub")
        for session in (one, two):
            with pytest.raises(ShardLost):
                session.call("front.everywhere", "z")
        assert one.call("front.everywhere", "z")[1] == ["z"]


def test_deadlines_travel(node: Node) -> None:
    with node.session("one") as session:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            session.with_timeout(0.2).call("front.call_hub", 1)
        assert time.monotonic() - begun < 0.9


def test_a_full_queue_is_an_overload(node: Node) -> None:
    with node.session("one") as session, ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(session.call, "hub.sleep", 0.3) for _ in range(8)]
        outcomes = [job.exception(timeout=10) for job in jobs]
    refused = [error for error in outcomes if error is not None]
    assert 1 <= len(refused) <= 7
    assert {type(error) for error in refused} == {Overloaded}


def test_what_cannot_cross_is_named(node: Node) -> None:
    with node.session("one") as session:
        with pytest.raises(CannotCross, match=r"(?s)hub\.take\(\).*(lock|Lock)"):
            session.call("hub.take", threading.Lock())
        with pytest.raises(CannotCross, match=r"(?s)hub\.lock\(\).*(lock|Lock)"):
            session.call("hub.lock")
        with pytest.raises(NotPermitted, match="did you mean 'take'"):
            session.call("hub.tak", 1)
        room = session.call("hub.Room")
        with pytest.raises(AttributeError, match=r"cannot set Room\.people"):
            room.people = []
        assert room.people == []


def test_the_program_runs_on_the_calling_thread(app: Path, capfd: pytest.CaptureFixture[str]) -> None:
    argv = sys.argv[:]
    running = Running(app, Options(inproc=True, argv=("inproc", "7"), state=app / "state"))
    try:
        finished = running.run_main()
    finally:
        running.close()
    assert finished.status == 7
    assert capfd.readouterr().out == "main on MainThread with ['7']\n['from main']\n"
    assert sys.argv == argv


def test_it_starts_within_a_running_event_loop(app: Path) -> None:
    async def notebook() -> list[object]:
        with shardwright.start(app, inproc=True, state=app / "state") as node, node.session("cell") as session:
            found = [session.call("front.ping", 4)]
        async with (
            shardwright.astart(app, inproc=True, state=app / "state") as anode,
            await anode.session("cell") as asession,
        ):
            found += await asyncio.gather(*(asession.call("hub.take", n) for n in range(2)))
        return found

    assert asyncio.run(notebook()) == [0, "taken", "taken"]


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("import no_such_module_here\n", ComponentImportError, ["hub", "no_such_module_here"]),
        ("def f(:\n", Exception, ["hub"]),
        ("raise SystemExit(3)\n", ComponentImportError, ["SystemExit"]),
        ("1 / 0\n", ComponentImportError, ["ZeroDivisionError"]),
    ],
)
def test_an_import_that_fails_is_the_users_own_traceback(
    app: Path, source: str, kind: type[Exception], words: list[str]
) -> None:
    (app / "hub.py").write_text(source)
    threads = set(threading.enumerate())
    with pytest.raises(kind) as failed:
        shardwright.start(app, inproc=True, state=app / "state")
    for word in words:
        assert word in str(failed.value)
    if isinstance(failed.value, ComponentImportError):
        assert "hub.py" in failed.value.user_traceback
        assert "shardwright/guest" not in failed.value.user_traceback
    assert set(threading.enumerate()) <= threads


def test_an_import_that_hangs_is_told_of(app: Path) -> None:
    manifest = (app / "shardwright.toml").read_text().replace('code = "hub"', 'code = "hub"\nstart_timeout = "300ms"')
    (app / "shardwright.toml").write_text(manifest)
    (app / "hub.py").write_text("import time\ntime.sleep(1)\n\n\ndef take(x):\n    return x\n")
    (app / "front.py").write_text("import hub\n\n\ndef f():\n    return hub.take(1)\n\n\ndef main():\n    return 0\n")
    with pytest.raises(StartFailed, match=r"hub did not become ready within 0\.3 s"):
        shardwright.start(app, inproc=True, state=app / "state")
    for thread in threading.enumerate():
        if thread.name.endswith("-import"):
            thread.join(5)


def test_a_module_imported_late_may_call_another_shard(app: Path) -> None:
    """The callee imports something itself meanwhile: the turn to import is put down with the baton."""
    (app / "late.py").write_text("VALUE = 5\n")
    (app / "hub.py").write_text("def take(x):\n    import late\n    return late.VALUE + x\n")
    (app / "front").mkdir()
    (app / "front.py").unlink()
    (app / "front" / "__init__.py").write_text(
        "def f():\n    from front import slow\n    return slow.GOT, slow.After().n\n"
    )
    (app / "front" / "slow.py").write_text(
        "from dataclasses import dataclass\nimport hub\nGOT = hub.take(1)\n\n\n@dataclass\nclass After:\n    n: 'int' = GOT\n"
    )
    manifest = (app / "shardwright.toml").read_text().replace('main = "front:main"', "")
    (app / "shardwright.toml").write_text(manifest)
    with shardwright.start(app, inproc=True, state=app / "state") as node, node.session("one") as session:
        assert session.call("front.f") == (6, 6)
        assert not {"front", "front.slow", "hub", "late"} & set(sys.modules)


@pytest.mark.parametrize("inproc", [True, False])
@pytest.mark.parametrize("start", ["spawn", "auto", "template"])
def test_a_call_while_a_component_is_imported(app: Path, inproc: bool, start: str) -> None:
    """Possible where each shard imports for itself; a template has no peers."""
    manifest = (app / "shardwright.toml").read_text()
    manifest = manifest.replace('code = "front"', f'code = "front"\nstart = "{start}"\nwarm = {{ min = 1, max = 4 }}')
    (app / "shardwright.toml").write_text(manifest)
    (app / "hub.py").write_text("def take(x):\n    import common\n    return x, common.seen\n")
    (app / "front.py").write_text(
        "import hub\nGOT = hub.take(1)\n\n\ndef f():\n    return GOT\n\n\ndef main():\n    pass\n"
    )
    if start == "template":
        with pytest.raises((ComponentImportError, StartFailed), match=r"front.*hub"):
            shardwright.start(app, inproc=inproc, state=app / "state")
        return
    with shardwright.start(app, inproc=inproc, state=app / "state") as node, node.session("one") as session:
        assert session.call("front.f") == (1, [])


def test_secrets_are_in_the_environment_while_it_runs(app: Path) -> None:
    (app / "key").write_text("hush\n")
    manifest = (
        (app / "shardwright.toml")
        .read_text()
        .replace('code = "hub"', 'code = "hub"\nsecrets = { SW_TEST_KEY = "file:key" }')
    )
    (app / "shardwright.toml").write_text(manifest)
    (app / "hub.py").write_text(
        "import os\n\nKEY = os.environ['SW_TEST_KEY']\n\n\ndef take(x):\n    return KEY\n\n\ndef seen(v):\n    return v\n\n\n"
        "def pong(n):\n    return n\n\n\ndef sleep(s):\n    return s\n"
    )
    with shardwright.start(app, inproc=True, state=app / "state") as node, node.session("one") as session:
        assert session.call("hub.take", 0) == "hush"
    assert "SW_TEST_KEY" not in os.environ
