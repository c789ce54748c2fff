"""Caller and responder, proxies and generated modules: two runtimes over a real channel."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from shardwright.errors import (
    CannotCross,
    ChannelClosed,
    DeadlineExceeded,
    HandleExpired,
    NotPermitted,
    Overloaded,
    ShardLost,
    WouldDeadlock,
)
from shardwright.guest import CallContext, Handle, Link, current_call
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import SessionNumber

MANIFEST = """
    [app]
    name = "town"
    [components.shop]
    code = "shop"
    depends_on = ["stock"]
    [components.stock]
    code = "stock"
    state = "memory"
    queue = 2
    depends_on = ["shop"]
"""
SHOP = """
    import asyncio
    import stock
    from stock import count, Crate, LIMIT, Odd

    def use(name, *args):
        return getattr(stock, name)(*args)

    def all_numbers():
        return list(stock.numbers())
    def ping(n):
        return stock.pong(n - 1) if n else 0

    def is_here():
        return 7

    def mutate():
        mine = [1]
        same = stock.append(mine)
        return mine, same is mine

    def hold():
        crate = stock.Crate(3)
        first = crate.put(2), crate.size, repr(crate)
        return first, crate is stock.echo(crate)

    def handle():
        return stock.Crate(1)

    async def waits(n):
        return await stock.later(n)

    def blocks(n):
        return asyncio.run(stock.later(n))

    async def gives_up():
        await stock.later(0)  # so that nothing is left to bind
        task = asyncio.ensure_future(stock.forever())
        await asyncio.sleep(0.05)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
"""
STOCK = '''
    """What is in store."""
    import asyncio, threading
    import shop

    LIMIT = 10
    live = {"a": 1}
    gate = threading.Event()
    entered = threading.Semaphore(0)
    ended = []

    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one}/{two}")
            self.one, self.two = one, two

    class Crate:
        """A crate."""
        def __init__(self, size=5):
            self.size = size
            self.inside = 0
        def put(self, n=1):
            self.inside += n
            return self.inside
        @property
        def full(self):
            return self.inside >= self.size
        @staticmethod
        def kinds():
            return ("wood", "tin")
        def boom(self):
            raise Odd("a", "crate")

    def count(name, default: int = 0, *rest, exact=False, **more):
        """How many there are."""
        return name, default, rest, exact, more

    def echo(x):
        return x

    def pong(n):
        return shop.ping(n - 1) if n else 0

    def append(thing):
        thing.append(2)
        return thing

    def fails():
        raise Odd(1, 2)

    def odd():
        return threading.Lock()

    def exits():
        raise SystemExit(4)

    def numbers():
        yield 1

    def wait_for_gate():
        entered.release()
        gate.wait(20)
        ended.append(1)
        return len(ended)

    async def later(n):
        await asyncio.sleep(0.01)
        return n + shop.is_here()

    async def forever():
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("forever")

    async def what_ended():
        return list(ended)
'''


@pytest.fixture
def town_of_two(town: Callable[..., Any]) -> Any:
    return town(MANIFEST, shop=SHOP, stock=STOCK)


def stock(town: Any, name: str, *args: Any, **kwargs: Any) -> Any:
    return town.call("shop", "stock", name, *args, **kwargs)


# -- generated modules and stubs ---------------------------------------------------------------------------------


def test_a_generated_module_has_constants_and_exceptions_and_proxies_that_look_like_what_they_stand_for(
    town_of_two: Any,
) -> None:
    module = town_of_two.runtimes["shop"].import_module("stock")
    assert module.LIMIT == 10 and module.__doc__ == "What is in store."
    assert issubclass(module.Odd, Exception)
    assert str(inspect.signature(module.count)) == "(name, default=0, *rest, exact=False, **more)"
    assert (module.count.__name__, module.count.__module__, module.count.__doc__) == (
        "count",
        "stock",
        "How many there are.",
    )
    assert inspect.iscoroutinefunction(module.later) and not inspect.iscoroutinefunction(module.count)
    assert issubclass(module.Crate, Handle) and module.Crate.__doc__ == "A crate."
    with pytest.raises(AttributeError):
        _ = module.__nothing__


def test_arguments_travel_as_they_were_given(town_of_two: Any) -> None:
    assert stock(town_of_two, "count", "a") == ("a", 0, (), False, {})
    found = stock(town_of_two, "count", "a", 1, 2, 3, exact=True, z=4)
    assert found == ("a", 1, (2, 3), True, {"z": 4})
    with pytest.raises(TypeError):
        stock(town_of_two, "count")


def test_changed_arguments_come_back_into_the_callers_own(town_of_two: Any) -> None:
    assert town_of_two.call("shop", "shop", "mutate") == ([1, 2], True)


def test_attributes_that_only_the_owner_knows_are_read_there(town_of_two: Any) -> None:
    assert stock(town_of_two, "live.copy") == {"a": 1}
    with pytest.raises(AttributeError):
        stock(town_of_two, "no_such_name")


def test_a_generator_is_iterated_over(town_of_two: Any) -> None:
    module = town_of_two.runtimes["shop"].import_module("stock")
    assert inspect.isgeneratorfunction(module.numbers)
    assert town_of_two.call("shop", "shop", "all_numbers") == [1]


# -- handles -------------------------------------------------------------------------------------------------------


def test_a_handle_stands_for_its_object(town_of_two: Any) -> None:
    (put, size, text), same = town_of_two.call("shop", "shop", "hold")
    assert (put, size) == (2, 3) and "Crate in stock-00000001" in text and same
    crate = stock(town_of_two, "Crate", 2)
    module = town_of_two.runtimes["shop"].import_module("stock")
    assert isinstance(crate, module.Crate)
    assert stock(town_of_two, "Crate.kinds") == ("wood", "tin")
    with pytest.raises(AttributeError, match="its own methods"):
        crate.size = 9
    with pytest.raises(AttributeError):
        del crate.size
    with pytest.raises(TypeError):
        import copy

        copy.copy(crate)


def test_a_handle_does_not_outlive_its_session(town_of_two: Any) -> None:
    crate = stock(town_of_two, "Crate")
    token = current_call.set(CallContext(session=SessionNumber(1)))
    try:
        assert crate.put() == 1 and crate.full is False
        town_of_two.runtimes["stock"].session_ends(SessionNumber(1))
        with pytest.raises(HandleExpired):
            crate.put()
    finally:
        current_call.reset(token)


def test_an_object_that_nobody_holds_is_let_go(town_of_two: Any) -> None:
    objects = town_of_two.runtimes["stock"].objects
    crate = stock(town_of_two, "Crate")
    assert len(objects) == 1
    del crate
    end_s = time.monotonic() + 10
    while len(objects) and time.monotonic() < end_s:
        stock(town_of_two, "echo", 1)  # what was dropped is told with the next call
    assert len(objects) == 0


# -- results and errors ----------------------------------------------------------------------------------------------


def test_exceptions_arrive_as_they_were(town_of_two: Any) -> None:
    module = town_of_two.runtimes["shop"].import_module("stock")
    with pytest.raises(module.Odd) as caught:
        stock(town_of_two, "fails")
    assert (caught.value.one, caught.value.two, str(caught.value)) == (1, 2, "1/2")
    with pytest.raises(SystemExit) as left:
        stock(town_of_two, "exits")
    assert left.value.code == 4
    assert stock(town_of_two, "echo", 5) == 5


def test_what_cannot_cross_is_named_and_nothing_breaks(town_of_two: Any) -> None:
    with pytest.raises(CannotCross, match="lock") as caught:
        stock(town_of_two, "echo", threading.Lock())
    assert caught.value.outcome == "not started"
    with pytest.raises(CannotCross) as caught:
        stock(town_of_two, "odd")
    assert caught.value.outcome == "failed"
    assert stock(town_of_two, "echo", 5) == 5


def test_calls_that_come_back_do_not_deadlock(town_of_two: Any) -> None:
    assert town_of_two.call("shop", "shop", "ping", 20) == 0


# -- queues, deadlines, ends -----------------------------------------------------------------------------------------


def post(town: Any, link: Link, name: str, *args: Any, deadline_ns: int = 0, session: int = 1) -> SimpleQueue[Any]:
    """Send a call; what becomes of it comes in the queue."""

    class Ticket:
        def __init__(self) -> None:
            self.got: SimpleQueue[Any] = SimpleQueue()

        def deliver(self, outcome: Any) -> None:
            self.got.put(outcome)

    ticket = Ticket()
    payload, buffers, _ = link.codec.encode_request((None, args, {}))
    method = town.plan.definition("stock").entry(name).method_id
    link.begin(
        Envelope(
            Kind.CALL, link.next_id(), SessionNumber(session), method, deadline_ns=deadline_ns, codec=PayloadCodec.TAGGED,
            payload=payload, buffers=buffers,
        ),
        ticket,
    )  # fmt: skip
    return ticket.got


def error_of(link: Link, got: SimpleQueue[Any]) -> BaseException:
    outcome = got.get(timeout=10)
    assert outcome.kind is Kind.ERROR
    return link.codec.decode_error(outcome.payload, outcome.buffers)


def test_a_full_queue_refuses_and_a_passed_deadline_runs_nothing(town_of_two: Any) -> None:
    runtime = town_of_two.runtimes["stock"]
    module = runtime.import_module("stock")
    link = town_of_two.connect("shop", "stock")
    running = post(town_of_two, link, "wait_for_gate")
    assert module.entered.acquire(timeout=10)
    deadline_ns = time.monotonic_ns() + 200_000_000
    late = post(town_of_two, link, "wait_for_gate", deadline_ns=deadline_ns)
    queued = post(town_of_two, link, "wait_for_gate")
    refused = post(town_of_two, link, "wait_for_gate")
    assert isinstance(error_of(link, refused), Overloaded)
    while time.monotonic_ns() < deadline_ns:
        threading.Event().wait(0.001)
    module.gate.set()
    assert running.get(timeout=10).kind is Kind.RESULT
    error = error_of(link, late)
    assert isinstance(error, DeadlineExceeded) and error.outcome == "not started"
    assert queued.get(timeout=10).kind is Kind.RESULT
    assert module.ended == [1, 1]
    end_s = time.monotonic() + 10
    while runtime.responder.busy and time.monotonic() < end_s:  # until the last reply is known to be sent
        threading.Event().wait(0.001)
    assert not runtime.responder.busy


def test_the_caller_gives_up_at_its_deadline(town_of_two: Any) -> None:
    module = town_of_two.runtimes["stock"].import_module("stock")
    runtime = town_of_two.runtimes["shop"]
    stock(town_of_two, "echo", 1)
    token = current_call.set(CallContext(session=SessionNumber(1)).within(0.05))
    try:
        with pytest.raises(DeadlineExceeded, match="no reply") as caught:
            runtime.import_module("stock").wait_for_gate()
        assert caught.value.outcome == "unknown"
    finally:
        current_call.reset(token)
        module.gate.set()
    assert stock(town_of_two, "echo", 2) == 2


def test_a_callee_that_ends_is_told_as_lost_once_and_then_bound_anew(town_of_two: Any) -> None:
    module = town_of_two.runtimes["stock"].import_module("stock")
    told: list[BaseException] = []

    def call() -> None:
        try:
            stock(town_of_two, "wait_for_gate")
        except ShardLost as lost:
            told.append(lost)

    thread = threading.Thread(target=call)
    thread.start()
    assert module.entered.acquire(timeout=10)
    for link in list(town_of_two.runtimes["stock"]._links):
        link.close()
    thread.join(10)
    module.gate.set()
    assert len(told) == 1 and told[0].outcome == "unknown"  # type: ignore[attr-defined]
    assert stock(town_of_two, "echo", 1) == 1


def test_only_sessions_that_the_node_named_may_be_acted_for(town_of_two: Any) -> None:
    link = town_of_two.connect("shop", "stock", sessions=(1,))
    assert post(town_of_two, link, "echo", 1).get(timeout=10).kind is Kind.RESULT
    assert isinstance(error_of(link, post(town_of_two, link, "echo", 1, session=2)), NotPermitted)
    assert isinstance(error_of(link, post(town_of_two, link, "echo", 1, session=0)), NotPermitted)


def test_channels_beyond_reason_are_closed(town_of_two: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shardwright.guest._runtime as runtime_module

    monkeypatch.setattr(runtime_module, "max_links_of_a_peer", lambda: 3)
    for _ in range(3):
        town_of_two.connect("shop", "stock")
    with pytest.raises((Overloaded, ChannelClosed)):
        town_of_two.connect("shop", "stock")


# -- coroutines --------------------------------------------------------------------------------------------------------


def test_coroutines_are_awaited_from_loops_of_shards_and_of_user_code(town_of_two: Any) -> None:
    shard = town_of_two.runtimes["shop"].definition
    assert shard.entry("waits").is_async
    assert town_of_two.call("shop", "shop", "blocks", 1) == 8
    import asyncio

    assert asyncio.run(_awaited(town_of_two, "waits", 2)) == 9


async def _awaited(town: Any, name: str, *args: Any) -> Any:
    return await town.call("shop", "shop", name, *args)


def test_cancelling_the_awaiting_task_cancels_the_call(town_of_two: Any) -> None:
    import asyncio

    assert asyncio.run(_awaited(town_of_two, "gives_up")) == "cancelled"
    module = town_of_two.runtimes["stock"].import_module("stock")
    end_s = time.monotonic() + 10
    while "forever" not in module.ended and time.monotonic() < end_s:
        threading.Event().wait(0.001)
    assert "forever" in module.ended


def test_a_coroutine_of_a_loop_that_waits_for_this_very_call_is_refused(town_of_two: Any) -> None:
    """A blocking call from a loop whose callee needs that loop: refused, where it would hang.

    What another coroutine of the same chain leads to just comes later.
    """
    stock_runtime = town_of_two.runtimes["stock"]
    chains, loop = stock_runtime.chains, stock_runtime.loop
    link = town_of_two.connect("shop", "stock")
    assert post(town_of_two, link, "what_ended").get(timeout=10).kind is Kind.RESULT  # its loop runs now
    from shardwright.guest._chains import Waiting

    waiting = Waiting(99, SessionNumber(1))
    waiting.thread = loop.thread_id
    chains.enter(waiting)
    try:

        class Ticket:
            got: SimpleQueue[Any] = SimpleQueue()

            def deliver(self, outcome: Any) -> None:
                self.got.put(outcome)

        payload, buffers, _ = link.codec.encode_request((None, (), {}))
        method = town_of_two.plan.definition("stock").entry("what_ended").method_id

        def call(blocked: int) -> None:
            link.begin(
                Envelope(
                    Kind.CALL, link.next_id(), SessionNumber(1), method, blocked=blocked, chain=99,
                    codec=PayloadCodec.TAGGED, payload=payload, buffers=buffers,
                ),
                Ticket(),
            )  # fmt: skip

        call(2**64 - 1)
        assert isinstance(error_of(link, Ticket.got), WouldDeadlock)
        call(0)
        assert Ticket.got.get(timeout=10).kind is Kind.RESULT
    finally:
        chains.leave(waiting)
