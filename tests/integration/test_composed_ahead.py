"""The next session is composed before it is asked for, of free shards; nobody notices but by the time that it takes."""

from __future__ import annotations

import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from guest_apps import running, write_application
from shardwright.errors import CompositionRefused, ShardLost
from shardwright.guest import CallContext, Route
from shardwright.model.ids import ComponentName, SessionNumber
from waiting import eventually

MANIFEST = """
[app]
name = "composed-ahead"
[components.front]
code = "front"
scope = "session"
warm = { min = 3, max = 3 }
resources = { cpu = 0.01, memory = "16MiB" }
[components.back]
code = "back"
scope = "session"
state = "memory"
warm = { min = 3, max = 3 }
resources = { cpu = 0.01, memory = "16MiB" }
"""
MODULES = {
    "front": "import os, back\ndef who():\n    return os.getpid()\ndef add(n):\n    return back.add(n)\n",
    "back": "import os\ntotal = 0\ndef add(n):\n    global total\n    total += n\n    return os.getpid(), total\n",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_application(tmp_path_factory.mktemp("ahead") / "app", MANIFEST, **MODULES)


@pytest.fixture
def node(folder: Path) -> Iterator[Any]:
    with running(folder) as found:
        with found.session() as session:
            session.call("front.who")
        assert waits(found)
        yield found


def waits(node: Any) -> bool:
    return eventually(lambda: node.running.core.ahead.ready)


def on_loop(node: Any, work: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return work()

    return node.running.submit(run()).result(10)


def _no_longer(core: Any, apart: Any) -> bool:
    return core.ahead._ready is not apart


def test_it_is_a_session_like_any_other(node: Any, record_exercised: Callable[[str, int], None]) -> None:
    taken = 0
    for number in range(4):
        assert waits(node)
        apart = node.running.core.ahead._ready
        free = {shard.id for shard in node.shards() if not shard.sessions}
        with node.session(f"taken-{number}") as session:
            assert session._live is apart.live
            mine = [shard for shard in node.shards() if f"taken-{number}" in shard.sessions]
            assert {shard.id for shard in mine} == apart.shards <= free, "it was set apart, and not leased"
            assert session.call("front.who") in {shard.pid for shard in mine}
            assert [session.call("front.add", 2)[1] for _ in range(3)] == [2, 4, 6]
            assert session.call("front.add", 1)[0] in {shard.pid for shard in mine}
            assert waits(node)
            with pytest.raises(CompositionRefused, match="exists already"):
                node.session(f"taken-{number}")
            assert node.running.core.ahead.ready, "who is refused leaves it where it is"
            taken += 1
    record_exercised("sessions taken that were composed ahead", taken)
    leases = {row.session for row in on_loop(node, lambda: node.running.core.journal.tail(200, kind="lease"))}
    assert {f"taken-{number}" for number in range(4)} <= leases


def test_what_other_sessions_bind_meanwhile_leaves_it_where_it_is(node: Any) -> None:
    """A session that begins to call what it has, or shares, takes nothing of what was set apart."""
    with node.session("other") as other:
        assert waits(node)
        apart, leases = node.running.core.ahead._ready, len(of_kind(node, "lease"))
        assert other.call("front.add", 2)[1] == 2  # front asks the node for back, which the session has
        assert node.running.core.ahead._ready is apart
        assert len(of_kind(node, "lease")) == leases, "nothing was leased"
        with node.session("next") as taken:
            assert taken._live is apart.live and taken.call("front.add", 3)[1] == 3


def test_what_a_session_has_in_doubt_is_proved_before_it_is_called(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the shard since its composition, which waits for the proof that nobody's call runs there still."""
    core = node.running.core
    with node.session("other") as other:
        (back,) = [s.id for s in node.shards() if s.component == "back" and "other" in s.sessions]
        proof, proved = on_loop(node, lambda: core.shards._loop.create_future()), []

        async def prove(shard: str, doubt: Any) -> bool:
            proved.append((shard, doubt))
            return True

        monkeypatch.setattr(core.shards, "proof", lambda shard: proof if shard == back else None)
        monkeypatch.setattr(core.shards, "prove", prove)
        assert other.call("front.add", 2)[1] == 2
        assert proved == [(back, proof)]


def of_kind(node: Any, kind: str) -> list[Any]:
    return on_loop(node, lambda: list(node.running.core.journal.tail(200, kind=kind)))


def test_nobody_gets_what_another_has(node: Any, record_exercised: Callable[[str, int], None]) -> None:
    seen: list[tuple[int, int]] = []
    told: list[BaseException] = []
    quickly = 0

    def use(which: int) -> None:
        nonlocal quickly
        try:
            for number in range(12):
                apart = node.running.core.ahead._ready
                with node.session(f"of-{which}-{number}") as session:
                    quickly += apart is not None and session._live is apart.live
                    pid, total = session.call("back.add", 1)
                    seen.append((pid, total))
                    assert session.call("back.add", 1) == (pid, 2)
        except BaseException as error:
            told.append(error)

    threads = [threading.Thread(target=use, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not told and len(seen) == 36
    assert {total for _, total in seen} == {1}, "each had a shard of its own, with fresh state"
    assert on_loop(node, node.running.core.shards.composer.check) is None
    record_exercised("sessions of three threads", len(seen))


def test_what_is_asked_for_otherwise_comes_first(node: Any) -> None:
    core = node.running.core
    apart = core.ahead._ready
    number = on_loop(node, core.new_number)
    # a decision by which its shards might go to somebody else: then it is nobody's any more
    on_loop(node, lambda: core.shards.composer.evict(min(apart.shards), core.shards.now(), "tried"))
    assert core.ahead._ready is not apart
    with node.session("after") as session:
        assert session.call("back.add", 1)[1] == 1
    assert not on_loop(node, lambda: core.session_lives(SessionNumber(number)))


def test_one_that_died_meanwhile_is_not_handed_out(node: Any, record_exercised: Callable[[str, int], None]) -> None:
    kills = 0
    core = node.running.core
    for _ in range(3):
        assert waits(node)
        apart = core.ahead._ready
        pid = core.ports()[min(apart.shards)].pid
        os.kill(pid, signal.SIGKILL)
        assert eventually(partial(_no_longer, core, apart))
        with node.session() as session:
            assert session.call("front.add", 1)[1] == 1
        kills += 1
    record_exercised("shards killed that were set apart", kills)


def test_one_that_nobody_entered_is_found_out(node: Any) -> None:
    """As an exception that a signal raised in the middle of ``take`` leaves it."""
    core = node.running.core
    lost = core.ahead._ready
    core.names["half"] = lost.live.number
    lost.live.name = "half"
    with core.ahead._mutex:
        core.ahead._ready = None
    on_loop(node, core.ahead.soon)
    assert eventually(lambda: core.ahead.ready and core.ahead._ready is not lost)
    with node.session("half") as session:
        assert session.call("back.add", 1)[1] == 1


def test_a_death_afterwards_is_a_loss(node: Any) -> None:
    with node.session() as session:
        pid, _ = session.call("back.add", 1)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ShardLost):
            session.call("back.add", 1)
        assert session.call("back.add", 5)[1] == 5
    assert ComponentName("back") in {shard.component for shard in node.shards()}


def test_keys_and_parts_are_composed_when_they_are_asked_for(node: Any) -> None:
    core = node.running.core
    composer = core.shards.composer
    for taking in (0, 1, 2):  # of three free ones: what was set apart too, in the end
        node.running.submit(core.begin_session(f"part-{taking}", {}, components=["back"])).result(10)
        held = on_loop(node, partial(composer.held_by, core.names[f"part-{taking}"]))
        apart = core.ahead._ready
        assert len(held) == 1 and (apart is None or not apart.shards & set(held)), "it was set apart for another"
    for taking in (0, 1, 2):
        on_loop(node, partial(core.end_session, core.names[f"part-{taking}"]))
    assert waits(node)


def test_who_takes_it_while_others_decide_has_its_shards(node: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken after the books were brought up to date, and before it would have been withdrawn."""
    core, taken = node.running.core, []
    assert eventually(lambda: len([shard for shard in node.shards() if shard.pid]) >= 6)
    on_loop(node, core.ahead.withdraw)  # anew, of those that anybody would be granted next
    assert waits(node)
    apart, withdraw = core.ahead._ready, core.ahead.withdraw

    def take_first(*shard: Any) -> None:
        if not taken:
            taken.append(core.ahead.take("taken"))
        withdraw(*shard)

    with monkeypatch.context() as patched:
        patched.setattr(core.ahead, "withdraw", take_first)
        node.running.submit(core.begin_session("other", {}, components=["back"])).result(10)
    assert taken == [apart.live]
    held_by = core.shards.composer.held_by
    its, others = (set(on_loop(node, partial(held_by, core.names[name]))) for name in ("taken", "other"))
    assert apart.shards <= its and not its & others
    for name in ("taken", "other"):
        on_loop(node, partial(core.end_session, core.names[name]))


def test_a_channel_made_with_a_shard_is_nobody_s_before_its_session_has_begun(node: Any) -> None:
    """Its composition may be aborted, when another shard of it dies; then the shard goes to whoever comes next."""
    core, client = node.running.core, node.running.client
    back = ComponentName("back")
    with node.session("other") as other:
        other.call("back.add", 1)
        (shard,) = [each.id for each in node.shards() if each.component == back and "other" in each.sessions]
        aborted = on_loop(node, core.new_number)
        context, route = CallContext(session=aborted), Route(back, aborted)

        def bound() -> object:
            return client.router.known(core.plan.definition(back), route, context)

        on_loop(node, lambda: core.ahead.called(back))
        on_loop(node, lambda: core.ahead.start_with(core.ports()[shard], (aborted,)))
        assert bound() is None
        _, link = core.ahead._early[shard]
        on_loop(node, lambda: core.ahead.begun(aborted))  # with other shards
        assert bound() is None and link.closed and not core.ahead._early
        assert other.call("back.add", 1)[1] == 2


def test_one_that_is_nearly_ready_when_the_node_ends_is_left(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until Python 3.12 ``wait_for`` may return what came in the moment in which it was cancelled."""
    module = importlib.import_module("shardwright.node._composed_ahead")
    rehearse, ended = module.rehearse, []
    with running(folder) as node:
        ahead = node.running.core.ahead

        async def and_close(*told: Any) -> None:
            await rehearse(*told)
            ended.append(ahead)
            ahead.close()

        monkeypatch.setattr(module, "rehearse", and_close)
        on_loop(node, lambda: ahead.called(ComponentName("front")))  # else one may be ready, without, before the call
        with node.session() as session:
            session.call("front.who")
        assert eventually(lambda: bool(ended))
        assert eventually(lambda: on_loop(node, lambda: ahead._task) is None)
        assert not ahead.ready
        assert (ahead._alarm, ahead._links) == (None, {})
