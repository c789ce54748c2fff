"""A shard that has others made without end: it gets a bounded number, and nobody else notices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guest_apps import running, write_application
from shardwright.node._made_for import MOST_IN_USE
from waiting import eventually

MANIFEST = """
    [app]
    name = "crowd"
    root = "."
    [components.evil]
    code = "evil"
    scope = "session"
    state = "memory"
    [components.clerk]
    code = "clerk"
    scope = "request"
    state = "none"
"""
EVIL = """
    import gc, threading
    import clerk

    def crowd(count):
        from shardwright.guest._control_messages import Bind
        from shardwright.guest._shard import Shard
        gc.unfreeze()
        control = [o for o in gc.get_objects() if isinstance(o, Shard)][-1].control
        for number in range(count):
            control.send(Bind(100_000 + number, "clerk", 0))

    def stamps(count):
        found = []
        def ask():
            found.append(clerk.stamp(0.2))
        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found
"""
CLERK = """
    import os, time

    def stamp(seconds=0.0):
        time.sleep(seconds)
        return os.getpid()
"""


def clerks(node: Any) -> int:
    return sum(shard.component == "clerk" for shard in node.shards())


def test_one_shard_has_a_bounded_number_of_others_made(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "crowd", MANIFEST, evil=EVIL, clerk=CLERK)
    with running(folder) as node:
        with node.session("mallory") as session, node.session("alice") as other:
            session.call("evil.crowd", 300)
            assert eventually(lambda: clerks(node) >= MOST_IN_USE)
            assert len(set(other.call("evil.stamps", 5))) == 5  # one each, and made for another shard
            most = max(clerks(node) for _ in range(20))
            assert most <= MOST_IN_USE + 5
        assert eventually(lambda: clerks(node) <= 5)  # what it had made ends with it


def test_honest_requests_wait_for_their_turn(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "crowd", MANIFEST, evil=EVIL, clerk=CLERK)
    with running(folder) as node, node.session("alice") as session:
        assert len(session.call("evil.stamps", MOST_IN_USE + 20)) == MOST_IN_USE + 20
