"""Blocking work for coroutines: on threads of our own, bounded, and given back when nobody waits any more."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from shardwright.errors import Overloaded
from shardwright.guest._errands import Errands

LONG = 10.0


class Full(ThreadPoolExecutor):
    """An executor all of whose threads are busy."""

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        raise AssertionError("nobody may need it")


def test_results_and_errors_come_back_and_no_thread_is_left() -> None:
    errands = Errands(limit=2)
    threads: set[str] = set()

    def work(number: int) -> int:
        threads.add(threading.current_thread().name)
        if number == 3:
            raise KeyError(number)
        return number

    found = [errands.run(lambda number=number: work(number)) for number in range(20)]  # type: ignore[misc]
    with pytest.raises(KeyError):
        found.pop(3).result(LONG)
    assert [each.result(LONG) for each in found] == [n for n in range(20) if n != 3]
    assert threads == {"shardwright-errand"}


def test_at_most_so_many_at_once_and_what_was_cancelled_does_not_run() -> None:
    errands = Errands(limit=1)
    gate, begun = threading.Event(), threading.Event()
    first = errands.run(lambda: (begun.set(), gate.wait(LONG)))
    assert begun.wait(LONG)
    ran: list[int] = []
    second, third = errands.run(lambda: ran.append(2)), errands.run(lambda: ran.append(3))
    assert second.cancel() and not first.cancel()
    gate.set()
    third.result(LONG)
    assert ran == [3]


def test_without_a_thread_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    errands = Errands()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.raises(Overloaded, match="no thread"):
            errands.run(lambda: None)
    assert errands.run(lambda: 1).result(LONG) == 1


APPLICATION = {
    "manifest": """
        [app]
        name = "errands"
        [components.caller]
        code = "caller"
        [components.once]
        code = "once"
        scope = "request"
        state = "none"
    """,
    "caller": "import once\n",
    "once": "async def f():\n    return 1\n",
}


def test_awaiting_a_new_binding_needs_nothing_of_the_loops_executor(town: Any) -> None:
    found = town(**APPLICATION)

    async def main() -> Any:
        asyncio.get_running_loop().set_default_executor(Full())
        return await found.call("caller", "once", "f")

    assert asyncio.run(main()) == 1


def test_a_shard_bound_for_a_call_that_was_cancelled_meanwhile_is_given_back(town: Any) -> None:
    found = town(**APPLICATION)
    binder = found.runtimes["caller"].router.binder
    asked, go, given_back = threading.Event(), threading.Event(), threading.Event()

    class Slow:
        def bind(self, *args: Any) -> Any:
            asked.set()
            assert go.wait(LONG)
            return binder.bind(*args)

        def why(self, peer: object) -> str:
            return "killed by signal 9"

        def release(self, route: Any, link: Any) -> None:
            binder.release(route, link)
            given_back.set()

    found.runtimes["caller"].router.binder = Slow()

    async def main() -> None:
        task = asyncio.ensure_future(found.call("caller", "once", "f"))
        while not asked.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert not given_back.is_set()
    go.set()
    assert given_back.wait(LONG)
