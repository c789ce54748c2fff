"""Reading is a role: who has it, who gets it next, and that neither interrupts nor deadlines lose it or a message."""

from __future__ import annotations

import _thread
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from typing import Any

import pytest

import shardwright.guest._namespace as namespace_module
import shardwright.guest._runtime as runtime_module
from shardwright.errors import DeadlineExceeded, ShardLost
from shardwright.guest import CallContext, Hub, current_call
from shardwright.guest._mailbox import Mailbox
from shardwright.model.ids import SessionNumber

LONG = 20.0
MANIFEST = """
    [app]
    name = "town"
    [components.shop]
    code = "shop"
    depends_on = ["stock"]
    [components.stock]
    code = "stock"
    depends_on = ["shop"]
"""
SHOP = """
    import threading
    import stock

    def ping(n, seen):
        return stock.pong(n - 1, [*seen, threading.get_ident()]) if n else seen

    def asks(x):
        return stock.echo(x), threading.get_ident()

    def asks_slowly(x):
        return stock.waits_for_gate(x)
"""
STOCK = """
    import threading
    import shop

    gate = threading.Event()
    entered = threading.Semaphore(0)

    def echo(x):
        return x

    def whoami():
        return threading.get_ident()

    def waits_for_gate(x):
        entered.release()
        assert gate.wait(20)
        return x

    def pong(n, seen):
        return shop.ping(n - 1, [*seen, threading.get_ident()]) if n else seen
"""


@pytest.fixture(params=[True, False], ids=["shard's mailbox", "mailbox of --inproc"])
def pair(request: pytest.FixtureRequest, town: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    if request.param:  # components of this test are imported by one thread alone
        monkeypatch.setattr(namespace_module, "ImportingMailbox", Mailbox)
    made = town(MANIFEST, shop=SHOP, stock=STOCK)
    for name in ("shop", "stock"):
        made.runtimes[name].import_module(name)
    token = current_call.set(CallContext(session=SessionNumber(1), session_name="one"))
    yield made
    current_call.reset(token)


def becomes(true: Callable[[], bool]) -> bool:
    end_s = time.monotonic() + LONG
    while not true():
        if time.monotonic() > end_s:
            return False
        threading.Event().wait(0.0005)
    return True


def stock_of(pair: Any) -> Any:
    """What code of the shop sees."""
    return pair.runtimes["shop"].import_module("stock")


class Readers:
    """Which thread handled each message of a hub."""

    def __init__(self, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[int] = []
        handed = runtime_module.Link.on_frame
        own = runtime_module.Link.take_own

        def noted(link: Any, frame: Any) -> None:
            if link.hub is hub:
                self.seen.append(threading.get_ident())
            handed(link, frame)

        def noted_own(link: Any, waiting: Any, *rest: Any) -> bool:
            if link.hub is hub:
                self.seen.append(threading.get_ident())
            return own(link, waiting, *rest)

        monkeypatch.setattr(runtime_module.Link, "on_frame", noted)
        monkeypatch.setattr(runtime_module.Link, "take_own", noted_own)


def test_a_thread_that_waits_reads_its_own_reply(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock, hub = stock_of(pair), pair.runtimes["shop"]._hub
    readers = Readers(hub, monkeypatch)
    stock.echo(0)

    def most_read(seen: list[int]) -> None:
        """Of 50 calls, how many replies this thread read itself: in the best of ten rounds, for where others have the
        cores the guard reads for who does not come to it in time."""
        current_call.set(CallContext(session=SessionNumber(1), session_name="one"))
        for _ in range(10):
            for _ in range(50):
                stock.echo(1)
            seen.append(readers.seen[-50:].count(threading.get_ident()))
            if seen[-1] >= 40:
                return

    for start in (copy_context().run, in_a_thread):
        read: list[int] = []
        start(most_read, read)
        assert max(read) >= 40, f"of 50 calls each, the thread that made them read {read}"


def in_a_thread(work: Any, *args: Any) -> None:
    thread = threading.Thread(target=work, args=args)
    thread.start()
    thread.join(LONG)


def test_a_call_is_run_by_the_thread_that_read_it(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock, hub = stock_of(pair), pair.runtimes["stock"]._hub
    worker = stock.whoami()
    assert worker != hub._thread.ident
    readers = Readers(hub, monkeypatch)
    read = []
    for _ in range(10):  # where others have the cores, the guard reads for who does not come to it in time
        assert {stock.whoami() for _ in range(50)} == {worker}
        read.append(readers.seen[-50:].count(worker))
        if read[-1] >= 40:
            return
    raise AssertionError(f"of 50 calls each, the thread that runs them read {read}")


def test_recursion_over_two_shards_keeps_its_two_threads(pair: Any) -> None:
    seen = pair.runtimes["shop"].import_module("shop").ping(20, [])
    assert len(set(seen[::2])) == 1 and len(set(seen[1::2])) == 1


def test_while_a_call_runs_long_the_guard_reads_and_nobody_else_notices(pair: Any) -> None:
    stock, module = stock_of(pair), pair.runtimes["stock"].import_module("stock")
    hub, mailbox = pair.runtimes["stock"]._hub, pair.runtimes["stock"].mailbox
    thread = threading.Thread(target=lambda: pair.call("shop", "stock", "waits_for_gate", 1))
    thread.start()
    assert module.entered.acquire(timeout=LONG)
    got: list[Any] = []

    def second() -> None:
        got.append(pair.call("shop", "stock", "echo", 2))

    late = threading.Thread(target=second)
    late.start()
    assert becomes(lambda: mailbox.depth == 1)  # it was read, and waits its turn
    assert hub.reader == hub._thread.ident or hub.reader == 0
    module.gate.set()
    thread.join(LONG)
    late.join(LONG)
    assert got == [2]
    assert stock.echo(3) == 3


def test_an_idle_hub_rests(pair: Any) -> None:
    stock = stock_of(pair)
    stock.echo(1)
    hub = pair.runtimes["stock"]._hub
    if isinstance(hub, Hub):
        assert becomes(lambda: hub._resting or hub.reader == hub._thread.ident)
    else:
        assert becomes(lambda: hub.bell.sleeping)
    assert stock.echo(2) == 2


@pytest.mark.parametrize("threads", [2, 16])
def test_of_many_threads_that_wait_each_gets_its_own(
    pair: Any, threads: int, record_exercised: Callable[[str, int], None]
) -> None:
    stock = stock_of(pair)
    wrong: list[Any] = []
    done = threading.Semaphore(0)

    def one(number: int) -> None:
        current_call.set(CallContext(session=SessionNumber(1), session_name="one"))
        for count in range(60):
            mine = [number, count]
            if stock.echo(mine) != mine:
                wrong.append(mine)
        done.release()

    for number in range(threads):
        threading.Thread(target=one, args=(number,), daemon=True).start()
    for _ in range(threads):
        assert done.acquire(timeout=LONG)
    assert not wrong
    record_exercised("calls of threads that read for each other", threads * 60)


def test_who_leads_and_gives_up_lets_another_lead(pair: Any) -> None:
    module = pair.runtimes["stock"].import_module("stock")
    stock = stock_of(pair)
    stock.echo(0)
    got: list[Any] = []

    def leads() -> None:
        current_call.set(CallContext(session=SessionNumber(1)).within(0.2))
        try:
            stock.waits_for_gate(1)
        except DeadlineExceeded:
            got.append("late")

    def follows() -> None:
        current_call.set(CallContext(session=SessionNumber(1)))
        got.append(stock.waits_for_gate(2))

    threads = [threading.Thread(target=leads), threading.Thread(target=follows)]
    threads[0].start()
    assert module.entered.acquire(timeout=LONG)
    threads[1].start()
    threads[0].join(LONG)
    module.gate.set()
    threads[1].join(LONG)
    assert got == ["late", 2]


def test_a_link_that_ends_wakes_the_thread_that_reads(pair: Any) -> None:
    module = pair.runtimes["stock"].import_module("stock")
    stock = stock_of(pair)
    stock.echo(0)
    told: list[BaseException] = []

    def call() -> None:
        current_call.set(CallContext(session=SessionNumber(1)))
        try:
            stock.waits_for_gate(1)
        except ShardLost as lost:
            told.append(lost)

    thread = threading.Thread(target=call)
    thread.start()
    assert module.entered.acquire(timeout=LONG)
    hub = pair.runtimes["shop"]._hub
    assert becomes(lambda: hub.reader != 0 if isinstance(hub, Hub) else hub.bell.sleeping)
    for link in list(pair.runtimes["shop"]._links):
        link.close()  # from this thread, while that one reads
    thread.join(LONG)
    module.gate.set()
    assert len(told) == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_that_user_code_forks_reads_nothing(pair: Any) -> None:
    stock, hub = stock_of(pair), pair.runtimes["shop"]._hub
    stock.echo(1)
    child = os.fork()
    if not child:
        reads = not hub._role.locked() if isinstance(hub, Hub) else not hub._closing
        os._exit(1 if reads or hub.reader else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stock.echo(2) == 2


class Struck(BaseException):
    """What the signal handler raises."""


@pytest.mark.parametrize("seed", range(2))
def test_no_interrupt_of_the_main_thread_loses_the_role_or_a_message(
    pair: Any, seed: int, record_exercised: Callable[[str, int], None]
) -> None:
    """The main thread is struck wherever it happens to be; other threads call meanwhile, and wait for what it may have read."""
    stock = stock_of(pair)
    chance = random.Random(seed)
    rounds = int(os.environ.get("SWT_LONG", "0")) * 20000 or 300
    stop = threading.Event()
    wrong: list[Any] = []
    others = [0, 0]

    def beside(which: int) -> None:
        current_call.set(CallContext(session=SessionNumber(1)).within(3 * LONG))
        while not stop.is_set():
            mine = [which, others[which]]
            try:
                if stock.echo(mine) != mine:
                    wrong.append(mine)
            except BaseException as error:
                wrong.append(error)
                return
            others[which] += 1
            threading.Event().wait(chance.random() * 0.001)

    def strike(number: int, frame: Any) -> None:
        if "coverage" not in frame.f_code.co_filename:  # which has a lock of its own, and would keep it for ever
            raise Struck

    threads = [threading.Thread(target=beside, args=(which,), daemon=True) for which in range(2)]
    before = signal.signal(signal.SIGALRM, strike)
    collector, gc.callbacks[:] = (
        gc.callbacks[:],
        [],
    )  # of others (hypothesis has one): what strikes there cannot be raised
    struck = longest = 0
    try:
        for thread in threads:
            thread.start()
        for count in range(rounds):
            mine = ["main", count]
            begun = time.monotonic()
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, chance.random() * 0.0004 + 1e-6)
                    if stock.echo(mine) != mine:
                        wrong.append(mine)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except Struck:
                struck += 1
            longest = max(longest, time.monotonic() - begun)
    finally:
        while True:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, before)
                break
            except Struck:
                continue
        gc.callbacks[:] = collector
        stop.set()
        for thread in threads:
            thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads), pair.runtimes["shop"]._hub
    assert not wrong
    assert min(others) > 0 and struck > rounds // 20
    assert stock.echo("after") == "after"
    record_exercised("calls that were interrupted somewhere", struck)
    record_exercised("calls beside interrupted ones", sum(others))
    assert longest < LONG


def test_a_signal_that_ends_no_sleep_is_heeded_all_the_same(pair: Any) -> None:
    """One that comes when the main thread has let go of the interpreter, and does not sleep yet, leaves it asleep."""
    stock, module = stock_of(pair), pair.runtimes["stock"].import_module("stock")
    stock.echo(0)

    def strike(number: int, frame: Any) -> None:
        raise Struck

    def late() -> None:
        assert module.entered.acquire(timeout=LONG)
        time.sleep(0.05)  # it sleeps by now: this marks the signal as come, and sends none
        _thread.interrupt_main(signal.SIGUSR1)
        if not heeded.wait(LONG / 4):
            module.gate.set()

    heeded = threading.Event()
    thread = threading.Thread(target=late)
    before = signal.signal(signal.SIGUSR1, strike)
    try:
        thread.start()
        with pytest.raises(Struck):
            stock.waits_for_gate(1)
        assert not module.gate.is_set(), "heeded only when the reply came"
    finally:
        signal.signal(signal.SIGUSR1, before)
        heeded.set()
        module.gate.set()
        thread.join(LONG)
    assert stock.echo(1) == 1
