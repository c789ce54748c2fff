"""A running node when something in it goes wrong: whoever waits hears of it, nothing is held for ever, nothing stays."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import journal_rows, running, write_application
from shardwright.errors import CallError, InternalError, NotPermitted, SandboxError, StartFailed, WouldDeadlock
from shardwright.guest import Bind, Route
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits
from shardwright.node import Running
from shardwright.node._bindings import CLIENT
from shardwright.node._inproc import InprocPort
from shardwright.node._port import ShardPort
from waiting import eventually

MANIFEST = """
[app]
name = "defects"
[components.a]
code = "a"
scope = "session"
state = "memory"
resources = { cpu = 0.01, memory = "16MiB" }
[components.r]
code = "r"
scope = "request"
state = "none"
resources = { cpu = 0.01, memory = "16MiB" }
[components.s]
code = "s"
state = "none"
scale = { min = 2, max = 2 }
resources = { cpu = 0.01, memory = "16MiB" }
"""
MODULES = {
    "a": "import os, r\ndef pid():\n    return os.getpid()\ndef go():\n    return r.one()\n",
    "r": "def one():\n    return 1\n",
    "s": "def two():\n    return 2\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_application(tmp_path / "app", MANIFEST, **MODULES)


@pytest.fixture
def node(folder: Path) -> Iterator[Any]:
    with shardwright.start(folder, state=folder / ".state", inproc=True) as found:
        yield found


def on_loop(running: Running, work: Callable[[], Any]) -> Any:
    """Run it on the node's loop."""

    async def run() -> Any:
        return work()

    return running.submit(run()).result(10)


def test_a_session_hears_that_files_ran_out_and_the_next_one_begins(folder: Path) -> None:
    with running(folder) as node:
        with node.session() as session:
            session.call("a.pid")
        assert eventually(lambda: len(node.running.core.ports()) == 2)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest_free)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, before[1]))
            with pytest.raises(StartFailed, match="Too many open files"):
                node.session(timeout_s=3)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        with node.session() as session:
            assert session.call("a.go") == 1


def test_few_files_are_said_once(folder: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
        with shardwright.start(folder, state=folder / ".state", inproc=True):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    said = [reason for _, _, _, reason in journal_rows(folder, "limits") if "1024 open files" in reason]
    assert len(said) == 1


def test_the_keeper_refuses_what_it_does_not_have_and_lives(folder: Path) -> None:
    with running(folder) as node:
        with pytest.raises(SandboxError, match="gone-1 has ended"):
            node.running.submit(node.running._keeper.resize(ShardId("gone-1"), Limits())).result(10)
        with node.session() as session:
            assert session.call("a.go") == 1


def test_decisions_go_on_while_the_journal_is_locked(node: Any, folder: Path) -> None:
    core = node.running.core
    events: list[str] = []
    core.events.subscribe(lambda recorded: events.append(recorded.event.kind))
    other = sqlite3.connect(folder / ".state" / "journal.sqlite3", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        begun_s = time.monotonic()
        with node.session("while-locked") as session:
            assert session.call("a.go") == 1
        assert time.monotonic() - begun_s < 5
        seen = on_loop(node.running, lambda: core.journal.tail(1000))
        assert any(row.kind == "lease" and row.session == "while-locked" for row in seen)
        assert on_loop(node.running, lambda: core.journal.waiting) > 0
        other.execute("ROLLBACK")
        assert eventually(lambda: on_loop(node.running, lambda: core.journal.waiting) == 0)
        kinds = [kind for kind, *_ in journal_rows(folder)]
        assert kinds.count("launch") == kinds.count("ready") and "lease" in kinds
        assert events.count("journal") == 1
    finally:
        other.close()


def test_what_is_asked_for_after_the_end_of_the_session_is_refused_and_holds_nothing(node: Any) -> None:
    core = node.running.core
    session = node.session()
    number = session._live.number
    session.end()
    with pytest.raises(NotPermitted, match="the session has ended"):
        node.running.submit(core.shards.acquire(number, ComponentName("a"), None)).result(10)
    assert not any(record.sessions for record in core.records())


def test_a_session_that_ends_while_a_shard_starts_for_it_gets_nothing(node: Any) -> None:
    core = node.running.core
    session = node.session()
    number = session._live.number

    async def late() -> None:
        asking = asyncio.ensure_future(core.bindings.bind(CLIENT, Bind(0, "r", number, None, None, ())))
        for _ in range(3):
            await asyncio.sleep(0)
        core.end_session(number)
        await asking

    with pytest.raises((NotPermitted, shardwright.errors.CompositionRefused)):
        node.running.submit(late()).result(10)
    assert eventually(lambda: not on_loop(node.running, lambda: any(r.sessions for r in core.records())))
    session.end()


def test_a_shard_that_has_ended_begins_no_session_of_its_own(node: Any) -> None:
    core = node.running.core
    caller = Peer(ComponentName("a"), ShardId("a-gone"))
    with pytest.raises(NotPermitted, match="a-gone has ended"):
        node.running.submit(core.bindings.bind(caller, Bind(0, "r", SessionNumber(0), None, None, ()))).result(10)
    assert not core.bindings._own and not core._sessions


def test_nothing_is_kept_of_shards_that_ended(node: Any) -> None:
    core = node.running.core
    with node.session() as session:
        for _ in range(3):
            assert session.call("a.go") == 1
        alive = eventually(
            lambda: on_loop(node.running, lambda: core._sessions[session._live.number].told <= set(core.ports()))
        )
        assert alive
    assert eventually(lambda: not core.bindings._own and not core.bindings._requests)

    def kept() -> set[str]:
        known = {shard for callers in core.bindings._callers.values() for shard in callers} | set(core.logs._last)
        return known - {record.id for record in core.records()} - {"node"}

    assert eventually(lambda: not on_loop(node.running, kept))


def test_endpoints_of_a_binding_that_fails_half_way_are_disposed_of(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    core = node.running.core
    transport = core.bindings.between(CLIENT, ComponentName("a"))
    pair, made = transport.pair, []

    def once() -> tuple[Endpoint, Endpoint]:
        if made:
            raise OSError(24, "Too many open files")
        made.append(pair())
        found: tuple[Endpoint, Endpoint] = made[0]
        return found

    session = node.session()
    monkeypatch.setattr(transport, "pair", once)
    with pytest.raises(OSError):
        node.running.submit(core.bindings.bind(CLIENT, Bind(0, "s", session._live.number, None, None, ()))).result(10)
    assert made and not transport._unopened
    session.end()


def test_a_shard_that_cannot_be_linked_for_want_of_descriptors_is_told_so(
    node: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = node.running.core
    unhandled: list[object] = []
    on_loop(node.running, lambda: core._loop.set_exception_handler(lambda _, context: unhandled.append(context)))
    asked: list[ShardPort] = []
    with node.session() as session:
        session.call("a.pid")

        def none_left() -> tuple[Endpoint, Endpoint]:
            raise OSError(errno.ETOOMANYREFS, "Too many references: cannot splice")

        with monkeypatch.context() as patch:
            patch.setattr(core.bindings.between(CLIENT, ComponentName("a")), "pair", none_left)
            patch.setattr(InprocPort, "stop_hoarding", lambda port: asked.append(port))
            with pytest.raises(CallError, match="r cannot be linked now: Too many references") as refused:
                session.call("a.go")
            assert "raise `ulimit -n`" in refused.value.remedy
        assert asked
        assert not core.bindings._requests, "the shard that was made for the request is given back"
        assert session.call("a.go") == 1
    assert not unhandled


def test_a_shard_that_is_replaced_before_it_is_linked_is_not_linked(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    core = node.running.core
    composer, acquired = core.shards.composer, core.bindings._acquired
    granted: list[ShardId] = []

    async def replaced(*arguments: Any) -> ShardId:
        shard: ShardId = await acquired(*arguments)
        granted.append(shard)
        if len(granted) == 1:
            composer.supersede(shard, core.shards.now())
        return shard

    session = node.session()
    monkeypatch.setattr(core.bindings, "_acquired", replaced)
    links = node.running.submit(core.bindings.bind(CLIENT, Bind(0, "s", session._live.number, None, None, ()))).result(
        10
    )
    assert len(granted) == 2 and granted[0] not in {peer.shard for peer, _ in links}
    for _, endpoint in links:
        core.bindings._wires.dispose(endpoint)
    node.running.submit(core.shards.drain_shard(granted[0], 1.0)).result(10)
    session.end()


def test_one_defect_in_the_regular_work_is_recorded_and_not_fatal(
    node: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = node.running.core.shards

    def broken(*_: object) -> None:
        raise ZeroDivisionError("in a test")

    with monkeypatch.context() as patch:
        patch.setattr(shards.composer, "expire", broken)
        timer = shards._timer
        for _ in range(2):
            on_loop(node.running, shards._periodic)
        assert shards._timer is not timer
    with node.session() as session:
        assert session.call("a.go") == 1
    found = [reason for _, _, _, reason in journal_rows(folder, "failure")]
    assert found == ["the regular work of the node failed: ZeroDivisionError('in a test')"]


def test_whoever_ends_a_session_hears_what_hindered_it(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = node.session()

    def broken(number: SessionNumber) -> None:
        raise ZeroDivisionError("in a test")

    with monkeypatch.context() as patch:
        patch.setattr(node.running.core, "end_session", broken)
        with pytest.raises(ZeroDivisionError):
            session.end()


def test_a_session_that_nobody_takes_ends(node: Any) -> None:
    begun = node.running.begin_soon("taken by nobody", None, None)
    begun.future.result(10)
    begun.give_up()
    assert on_loop(node.running, node.running.core.sessions) == []
    waits = node.running.begin_soon("given up at once", None, None)
    waits.give_up()
    assert eventually(lambda: on_loop(node.running, node.running.core.sessions) == [])


def test_a_blocking_call_on_the_loop_of_the_node_is_refused(node: Any) -> None:
    session = node.session()
    with pytest.raises(WouldDeadlock):
        on_loop(node.running, lambda: session.call("a.go"))
    route, context = Route(ComponentName("a")), session.context()
    with pytest.raises(InternalError, match="the node's own event loop"):
        on_loop(node.running, lambda: node.running.client.bind(route, context))
    session.end()


def test_an_interrupted_close_leaves_nothing_and_may_be_finished(folder: Path) -> None:
    node = shardwright.start(folder, state=folder / ".state")
    pid = node.session().call("a.pid")
    keeper, shut = node.running._keeper, node.running._shut

    async def slow(grace_s: float) -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        while keeper.alive:
            await asyncio.sleep(0.005)
        await shut(grace_s)

    def start_slowly(grace_s: float) -> Coroutine[Any, Any, None]:
        return slow(grace_s)

    node.running._shut = start_slowly
    try:
        with pytest.raises(KeyboardInterrupt):
            node.close()
    finally:
        node.close()
    assert not os.path.exists(f"/proc/{pid}") and keeper._process.poll() is not None
    assert node.running._loop.is_closed()
    node.close()


@pytest.mark.parametrize("step", ["Reloader", "Client", "ProcessLauncher", "Core"])
def test_a_defect_while_a_node_starts_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whatever the step: the keeper has been started by then, and has to end."""

    def fails(*args: object, **options: object) -> None:
        raise ZeroDivisionError(step)

    monkeypatch.setattr(f"shardwright.node._running.{step}", fails)
    with pytest.raises(ZeroDivisionError, match=step):
        shardwright.start(folder)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("shardwright")]
