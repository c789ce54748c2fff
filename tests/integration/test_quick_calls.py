"""Calls in one piece in C: nobody sees a difference to those that go the slow way, but the clock.

Sockets have no other way than the slow one, which is the reference: the same battery runs over them and over rings, where
each call goes the slow way first and the quick one from then on.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest_apps import running, write_application
from shardwright.transport import shm

ROUNDS = 4
MANIFEST = """
[app]
name = "quick"
[components.near]
code = "near"
limits = {{ memory = "512MiB" }}
[components.far]
code = "far"
[components.kin]
code = "kin"
[[edges]]
from = "near"
to = "kin"
codec = "pickle"
[policy]
transport = "{transport}"
"""
FAR = """
import asyncio
import sys
import threading
import time

kept = []
here = threading.local()

class Refused(Exception):
    def __init__(self, why, number):
        super().__init__(why, number)
        self.number = number

class Till:
    def __init__(self, coins):
        self.coins = coins
    def take(self, count):
        self.coins -= count
        return self.coins

def echo(value=None, *rest, key="none", **more):
    return value, rest, key, more

def change(numbers, words):
    numbers.append(len(numbers))
    words["last"] = numbers[-1]
    return numbers

def extend(numbers, *more):
    numbers.extend(more)
    return len(numbers)

def same(one, other):
    return one is other

def fail(how):
    if how == "refused":
        raise Refused("no", 7)
    if how == "exit":
        raise SystemExit(3)
    if how == "caused":
        try:
            {}["missing"]
        except KeyError as error:
            raise ValueError("that") from error
    raise LookupError(how)

def uncrossable():
    return threading.Lock()

async def late(value):
    await asyncio.sleep(0)
    return value

def gives_coroutine(value):
    return late(value)

def says(text):
    print(text, end="")
    return len(text)

def keep(value):
    kept.append(value)
    return len(kept)

def till(coins):
    return Till(coins)

def deep(levels):
    import near
    return near.deeper(levels)

def ask_back(s):
    import near
    time.sleep(s)
    return near.my_thread()

def swapped():
    return "before"

def swap():
    global swapped
    def other():
        return "after"
    swapped = other

def swap_back(was=swapped):
    global swapped
    swapped = was

def slow(s):
    time.sleep(s)
    return s

def thread_of_call():
    here.calls = getattr(here, "calls", 0) + 1
    return here.calls > 0

def recurse(n):
    return recurse(n + 1)

def forks(status):
    import os
    child = os.fork()
    if not child:
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def quick():
    import gc
    return sum(desk.calls_in for desk in gc.get_objects() if type(desk).__name__ == "Desk")
"""
NEAR = '''
import threading
import far
import kin

def deeper(levels):
    return 0 if levels == 0 else 1 + far.deep(levels - 1)

def my_thread():
    return threading.get_ident()

def same_thread():
    """What comes back runs on the thread that waits for it, however long that has waited, whoever was called before."""
    return [far.ask_back(s) == threading.get_ident() for s in (0, 0.005, 0, 0.005, 0)]

def same_thread_beside_others(rounds):
    return [far.ask_back(0.02) == threading.get_ident() for _ in range(rounds)]

def told(call):
    """What comes of a call, as text."""
    try:
        return repr(call())
    except BaseException as error:
        cause = error.__cause__
        return f"{type(error).__name__}{error.args!r} caused by {type(cause).__name__}: {getattr(error, 'number', '')}"

def changed(module):
    numbers, words = [1], {}
    alias = numbers
    given = module.change(numbers, words)
    return numbers, words, given is alias

def extended(module):
    numbers = [1]
    return module.extend(numbers, "a", 2.5), numbers, module.extend([]), module.extend(numbers)

def aliased():
    one = [1]
    return far.same(one, one), far.same([1], [1])

def swapping():
    seen = [far.swapped(), far.swapped()]
    far.swap()
    seen.append(far.swapped())
    far.swap_back()
    return seen + [far.swapped()]

def from_threads():
    found = []
    def one(n):
        for m in range(5):
            found.append(far.echo((n, m))[0])
    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found)

def tills():
    till = far.till(10)
    return [till.take(3), far.echo(till)[0] is till, till.take(3)]

BATTERY = {
    "a fork": lambda: far.forks(7),
    "nothing": lambda: far.echo(),
    "values": lambda: far.echo(1, 2.5, b"b", "text", key=("a", None), other={1: [2]}),
    "large int": lambda: far.echo(1 << 200),
    "text of surrogates": lambda: far.echo("\\ud800"),
    "a list": lambda: far.echo([1, [2], {3}]),
    "4 KiB": lambda: len(far.echo(bytes(4096))[0]),
    "just quick": lambda: len(far.echo(bytes(3900))[0]),
    "1 MiB": lambda: len(far.echo(bytes(1 << 20))[0]),
    "a missing argument": lambda: far.change([1]),
    "an argument too many": lambda: far.same(1, 2, 3),
    "changed arguments": lambda: changed(far),
    "changed arguments and a plain result": lambda: extended(far),
    "aliases": aliased,
    "an exception": lambda: far.fail("refused"),
    "another": lambda: far.fail("other"),
    "with a cause": lambda: far.fail("caused"),
    "an exit": lambda: far.fail("exit"),
    "what cannot go": lambda: far.echo(threading.Lock()),
    "what cannot come back": lambda: far.uncrossable(),
    "a coroutine function": lambda: far.gives_coroutine(5),
    "a line that goes on": lambda: far.says("half"),
    "kept": lambda: far.keep([1]) > 0,
    "handles": tills,
    "back and forth": lambda: far.deep(5),
    "on the thread that waits": same_thread,
    "a function that is replaced": swapping,
    "threads": from_threads,
    "longer than patience": lambda: far.slow(0.003),
    "thread locals": lambda: far.thread_of_call(),
    "recursion over there": lambda: far.recurse(0),
    "pickled": lambda: kin.echo(1, key="a"),
    "pickled objects": lambda: kin.echo([1, {2}, (3, [4])]),
    "pickled error": lambda: kin.fail("caused"),
    "pickled, too many": lambda: kin.same(1, 2, 3),
    "pickled 1 MiB": lambda: len(kin.echo(bytes(1 << 20))[0]),
}

def battery():
    return {name: told(call) for name, call in BATTERY.items()}

def count():
    import gc
    far.quick()
    desks = [desk for desk in gc.get_objects() if type(desk).__name__ == "Desk"]
    return sum(desk.calls_out for desk in desks), far.quick()

def many(threads, calls):
    """Each thread its own numbers, and no answer that is another's."""
    wrong = []
    def one(n):
        for m in range(calls):
            if far.echo((n, m), m, key=n) != ((n, m), (m,), n, {}):
                wrong.append((n, m))
    began = [threading.Thread(target=one, args=(n,)) for n in range(threads)]
    for thread in began:
        thread.start()
    for thread in began:
        thread.join()
    return wrong

def beside(calls):
    """One thread waits long, while another calls often."""
    long = []
    waits = threading.Thread(target=lambda: long.append(kin.slow(0.2)))
    waits.start()
    for n in range(calls):
        assert far.echo(n)[0] == n
    alive = waits.is_alive()
    waits.join()
    return long, alive
'''


def application(folder: Path, transport: str) -> Path:
    return write_application(
        folder / transport,
        MANIFEST.format(transport=transport),
        near=NEAR,
        far=FAR,
        kin=FAR.replace("import near", "near = None"),
    )


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_the_quick_way_and_the_slow_way_come_to_the_same(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    found: dict[str, list[dict[str, str]]] = {}
    for transport in ("socket", "shm"):
        with running(application(tmp_path, transport)) as node, node.session("one") as session:
            found[transport] = [session.call("near.battery") for _ in range(ROUNDS)]
            out, into = session.call("near.count")
            assert (out > 100 and into > 100) == (transport == "shm"), (out, into)
    reference = found["socket"][0]
    assert len(reference) == 36
    for rounds in found.values():
        for outcome in rounds:
            assert outcome == reference
    assert "Refused('no', 7)" in reference["an exception"]
    assert reference["on the thread that waits"] == "[True, True, True, True, True]"
    assert reference["changed arguments and a plain result"] == "(3, [1, 'a', 2.5], 0, 3)"
    assert reference["changed arguments"] == "([1, 1], {'last': 1}, True)"
    record_exercised("outcomes of calls compared between the quick way and the slow one", 2 * ROUNDS * len(reference))


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_threads_that_call_at_once_get_each_their_own_answer(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    with running(application(tmp_path, "shm")) as node, node.session("one") as session:
        assert session.call("near.many", 64, 100) == []
        long, alive = session.call("near.beside", 300)
        assert long == [0.2]
        assert alive, "calls waited for another thread's"
    record_exercised("quick calls of many threads at once", 64 * 100 + 300)


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_sessions_that_call_at_once_are_kept_apart(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    with running(application(tmp_path, "shm")) as node:
        found: list[Any] = []

        def one(name: str) -> None:
            with node.session(name) as session:
                rounds = [session.call("near.battery") for _ in range(2)]
                for outcome in rounds:
                    del outcome["a function that is replaced"]  # the sessions replace the same one
                found.append(json.dumps(rounds, sort_keys=True))

        threads = [threading.Thread(target=one, args=(f"s{n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        assert len(set(found)) == 1
    record_exercised("batteries of quick calls beside each other", 8)


@pytest.mark.skipif(not shm.available(), reason="the C extension was not built")
def test_what_comes_back_runs_on_the_thread_that_waits_though_another_reads(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    """Whoever answered last is the one who reads; it must not answer what belongs to a chain that waits."""
    with running(application(tmp_path, "shm")) as node, node.session("one") as session, node.session("two") as other:
        assert session.call("near.same_thread_beside_others", 2) == [True, True]
        over = threading.Event()
        calls = 0

        def meanwhile() -> None:
            nonlocal calls
            while not over.wait(0.004):
                other.call("near.my_thread")
                calls += 1

        thread = threading.Thread(target=meanwhile)
        thread.start()
        try:
            assert session.call("near.same_thread_beside_others", 12) == [True] * 12
        finally:
            over.set()
            thread.join()
    assert calls > 12
    record_exercised("calls that came back beside others", 12)
