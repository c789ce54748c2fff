"""User code that runs outside any call: ``__del__``, threads of its own, tasks that outlived their call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from shardwright.errors import NotPermitted, WouldDeadlock
from shardwright.guest import NOWHERE, CallContext, current_call, serves
from shardwright.guest._context import Life
from shardwright.model.ids import NO_SESSION, SessionNumber

MANIFEST = """
    [app]
    name = "town"
    [components.maker]
    code = "maker"
    state = "memory"
    depends_on = ["witness"]
    [components.witness]
    code = "witness"
    state = "memory"
    depends_on = ["maker"]
    [components.room]
    code = "room"
    scope = "session"
    sessions_per_shard = 2
    depends_on = ["witness"]
"""
MAKER = """
    import threading
    import witness

    class Box:
        def __init__(self, n):
            self.n = n

        def fill(self):
            self.n += 1

        def __del__(self):
            witness.gone(self.n)
            left.append(threading.current_thread().name)

    left = []

    def use():
        return 1

    def made(n):
        return Box(n)
"""
WITNESS = """
    import maker

    seen = []

    def gone(n):
        seen.append(n)

    def work():
        box = maker.Box(1)
        box.fill()
        del box
        maker.use()
        return maker.use()
"""
ROOM = "import witness\n"


@pytest.fixture
def built(town: Callable[..., Any]) -> Any:
    return town(MANIFEST, maker=MAKER, witness=WITNESS, room=ROOM)


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """What the function returns, or raises, on a thread of its own."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert found, "it hangs"
    return found[0]


def eventually(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(5000):
        if holds():
            return
        pause.wait(0.002)
    raise AssertionError("it did not come about")


def test_an_object_that_calls_another_shard_as_it_goes_hangs_nobody(built: Any) -> None:
    assert within(10, lambda: built.call("maker", "witness", "work")) == 1
    witness = built.runtimes["witness"].import_module("witness")
    maker = built.runtimes["maker"].import_module("maker")
    eventually(lambda: witness.seen == [2] and len(maker.left) == 1)
    assert maker.left[0].startswith("maker-") and "hub" not in maker.left[0]


def test_the_end_of_a_session_lets_go_where_user_code_may_wait(built: Any) -> None:
    box = built.call("witness", "maker", "made", 7)
    assert within(10, lambda: built.runtimes["maker"].session_ends(SessionNumber(1))) is None
    witness = built.runtimes["witness"].import_module("witness")
    eventually(lambda: witness.seen == [7])
    maker = built.runtimes["maker"].import_module("maker")
    eventually(lambda: bool(maker.left))  # it has heard, too, that it was
    del box


def test_when_the_mailbox_refuses_objects_go_on_a_thread_of_their_own(built: Any) -> None:
    runtime = built.runtimes["maker"]
    box = built.call("witness", "maker", "made", 5)
    runtime.mailbox.close()
    runtime.session_ends(SessionNumber(1))
    maker = runtime.import_module("maker")
    eventually(lambda: bool(maker.left))
    assert maker.left[0].endswith("-farewell")
    del box


def test_a_thread_that_serves_others_refuses_to_wait(built: Any) -> None:
    def on_a_service() -> Any:
        serves("the reading of every channel")
        return built.call("maker", "witness", "work")

    error = within(10, on_a_service)
    assert isinstance(error, WouldDeadlock) and error.outcome == "not started" and "the reading" in error.message


def test_a_thread_belongs_to_the_one_session_that_its_shard_serves(built: Any) -> None:
    runtime = built.runtimes["room"]
    assert within(5, runtime.caller.context).session == 1
    runtime.session_begins(SessionNumber(2), "two")
    error = within(5, runtime.caller.context)
    assert isinstance(error, NotPermitted) and "copy_context" in error.remedy
    runtime.session_ends(SessionNumber(1))
    assert within(5, runtime.caller.context).session == 2
    runtime.session_ends(SessionNumber(2))
    assert within(5, runtime.caller.context).session == NO_SESSION


def test_a_thread_of_a_shard_that_serves_everybody_acts_for_the_shard(built: Any) -> None:
    assert within(5, built.runtimes["maker"].caller.context).session == NO_SESSION


def test_what_outlives_its_call_loses_deadline_and_chain_and_then_the_session(built: Any) -> None:
    life = Life()
    context = CallContext(SessionNumber(1), "one", chain=9, deadline_ns=1, life=life)
    shared, room = built.runtimes["maker"], built.runtimes["room"]
    token = current_call.set(context)
    try:
        assert shared.caller.context() is context
        life.over = True
        after = shared.caller.context()
        assert (after.session, after.session_name, after.chain, after.deadline_ns) == (1, "one", 0, 0)
        assert after.trace_id != NOWHERE.trace_id and room.caller.context().session == 1
        shared.session_ends(SessionNumber(1))
        assert shared.caller.context().session == NO_SESSION
        room.session_begins(SessionNumber(2), "two")
        room.session_ends(SessionNumber(1))
        with pytest.raises(NotPermitted, match="has ended"):
            room.caller.context()  # never in the session of another
    finally:
        current_call.reset(token)
