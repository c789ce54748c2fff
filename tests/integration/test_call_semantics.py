"""What a call means between real shards: deadlines, cancellation, losses, repetition, generators, context variables."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import write_application
from shardwright.errors import CallError, CannotCross, DeadlineExceeded, ShardLost
from shardwright.testing._faults import becomes

Record = Callable[[str, int], None]
LONG = 20.0
MANIFEST = """
    [app]
    name = "means"
    context_variables = ["common:WHO"]
    [components.front]
    code = "front"
    scope = "session"
    state = "none"
    [components.middle]
    code = "middle"
    [components.store]
    code = "store"
    state = "memory"
    ahead = ["store:fast"]
    [components.pure]
    code = "pure"
    state = "none"
    idempotent = ["pure:twice", "pure:twice_later"]
    [components.asked]
    code = "asked"
    scope = "request"
    [policy]
    node_grace = "0s"
    transport = "{transport}"
"""
FILES = {
    "common": """
        from contextvars import ContextVar
        WHO = ContextVar("WHO", default="nobody")
    """,
    "front": """
        import asyncio, os, threading, time
        import shardwright
        import asked, middle, pure, store
        from common import WHO

        def process():
            return os.getpid()

        def left():
            return [shardwright.time_left(), *middle.left()]

        async def left_async():
            return [shardwright.time_left(), *await middle.left_async()]

        async def through(name, mark):
            return middle.through(name, mark)  # its loop is blocked

        async def waits(name):
            return await middle.waits(name)

        def rows(count):
            return list(store.rows(count))

        def some(name, wanted):
            found = []
            for item in getattr(store, name)(10**9):
                found.append(item)
                if len(found) == wanted:
                    break
            return found, store.made()

        def held(wanted):
            global keep
            keep = store.rows(10**9)
            return [next(keep) for _ in range(wanted)]

        def on(wanted):
            return [next(keep) for _ in range(wanted)]

        def leave():
            keep.close()

        def slowly():
            for item in store.rows(10**9):
                time.sleep(0.005)

        def timed():
            try:
                for item in store.naps():
                    pass
            except BaseException as error:
                return type(error).__name__, getattr(error, "outcome", "")

        async def async_some(wanted):
            found = []
            stream = store.async_rows(10**9)
            async for item in stream:
                found.append(item)
                if len(found) == wanted:
                    break
            await stream.aclose()
            return found

        async def async_waits():
            async for item in store.async_waits():
                pass

        def who(name):
            WHO.set(name)
            first = middle.greet()
            return first, WHO.get(), middle.greet()

        async def who_async(names):
            async def one(name):
                WHO.set(name)
                await asyncio.sleep(0)
                return await middle.greet_later(), WHO.get()
            return await asyncio.gather(*map(one, names)), WHO.get()

        def who_fails():
            try:
                middle.fails()
            except ValueError as error:
                return WHO.get(), vars(error)

        def child_calls():
            store.made()
            read, write = os.pipe()
            if not (child := os.fork()):
                try:
                    try:
                        told = repr(store.made())
                    except BaseException as error:
                        told = f"{type(error).__name__}, {error.outcome}"
                    os.write(write, told.encode())
                finally:
                    os._exit(0)
            os.close(write)
            with open(read) as told:
                return told.read(), os.waitpid(child, 0)[1], store.made()

        def once(name):
            return list(asked.rows(3)), list(asked.rows(2))

        def threads_step(count):
            stream = store.rows(10**9)
            found, trouble = [], []
            def step():
                for _ in range(count):
                    try:
                        found.append(next(stream))
                    except ValueError as error:
                        trouble.append(str(error))
            threads = [threading.Thread(target=step) for _ in range(3)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            return sorted(found), set(trouble)
    """,
    "middle": """
        import asyncio, sys
        import shardwright
        import store
        from common import WHO

        def left():
            return [shardwright.time_left(), *store.left()]

        async def left_async():
            return [shardwright.time_left(), *store.left()]

        def through(name, mark):
            return store.ask(name, mark)

        async def waits(name):
            return await store.wait(name)

        sys.setswitchinterval(0.002)

        def interval():
            return sys.getswitchinterval()

        def greet():
            heard = WHO.get()
            WHO.set(heard + "!")
            return heard, store.who()

        async def greet_later():
            heard = WHO.get()
            WHO.set(heard + "?")
            return heard, store.who()

        def fails():
            WHO.set("who failed")
            raise ValueError("no")
    """,
    "store": """
        import asyncio, itertools, os, threading, time
        import shardwright
        from common import WHO

        log = []
        counted = 0

        def process():
            return os.getpid()

        def logged():
            return list(log)

        def made():
            return counted

        def left():
            return [shardwright.time_left()]

        def who():
            return WHO.get()

        async def wait(name):
            log.append((name, "begun"))
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                log.append((name, "cancelled", shardwright.cancelled()))
                raise



        def ask(name, mark):
            open(mark, "w").close()
            end_s = time.monotonic() + 20
            while not shardwright.cancelled() and time.monotonic() < end_s:
                time.sleep(0.002)
            log.append((name, "asked", shardwright.cancelled()))

        def rows(count):
            global counted
            try:
                for number in range(count):
                    counted += 1
                    yield number
            finally:
                log.append(("rows", "closed"))

        def fast(count):
            yield from rows(count)

        stubbornly = itertools.count()

        def stubborn():
            while True:
                try:
                    yield 1
                except GeneratorExit:
                    if next(stubbornly):
                        return
                    yield 2

        def naps():
            try:
                log.append(("naps", "begun"))
                yield shardwright.time_left()
                while True:
                    time.sleep(0.05)
                    yield shardwright.time_left()
            finally:
                log.append(("naps", "closed"))

        def large(count, size):
            for number in range(count):
                yield bytes([number % 256]) * size

        def bad():
            yield 1
            yield threading.Lock()

        async def async_rows(count):
            try:
                for number in range(count):
                    await asyncio.sleep(0)
                    yield number
            finally:
                await asyncio.sleep(0)
                log.append(("async_rows", "closed"))

        async def async_waits():
            try:
                yield 1
                log.append(("async_waits", "begun"))
                await asyncio.sleep(60)
                yield 2
            except asyncio.CancelledError:
                log.append(("async_waits", "cancelled"))
                raise
    """,
    "pure": """
        import asyncio, os, sys, time

        def twice(path):
            return _run(path)

        def once(path):
            return _run(path)

        async def twice_later(path):
            with open(path, "a") as file:
                file.write("x")
            if os.path.getsize(path) == 1:
                await asyncio.sleep(60)
            return os.path.getsize(path)

        def always(path):
            return 0

        def interval():
            return sys.getswitchinterval()

        def counting(count):
            for number in range(count):
                yield "old", number

        def _run(path):
            with open(path, "a") as file:
                file.write("x")
            if os.path.getsize(path) == 1:
                time.sleep(60)
            return os.path.getsize(path)
    """,
    "asked": """
        import os
        def rows(count):
            for _ in range(count):
                yield os.getpid()
    """,
}


@pytest.fixture(params=["shm", "socket"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    folder = write_application(tmp_path / "app", MANIFEST.format(transport=request.param), **FILES)
    with shardwright.start(folder, state=tmp_path / "state") as found:
        yield found


over_rings = pytest.mark.parametrize("node", ["shm"], indirect=True)  # where what carries the messages does not matter


def logs(session: Any, entry: tuple[Any, ...]) -> bool:
    return becomes(lambda: entry in session.call("store.logged"), LONG) is not None


def pid_of(node: Any, component: str) -> int:
    return max(shard.pid for shard in node.shards() if shard.component == component and shard.status == "ready")


def in_thread(run: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []

    def record() -> None:
        try:
            found.append(run())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    return thread, found


# -- deadlines and cancellation ----------------------------------------------------------------------------------


@over_rings
def test_code_can_ask_for_the_time_left_through_a_chain(node: Any) -> None:
    with node.session("hurried") as session:
        for entry in ("front.left", "front.left_async"):
            assert session.call(entry) == [None, None, None]
            first, second, third = session.with_timeout(30).call(entry)
            assert 30 > first > second > third > 0
    assert shardwright.time_left() is None and not shardwright.cancelled()


def test_a_session_that_ends_cancels_what_runs_for_it(node: Any, tmp_path: Path) -> None:
    with node.session("stays") as stays:
        leaves = node.session("leaves")
        thread, found = in_thread(lambda: leaves.call("store.wait", "wait"))
        assert logs(stays, ("wait", "begun"))
        leaves.end()
        assert logs(stays, ("wait", "cancelled", True))
        thread.join(LONG)
        assert isinstance(found[0], CallError) and found[0].outcome != "not started"
        leaves, mark = node.session("leaves"), tmp_path / "begun"
        thread, found = in_thread(lambda: leaves.call("store.ask", "ask", str(mark)))
        assert becomes(mark.exists, LONG) is not None
        leaves.end()
        assert logs(stays, ("ask", "asked", True))
        thread.join(LONG)


def test_code_that_is_no_coroutine_may_ask_whether_it_was_cancelled(node: Any, tmp_path: Path) -> None:
    with node.session("asks") as session:
        with pytest.raises(DeadlineExceeded):
            session.with_timeout(0.3).call("store.ask", "late", str(tmp_path / "late"))
        assert logs(session, ("late", "asked", True))


def test_cancelling_reaches_through_shards_that_block(tmp_path: Path) -> None:
    """front blocks its loop, middle its thread; store is told all the same."""
    mark = tmp_path / "begun"
    folder = write_application(tmp_path / "app", MANIFEST.format(transport="auto"), **FILES)

    async def story() -> None:
        async with shardwright.astart(folder, state=tmp_path / "state") as node, node.session("async") as session:

            async def logs(entry: tuple[Any, ...]) -> bool:
                for _ in range(1000):
                    if entry in await session.call("store.logged"):
                        return True
                    await asyncio.sleep(0.01)
                return False

            for target in ("middle.waits", "front.waits"):
                task = asyncio.create_task(session.call(target, target))
                assert await logs((target, "begun"))
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await logs((target, "cancelled", True))
            for target in ("middle.through", "front.through"):
                task = asyncio.create_task(session.call(target, target, str(mark)))
                while not mark.exists():
                    await asyncio.sleep(0.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert await logs((target, "asked", True))
                mark.unlink()
            items = [item async for item in await session.call("store.async_rows", 3)]
            assert items == [0, 1, 2]
            assert [item async for item in await session.call("store.rows", 3)] == [0, 1, 2]
            task = asyncio.create_task(session.call("front.async_waits"))
            assert await logs(("async_waits", "begun"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await logs(("async_waits", "cancelled"))

    asyncio.run(story())


def test_a_client_of_the_gateway_that_leaves_cancels_what_runs_for_it_two_shards_on(tmp_path: Path) -> None:
    gateway = '[gateway]\n    bind = "127.0.0.1:0"\n    [[routes]]\n    path = "/waits"\n    call = "front.waits"\n    [policy]'
    manifest = MANIFEST.format(transport="auto").replace("[policy]", gateway)
    folder = write_application(tmp_path / "app", manifest, **FILES)
    with shardwright.start(folder, state=tmp_path / "state") as node, node.session("looks") as session:
        host, _, port = node.urls[0].rpartition("/")[2].rpartition(":")
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"GET /waits?name=web HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert logs(session, ("web", "begun"))
        assert logs(session, ("web", "cancelled", True))


@over_rings
def test_threads_of_shards_yield_the_interpreter_soon_unless_the_program_says_when(node: Any) -> None:
    """What it is for can be measured on a quiet machine alone: decision 0037."""
    with node.session("now and then") as session:
        assert session.call("pure.interval") == 0.0005
        assert session.call("middle.interval") == 0.002


@over_rings
def test_a_child_that_a_shard_forked_is_told_that_it_cannot_call(node: Any) -> None:
    with node.session("forks") as session:
        assert session.call("front.child_calls") == ("CallError, not started", 0, 0)


# -- losses ------------------------------------------------------------------------------------------------------


def test_only_what_is_declared_idempotent_is_called_again(node: Any, tmp_path: Path, record_exercised: Record) -> None:
    kills = 0
    with node.session("patient") as session:
        session.call("pure.always", "")
        for entry, again in (("twice", True), ("twice_later", True), ("once", False)):
            path = tmp_path / entry
            thread, found = in_thread(lambda entry=entry, path=path: session.call(f"pure.{entry}", str(path)))
            assert becomes(path.exists, LONG) is not None
            os.kill(pid_of(node, "pure"), signal.SIGKILL)
            kills += 1
            thread.join(LONG)
            if again:
                assert found == [2], "it must have run a second time, elsewhere"
            else:
                (lost,) = found
                assert isinstance(lost, ShardLost) and lost.outcome == "unknown" and lost.fault == "world"
                assert path.read_text() == "x"
    record_exercised("kills of a shard that ran a call", kills)


@over_rings
def test_an_idempotent_call_is_not_repeated_for_ever(node: Any, tmp_path: Path) -> None:
    with node.session("unlucky") as session:
        session.call("pure.always", "")
        path = tmp_path / "marks"
        thread, found = in_thread(lambda: session.call("pure.twice", str(path)))
        for _ in range(3):
            assert becomes(path.exists, LONG) is not None
            os.kill(pid_of(node, "pure"), signal.SIGKILL)
            path.unlink()
        thread.join(LONG)
        assert isinstance(found[0], ShardLost) and found[0].outcome == "unknown"


# -- generators --------------------------------------------------------------------------------------------------


def test_nothing_is_made_that_was_not_asked_for(node: Any) -> None:
    with node.session("thrifty") as session:
        assert session.call("front.some", "rows", 5) == ([0, 1, 2, 3, 4], 5)
        assert logs(session, ("rows", "closed"))
        found, made = session.call("front.some", "fast", 100)
        assert found == list(range(100)) and 105 <= made <= 105 + 64, "ahead: by a bounded number"
        assert session.call("front.rows", 300) == list(range(300))


def test_items_of_any_size_come_through(node: Any) -> None:
    with node.session("heavy") as session:
        sizes = [len(item) for item in session.call("store.large", 3, 20 * 2**20)]
        assert sizes == [20 * 2**20] * 3
        stream = session.call("store.bad")
        assert next(stream) == 1
        with pytest.raises(CannotCross):
            next(stream)
        with pytest.raises(StopIteration):
            next(stream)


@over_rings
def test_a_generator_outlives_the_call_that_began_it(node: Any) -> None:
    with node.session("keeps") as session:
        assert session.call("front.held", 3) == [0, 1, 2]
        assert session.call("front.on", 2) == [3, 4]
        session.call("front.leave")
        assert session.call("store.logged") == [("rows", "closed")], "closed when close() returned"


@over_rings
def test_a_generator_that_will_not_end_is_told_as_python_tells_it(node: Any) -> None:
    with node.session("stubborn") as session:
        stream = session.call("store.stubborn")
        assert next(stream) == 1
        with pytest.raises(RuntimeError, match="generator ignored GeneratorExit"):
            stream.close()
        assert next(stream) == 1


@over_rings
def test_threads_that_step_one_generator_are_told_as_python_tells_them(node: Any) -> None:
    with node.session("threads") as session:
        found, trouble = session.call("front.threads_step", 40)
        assert found == list(range(len(found))) and trouble <= {"generator already executing"}


@over_rings
def test_a_generator_of_a_shard_for_one_request_keeps_it_to_its_end(node: Any) -> None:
    with node.session("once") as session:
        first, second = session.call("front.once", "x")
        assert len(set(first)) == 1 and len(set(second)) == 1


def test_each_step_has_the_deadline_of_who_makes_it(node: Any) -> None:
    with node.session("hurried") as session:

        def by_front() -> None:
            try:  # front is told when this thread is, and may answer sooner than this thread looks
                told, _ = session.with_timeout(0.4).call("front.timed")
            except DeadlineExceeded as error:
                told = type(error).__name__
            assert told == "DeadlineExceeded"

        def by_itself() -> None:
            with pytest.raises(DeadlineExceeded):
                for left in session.with_timeout(0.4).call("store.naps"):
                    assert 0 <= left <= 0.4  # 0 where the maker was late, and the reply was here before anybody looked

        def count(what: str) -> int:
            return int(session.call("store.logged").count(("naps", what)))

        for consume in (by_front, by_itself):
            before = count("begun")
            for _ in range(20):  # on a busy machine the time may be over before it begins
                consume()
                if count("begun") > before:
                    break
            assert count("begun") > before
            assert becomes(lambda: count("closed") == count("begun"), LONG) is not None


def test_a_consumer_that_is_killed_leaves_no_generator_open(node: Any, record_exercised: Record) -> None:
    with node.session("lives") as lives:
        for number in range(1, 6):
            with node.session(f"dies-{number}") as dies:
                process = dies.call("front.process")
                made = lives.call("store.made")
                thread, found = in_thread(lambda dies=dies: dies.call("front.slowly"))
                assert becomes(lambda made=made: lives.call("store.made") > made + 3, LONG) is not None
                os.kill(process, signal.SIGKILL)
                thread.join(LONG)
                assert isinstance(found[0], ShardLost)
                closed = becomes(lambda n=number: lives.call("store.logged").count(("rows", "closed")) == n, LONG)
                assert closed is not None
    record_exercised("consumers killed while they iterated", 5)


def test_the_end_of_a_session_closes_what_it_iterated_over(node: Any) -> None:
    with node.session("stays") as stays:
        with node.session("leaves") as leaves:
            leaves.call("front.held", 2)
            assert stays.call("store.logged") == []
        assert logs(stays, ("rows", "closed"))


def test_a_maker_that_is_killed_is_told_of_and_a_new_generator_begins_anew(node: Any, record_exercised: Record) -> None:
    kills = 0
    with node.session("robust") as session:
        for delay_s in (0.0, 0.003, 0.01, 0.02, 0.05):
            thread, found = in_thread(lambda: session.call("front.slowly"))
            made = session.call("store.made")
            assert becomes(lambda made=made: session.call("store.made") > made, LONG) is not None
            time.sleep(delay_s)  # where in a step it strikes
            os.kill(pid_of(node, "store"), signal.SIGKILL)
            kills += 1
            thread.join(LONG)
            assert isinstance(found[0], ShardLost), found
            assert found[0].outcome in ("unknown", "not started", "failed")
            for _ in range(3):  # each component that had used it is told once
                try:
                    assert session.call("front.rows", 3) == [0, 1, 2]
                    session.call("store.made")
                except ShardLost:
                    continue
    record_exercised("makers killed in mid-stream", kills)


def test_many_consumers_at_once(node: Any) -> None:
    """In turns, and each its own."""
    with node.session("crowd") as session:
        streams = [session.call("store.rows", 50) for _ in range(40)]
        for number in range(50):
            assert [next(stream) for stream in streams] == [number] * 40
        assert all(next(stream, None) is None for stream in streams)


@over_rings
def test_a_generator_goes_on_in_the_shard_that_is_replaced(node: Any, tmp_path: Path) -> None:
    with node.session("goes on") as session:
        stream = session.call("pure.counting", 5)
        assert next(stream) == ("old", 0)
        path = tmp_path / "app" / "pure.py"
        path.write_text(path.read_text().replace('"old"', '"new"'))
        thread, found = in_thread(node.reload)
        assert becomes(lambda: next(session.call("pure.counting", 1)) == ("new", 0), LONG) is not None
        assert list(stream) == [("old", number) for number in range(1, 5)]
        thread.join(LONG)
        assert found and not isinstance(found[0], BaseException), found


@over_rings
def test_async_generators_close_when_they_are_told_to(node: Any) -> None:
    with node.session("async") as session:
        assert session.call("front.async_some", 4) == [0, 1, 2, 3]
        assert session.call("store.logged") == [("async_rows", "closed")]


# -- context variables -------------------------------------------------------------------------------------------


@over_rings
def test_declared_context_variables_go_along_and_come_back(node: Any) -> None:
    with node.session("context") as session:
        (heard, far), now, (again, _) = session.call("front.who", "ann")
        assert (heard, far, now, again) == ("ann", "ann!", "ann!", "ann!")
        found, outside = session.call("front.who_async", ["ben", "cam"])
        assert found == [(("ben", "ben?"), "ben?"), (("cam", "cam?"), "cam?")] and outside == "nobody"
        assert session.call("front.who_fails") == ("who failed", {})
        assert session.call("front.who", "dot")[0] == ("dot", "dot!")


def test_calls_both_ways_at_once_share_channels(node: Any, record_exercised: Record) -> None:
    """Generators stepped by one thread while others call the same shard."""
    with node.session("busy") as session:
        stop = threading.Event()
        calls = itertools.count()

        def ask() -> None:
            while not stop.is_set():
                session.call("store.made")
                next(calls)

        threads = [in_thread(ask) for _ in range(4)]
        assert session.call("front.rows", 500) == list(range(500))
        stop.set()
        for thread, found in threads:
            thread.join(LONG)
            assert found == [None]
        record_exercised("calls beside a stream", next(calls))
