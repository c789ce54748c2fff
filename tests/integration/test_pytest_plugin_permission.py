"""Nobody patches the shards of a node that no test run has started, nor calls the process that started it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import shardwright
from plugin_apps import write_shop
from shardwright.errors import HandleExpired, NotPermitted
from shardwright.guest import Bind, Patch, Patched, Testing
from shardwright.model.endpoint import Peer
from shardwright.model.ids import ComponentName, ShardId
from shardwright.node import Node, Options, Running


def _told(running: Running, patch: Patch) -> list[Patched]:
    """What the shards answer when the node (it alone can) tells them to patch something all the same."""

    async def tell() -> list[Patched]:
        answers: asyncio.Queue[Patched] = asyncio.Queue()

        class Listener:
            def __getattr__(self, name: str) -> Any:
                return getattr(running.core, name)

            def on_patched(self, port: Any, patched: Patched) -> None:
                answers.put_nowait(patched)

        ports = list(running.core.ports().values())
        for port in ports:
            port.attach(Listener())  # type: ignore[arg-type]
            port.patch(patch)
        found = [await asyncio.wait_for(answers.get(), 20) for _ in ports]
        for port in ports:
            port.attach(running.core)
        return found

    return running.submit(tell()).result()


@pytest.mark.parametrize("inproc", [False, True])
def test_shards_that_are_not_under_test_refuse(tmp_path: Path, inproc: bool) -> None:
    write_shop(tmp_path)
    with shardwright.start(tmp_path, state=tmp_path / ".state", inproc=inproc) as node:
        answers = _told(node.running, Patch(7, "shop.store", "LIMIT", "delete", "store", True))
        assert len(answers) >= 2
        for answer in answers:
            assert (answer.request, "only shards of a node that a test run started" in answer.error) == (7, True)
        with node.session() as session:
            assert session.call("store.add", "apple", 1) == 1


def test_the_process_that_started_a_node_is_nobodys_to_call(tmp_path: Path) -> None:
    write_shop(tmp_path)
    with shardwright.start(tmp_path, state=tmp_path / ".state") as node:
        running = node.running
        shard = next(status.id for status in node.shards() if status.component == "store")
        caller = Peer(ComponentName("store"), ShardId(shard))
        with pytest.raises(NotPermitted, match="no component 'node'"):
            running.submit(running.core.bindings.bind(caller, Bind(1, "node", 0))).result()
        assert not hasattr(running, "bench")


def test_a_shard_reaches_just_what_it_was_given(tmp_path: Path) -> None:
    write_shop(tmp_path)
    running = Running(tmp_path, Options(state=tmp_path / ".state", testing=Testing(), api=False))
    try:
        given: list[str] = []
        running.bench.patch("shop.store", "_send", given.append)
        with Node(running).session() as session:
            assert session.call("store.notify", "hello") is None
            assert given == ["hello"]
            number = running.bench.reference(given.append)[1]
            with pytest.raises(HandleExpired):
                running.bench.object(number + 1000)
            running.bench.forget_since(0)
            with pytest.raises(HandleExpired, match="a test that has ended"):
                session.call("store.notify", "again")
            running.bench.undo("shop.store", "_send")
            with pytest.raises(OSError, match="no network"):
                session.call("store.notify", "again")
    finally:
        running.close()
        running.bench.close()
