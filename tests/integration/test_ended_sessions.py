"""A session that has ended answers no more calls, whatever links are still open."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import shardwright
from guest_apps import running, write_application
from shardwright.errors import NotPermitted

MANIFEST = """
    [app]
    name = "over"
    [components.worker]
    code = "worker"
"""
WORKER = """
    count = 0

    def more():
        global count
        count += 1
        return count
"""


def test_calls_after_the_end_are_refused(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, worker=WORKER)
    with running(folder) as node:
        with node.session("one") as session:
            assert session.call("worker.more") == 1
        for caller in (session, session.with_timeout(5)):
            with pytest.raises(NotPermitted, match="session one has ended") as caught:
                caller.call("worker.more")
            assert caught.value.outcome == "not started"
        with node.session("two") as other:
            assert other.call("worker.more") == 2  # nothing ran meanwhile


def test_calls_after_the_end_are_refused_when_awaited(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, worker=WORKER)

    async def use() -> None:
        async with shardwright.astart(folder, state=folder / ".state") as node:
            async with await node.session("one") as session:
                assert await session.call("worker.more") == 1
            with pytest.raises(NotPermitted, match="has ended"):
                await session.call("worker.more")

    asyncio.run(use())
