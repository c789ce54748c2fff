"""Calls that go the quick way hear of it when nobody wants them any more, and tell those whom they wait for."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import running, write_application
from shardwright.errors import DeadlineExceeded
from shardwright.transport import shm

pytestmark = pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
WARM = 5  # calls, of which the first go the slow way
MANIFEST = """
[app]
name = "unwanted"
[components.front]
code = "front"
[components.middle]
code = "middle"
[components.store]
code = "store"
scope = "shared"
[policy]
transport = "shm"
"""
FILES = {
    "front": """
        import contextvars, gc, threading
        import middle, store

        def ask(name, mark=None):
            return middle.ask(name, mark)

        def ask_beside(name, mark=None):
            '''From a thread that has no baton to put down: it waits the quick way, however long.'''
            context, found = contextvars.copy_context(), []
            thread = threading.Thread(target=lambda: found.append(context.run(middle.ask, name, mark)))
            thread.start()
            thread.join()
            return found

        def over(name, mark, levels):
            '''Calls itself through middle, and asks when it is deep enough.'''
            return middle.over(name, mark, levels - 1) if levels else store.ask(name, mark)

        def quick():
            desks = [desk for desk in gc.get_objects() if type(desk).__name__ == "Desk"]
            return sum(desk.calls_out for desk in desks), middle.quick(), store.quick()

        def logged():
            return store.logged()
    """,
    "middle": """
        import gc
        import front, store

        def ask(name, mark):
            return store.ask(name, mark)

        def over(name, mark, levels):
            return front.over(name, mark, levels)

        def quick():
            desks = [desk for desk in gc.get_objects() if type(desk).__name__ == "Desk"]
            return sum(desk.calls_in for desk in desks)
    """,
    "store": """
        import gc, time
        import shardwright

        seen = []

        def ask(name, mark):
            if mark is None:
                return shardwright.cancelled()
            open(mark, "w").close()
            end_s = time.monotonic() + 20
            while not shardwright.cancelled() and time.monotonic() < end_s:
                time.sleep(0.002)
            seen.append((name, shardwright.cancelled()))
            return shardwright.cancelled()

        def logged():
            return list(seen)

        def quick():
            desks = [desk for desk in gc.get_objects() if type(desk).__name__ == "Desk"]
            return sum(desk.calls_in for desk in desks)
    """,
}
WAYS = {
    "front.ask": (),
    "front.ask_beside": (),
    "front.over": (4,),
}


@asynccontextmanager
async def warm(tmp_path: Path, way: str) -> AsyncIterator[tuple[Any, Any]]:
    folder = write_application(tmp_path / "app", MANIFEST, **FILES)
    async with shardwright.astart(folder, state=tmp_path / "state") as node, node.session("one") as session:
        for _ in range(WARM):
            assert await session.call(way, "warm", None, *WAYS[way]) in (False, [False])
        out, middle, store = await session.call("front.quick")
        assert out > 0 and middle > 0 and store > 0, (out, middle, store)
        yield node, session


@pytest.mark.parametrize("way", WAYS)
def test_who_is_cancelled_tells_those_whom_it_asks_the_quick_way(
    way: str, tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    async def story() -> None:
        async with warm(tmp_path, way) as (_, session):
            for n in range(3):
                mark = tmp_path / f"mark{n}"
                task = asyncio.create_task(session.call(way, f"call {n}", str(mark), *WAYS[way]))
                while not mark.exists():
                    await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                while (f"call {n}", True) not in (found := await session.call("front.logged")):
                    assert (f"call {n}", False) not in found
                    await asyncio.sleep(0.005)
            assert await session.call(way, "after", None, *WAYS[way]) in (False, [False])
        record_exercised("chains of quick calls that were cancelled", 3)

    asyncio.run(asyncio.wait_for(story(), 60))


@pytest.mark.parametrize("way", WAYS)
def test_a_deadline_and_the_end_of_a_session_reach_what_is_answered_the_quick_way(way: str, tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, **FILES)
    with running(folder) as node, node.session("stays") as stays:

        def logged(entry: tuple[str, bool]) -> bool:
            end_s = time.monotonic() + 20
            while entry not in (found := stays.call("front.logged")) and time.monotonic() < end_s:
                time.sleep(0.005)
            return entry in found

        leaves = node.session("leaves")
        for session in (stays, leaves):
            for _ in range(WARM):
                session.call(way, "warm", None, *WAYS[way])
        try:  # store is told when this thread is, and may answer sooner than this thread looks
            told = stays.with_timeout(0.3).call(way, "late", str(tmp_path / "late"), *WAYS[way])
        except DeadlineExceeded:
            told = True
        assert told in (True, [True], [])  # empty where the thread beside was itself told of the deadline
        assert logged(("late", True))
        mark, found = tmp_path / "mark", []

        def ask() -> None:
            try:
                found.append(leaves.call(way, "left", str(mark), *WAYS[way]))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not mark.exists():
            time.sleep(0.005)
        leaves.end()
        assert logged(("left", True))
        thread.join(20)
        assert not thread.is_alive()
