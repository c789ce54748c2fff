"""One application, run three ways: uncut, as shards in processes, as shards in this process. All three must agree.

Every function of ``desk`` is a scenario; its outcome is its result, or its exception with arguments, notes, causes and the
user's frames in order.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import shardwright
from house_leaks import Inventory, settle

MANIFEST = """
[app]
name = "parity"
[components.desk]
code = "desk"
scope = "session"
[components.store]
code = "shop.store"
scope = "session"
state = "memory"
[components.lens]
code = "shop.lens"
scope = "session"
[components.echo]
code = "echo"
scope = "session"
[policy]
node_grace = "0s"
"""

# How an outcome is told: run by the uncut program, and by this test on what the shards gave.
TELL = """
import traceback


def tell(run, root):
    try:
        return ["returned", repr(run())]
    except BaseException as error:
        return ["raised", describe(error, root, 0)]


def describe(error, root, depth):
    if error is None or depth > 5:
        return None
    group = getattr(error, "exceptions", ())
    return {
        "type": f"{type(error).__module__}.{type(error).__qualname__}",
        "bases": [base.__name__ for base in type(error).__mro__],
        "args": repr(error.args) if not group else error.args[0],
        "text": str(error),
        "notes": [note for note in getattr(error, "__notes__", []) if not note.startswith("raised in shards of ")],
        "state": sorted((k, repr(v)) for k, v in vars(error).items() if not k.startswith("_")),
        "frames": [
            [frame.filename.rpartition("/")[2], frame.name, frame.line]
            for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(root)
        ],
        "cause": describe(error.__cause__, root, depth + 1),
        "context": describe(error.__context__, root, depth + 1) if error.__cause__ is None else None,
        "suppressed": error.__suppress_context__,
        "group": [describe(inner, root, depth + 1) for inner in group],
    }
"""

FILES = {
    "models.py": '''
        """Common: owned by nobody."""
        import enum
        from dataclasses import dataclass, field
        from typing import NamedTuple


        class Colour(enum.Enum):
            RED = "red"
            BLUE = "blue"


        class Flag(enum.IntFlag):
            A = 1
            B = 2


        class Point(NamedTuple):
            x: int
            y: int = 0


        @dataclass
        class Box:
            name: str
            things: list = field(default_factory=list)
            inner: "Box | None" = None


        @dataclass(frozen=True, slots=True)
        class Frozen:
            a: int
            b: tuple = ()


        class Refused(Exception):
            def __init__(self, item, reason):
                super().__init__(f"{item}: {reason}")
                self.item = item
                self.reason = reason


        class Plain:
            def __init__(self, n):
                self.n = n

            def double(self):
                return self.n * 2
    ''',
    "shop/__init__.py": '"""A package that nobody owns."""\nNAME = "shop"\n',
    "shop/common.py": "LIMIT = 7\n\n\ndef shared(x):\n    return x + LIMIT\n",
    "shop/store.py": '''
        """Owned by store."""
        from __future__ import annotations

        import asyncio
        import contextvars
        import functools
        import threading
        from dataclasses import dataclass
        from enum import Enum
        from typing import NamedTuple

        from models import Box, Colour, Frozen, Plain, Point, Refused
        from . import lens
        from .common import LIMIT, shared

        RATE = 3
        NAMES = ("a", "b")
        TABLE = {"x": 1, "y": [1, 2]}
        SIZES = frozenset({1, 2})
        computed = sum(range(RATE)) + LIMIT
        _count = 0


        class Kind(Enum):
            BIG = 1
            SMALL = 2


        class Pair(NamedTuple):
            left: int
            right: int = 5


        @dataclass
        class Order:
            number: int
            lines: list

            def total(self):
                return sum(self.lines) * RATE

            def asked(self):
                return computed + self.number


        class Broken(ValueError):
            """Owned by store; raised across."""


        class BrokenWell(Broken):
            def __init__(self, first, second):
                super().__init__(first)
                self.second = second


        def add(a, b=1, *, c=10):
            return a + b * c


        def anything(*args, **kwargs):
            return args, kwargs


        def positional(a, /, b, *, key=None):
            return a, b, key


        def same(value):
            return value


        def push(items, value):
            items.append(value)


        def push_return(items, value):
            items.append(value)
            return items


        def fill(box):
            box.name = "filled"
            box.things.append(len(box.things))
            box.inner = Box("inner", box.things)
            return box.inner


        def swap(a, b):
            a[:], b[:] = list(b), list(a)
            return b, a


        def clear(mapping, chosen):
            mapping.clear()
            mapping["k"] = chosen
            chosen.add(9)


        def deep(tree):
            tree["a"]["b"][0].append("leaf")
            tree["new"] = tree["a"]
            del tree["gone"]


        def both(one, two):
            one.append(1)
            return one is two


        def change_then_fail(items):
            items.append("changed")
            raise Broken("after the change")


        def grow(data):
            data.extend(b"xy")


        def alter(plain):
            plain.n += 1
            plain.extra = ["new"]
            return plain


        def boom(kind):
            if kind == "value":
                raise ValueError("plain", 7)
            if kind == "own":
                raise Broken("own")
            if kind == "two":
                raise BrokenWell("one", ["two"])
            if kind == "refused":
                raise Refused("sword", "sold out")
            if kind == "key":
                return {}["missing"]
            if kind == "notes":
                error = RuntimeError("noted")
                error.add_note("first note")
                error.add_note("second note")
                raise error
            if kind == "from":
                try:
                    int("x")
                except ValueError as error:
                    raise Broken("cannot") from error
            if kind == "context":
                try:
                    int("x")
                except ValueError:
                    raise Broken("while")
            if kind == "none":
                try:
                    int("x")
                except ValueError:
                    raise Broken("hidden") from None
            if kind == "group":
                raise ExceptionGroup("several", [ValueError(1), TypeError("t"), ExceptionGroup("in", [KeyError("k")])])
            if kind == "exit":
                raise SystemExit(3)
            if kind == "interrupt":
                raise KeyboardInterrupt
            if kind == "stop":
                raise StopIteration(5)
            if kind == "assert":
                assert kind == "other", "it was not"
            if kind == "unicode":
                b"\\xff".decode()
            if kind == "os":
                open("/nowhere/at/all")
            if kind == "lens":
                return lens.fail_below()
            if kind == "recursion":
                return boom(kind)
            if kind == "local":
                class Local(Exception):
                    pass
                raise Local("of a function")


        def traced(function):
            @functools.wraps(function)
            def wrapper(*args, **kwargs):
                return "traced", function(*args, **kwargs)
            return wrapper


        @traced
        def decorated(x, y=2):
            """Its text."""
            return x * y


        @functools.lru_cache(maxsize=None)
        def cached(n):
            global _count
            _count += 1
            return n * n


        def count():
            return _count


        partial_add = functools.partial(add, 100)


        def swallow():
            try:
                lens.fail_below()
            except ZeroDivisionError as error:
                return f"swallowed {error}"


        async def slow(value, delay=0.0):
            await asyncio.sleep(delay)
            return value


        async def slow_fail():
            await asyncio.sleep(0)
            raise Broken("slowly")


        async def through(value):
            return await lens.aecho(await slow(value))


        def runs_a_loop(value):
            async def inner():
                first, second = await asyncio.gather(lens.aecho(value), lens.aecho(value + 1))
                return first + second
            return asyncio.run(inner())


        _cancelled = []


        async def forever():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                _cancelled.append("cancelled")
                raise


        def cancelled():
            return _cancelled


        variable = contextvars.ContextVar("variable", default="unset")


        def context_here():
            before = variable.get()
            variable.set("set")
            return before, variable.get()


        def in_threads(numbers):
            results = {}

            def work(n):
                results[n] = n + LIMIT
            threads = [threading.Thread(target=work, args=(n,)) for n in numbers]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return dict(sorted(results.items()))


        class Counter:
            """Stateful: reached by handle."""

            made = 0
            STEP = 2

            def __init__(self, start=0, *, name="counter"):
                self.value = start
                self.name = name
                self.items = []

            def up(self, by=1):
                self.value += by
                return self.value

            def keep(self, item):
                self.items.append(item)
                return len(self.items)

            async def later(self, by):
                await asyncio.sleep(0)
                self.value += by
                return self.value

            def fail(self):
                self.value = -1
                raise Broken("in a method")

            @property
            def twice(self):
                return self.value * 2

            @classmethod
            def of(cls, text):
                return cls(int(text))

            @staticmethod
            def helper(a, b):
                return a - b

            def me(self):
                return self

            def other(self, other):
                return other.value + self.value, other is self

            def __len__(self):
                return len(self.items)

            def __getitem__(self, index):
                return self.items[index]

            def __setitem__(self, index, value):
                self.items[index] = value

            def __contains__(self, item):
                return item in self.items

            def __call__(self, x):
                return self.value + x

            def __repr__(self):
                return f"Counter({self.value})"

            def __eq__(self, other):
                return isinstance(other, Counter) and self.value == other.value

            def __hash__(self):
                return hash(("counter", self.name))

            def __bool__(self):
                return self.value != 0

            def __enter__(self):
                self.value += 100
                return self

            def __exit__(self, kind, error, trace):
                self.value -= 100
                return False

            def __iter__(self):
                return iter(list(self.items))


        class Special(Counter):
            def up(self, by=1):
                return super().up(by * 10)


        def make(start):
            return Counter(start)


        def value_of(counter):
            return counter.value


        def is_counter(value):
            return isinstance(value, Counter), isinstance(value, Special)


        def orders(n):
            return [Order(i, [i, i + 1]) for i in range(n)]


        def kinds():
            return Kind.BIG, [Kind.SMALL], {Kind.BIG: Pair(1)}, Colour.RED, Point(1), Frozen(1, (2,))


        def check_kind(kind, pair, colour):
            return kind is Kind.BIG, isinstance(pair, Pair), colour is Colour.BLUE, pair._asdict()


        def lock():
            return threading.Lock()


        def down(n):
            return 0 if n == 0 else 1 + lens.down(n - 1)
    ''',
    "shop/lens.py": '''
        """Owned by lens."""
        import echo
        from . import store as shop_store
        from .store import Counter, add as early_add


        def fail_below():
            return deeper(0)


        def deeper(n):
            return 1 // n


        def down(n):
            return 0 if n == 0 else 1 + shop_store.down(n - 1)


        async def aecho(value):
            return ("echo", value)


        def bump(counter, by):
            counter.up(by)
            return counter


        def hand_on(counter):
            return echo.describe(counter)


        def made_here():
            counter = Counter(40)
            counter.up(2)
            return counter


        def early(n):
            return early_add(n)


        def is_even(n):
            return True if n == 0 else echo.is_odd(n - 1)
    ''',
    "echo.py": '''
        """Owned by echo."""


        def describe(counter):
            from shop.store import Counter
            return isinstance(counter, Counter), counter.value, counter.up(5)


        def is_odd(n):
            from shop import lens
            return False if n == 0 else lens.is_even(n - 1)


        def call_it(function, value):
            return function(value)
    ''',
    "desk.py": '''
        """Every public function is a scenario."""
        import asyncio
        import functools
        import inspect

        import echo
        import shop.lens
        import shop.store as st
        from models import Box, Colour, Flag, Frozen, Plain, Point, Refused
        from shop import lens, store
        from shop.store import Broken, Counter, Kind, Order, Pair, Special, add, cached, decorated
        from shop.store import boom as early_boom


        def arguments():
            return (
                add(1), add(1, 2), add(1, c=3), add(b=4, a=1), store.add(2), st.add(3), shop.store.add(4),
                store.anything(1, *[2, 3], k=4, **{"m": 5}), store.positional(1, b=2, key=3), store.anything(),
            )


        def wrong_arguments():
            return add(1, 2, 3, 4)


        def missing_argument():
            return store.add()


        def unknown_keyword():
            return store.add(1, d=4)


        def values():
            given = [
                None, True, 1, -(2**100), 1.5, float("inf"), "text", "\\ud83d\\ude00", b"bytes", bytearray(b"ba"), (), (1,), [],
                {}, {1: "a", "b": 2, (1, 2): None}, set(), {1, 2}, frozenset({3}), range(3), slice(1, 2), 1 + 2j, Ellipsis,
                Colour.RED, Flag.A | Flag.B, Point(1, 2), Box("b", [1]), Frozen(1), Kind.SMALL, Pair(3), Order(1, [2]),
            ]
            back = [store.same(value) for value in given]
            return [(repr(b), type(b) is type(g), b == g) for g, b in zip(given, back)]


        def typed():
            return Plain(4).double(), store.same(Plain(3)).double(), type(store.same(Plain(3))) is Plain


        def identity():
            items, box, point = [1], Box("b"), Point(1)
            return (
                store.same(items) is items, store.same(box) is box, store.same(None) is None,
                store.same(Colour.RED) is Colour.RED, store.push_return(items, 2) is items, items,
            )


        def mutation():
            items = [1]
            alias = {"items": items}
            store.push(items, 2)
            return items, alias, alias["items"] is items


        def mutated_box():
            box = Box("empty")
            things = box.things
            inner = store.fill(box)
            return box, inner is box.inner, box.things is things, inner.things is things


        def mutated_plain():
            plain = Plain(1)
            back = store.alter(plain)
            return plain.n, plain.extra, back is plain


        def swapped():
            a, b = [1], [2, 3]
            first, second = store.swap(a, b)
            return a, b, first is b, second is a


        def cleared():
            mapping, chosen = {"old": 1}, {1}
            store.clear(mapping, chosen)
            return mapping, chosen, mapping["k"] is chosen


        def deep():
            leafs = []
            tree = {"a": {"b": [leafs]}, "gone": 1}
            store.deep(tree)
            return tree, leafs, tree["new"] is tree["a"], tree["a"]["b"][0] is leafs


        def aliased_twice():
            one = []
            return store.both(one, one), store.both(one, [1]), one


        def cyclic():
            items = [1]
            items.append(items)
            back = store.push_return(items, 3)
            return back is items, items[1] is items, items[2]


        def grown():
            data = bytearray(b"a")
            store.grow(data)
            return data


        def mutated_and_failed():
            items = ["before"]
            try:
                store.change_then_fail(items)
            except Broken as error:
                return items, str(error)


        def raises_value(): return store.boom("value")
        def raises_own(): return store.boom("own")
        def raises_two(): return store.boom("two")
        def raises_refused(): return store.boom("refused")
        def raises_key(): return store.boom("key")
        def raises_notes(): return store.boom("notes")
        def raises_from(): return store.boom("from")
        def raises_context(): return store.boom("context")
        def raises_none(): return store.boom("none")
        def raises_group(): return store.boom("group")
        def raises_exit(): return store.boom("exit")
        def raises_interrupt(): return store.boom("interrupt")
        def raises_stop(): return store.boom("stop")
        def raises_assert(): return store.boom("assert")
        def raises_unicode(): return store.boom("unicode")
        def raises_os(): return store.boom("os")
        def raises_lens(): return store.boom("lens")
        def raises_early(): return early_boom("own")


        def catches():
            found = []
            for kind in ("value", "own", "two", "refused", "key", "os", "lens", "group", "exit", "interrupt"):
                try:
                    store.boom(kind)
                except Broken as error:
                    found.append(("broken", type(error) is Broken, isinstance(error, store.Broken), str(error)))
                except Refused as error:
                    found.append((error.item, error.reason))
                except ExceptionGroup as error:
                    found.append([type(e).__name__ for e in error.exceptions])
                except SystemExit as error:
                    found.append(("exit", error.code))
                except BaseException as error:
                    found.append((type(error).__name__, error.args))
            return found


        def catch_star():
            try:
                store.boom("group")
            except* ValueError as error:
                first = len(error.exceptions)
            except* (TypeError, KeyError):
                second = True
            return first, second


        def chained_here():
            try:
                store.boom("own")
            except Broken as error:
                raise RuntimeError("at the desk") from error


        def swallowed():
            return store.swallow()


        def three_deep():
            return shop.lens.fail_below()


        def decorators():
            return (
                decorated(3), decorated(3, y=5), store.decorated.__name__, store.decorated.__doc__, cached(4), cached(4),
                store.count() >= 1, add.__name__, add.__module__, add.__qualname__,
            )


        def signatures():
            return str(inspect.signature(add)), str(inspect.signature(store.positional)), inspect.iscoroutinefunction(
                store.slow
            )


        def partials():
            half = functools.partial(add, 5, c=2)
            return half(), half(b=3), list(map(functools.partial(store.add, 1), [1, 2])), sorted([3, 1, 2], key=store.same)


        def module_attributes():
            return (
                store.RATE, store.NAMES, store.TABLE, sorted(store.SIZES), store.computed, shop.NAME, store.__name__,
                store._count >= 0, getattr(store, "nothing", "default"), hasattr(store, "add"), store.partial_add(1),
            )


        def missing_attribute():
            return store.no_such_thing


        def relative():
            return lens.early(3), lens.down(6)


        def owned_classes():
            order = Order(1, [2, 3])
            asked = order.total(), order.asked(), [o.total() for o in store.orders(3)]
            kinds = isinstance(store.orders(1)[0], Order), store.kinds(), store.check_kind(Kind.BIG, Pair(1), Colour.BLUE)
            return *asked, *kinds


        def recursion():
            return store.down(200), lens.is_even(60)


        async def awaited():
            return await store.slow(1), await store.through("x"), await asyncio.gather(
                store.slow("b", 0.02), store.slow("a", 0.0), lens.aecho(3)
            )


        async def awaited_failure():
            return await store.slow_fail()


        async def gathered_failure():
            found = await asyncio.gather(store.slow(1), store.slow_fail(), return_exceptions=True)
            return [repr(f) for f in found]


        async def timed_out():
            try:
                await asyncio.wait_for(store.slow(1, 30), 0.05)
            except TimeoutError:
                return "timed out"


        async def cancels():
            task = asyncio.create_task(store.forever())
            await asyncio.sleep(0.2)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            for _ in range(100):
                if store.cancelled():
                    break
                await asyncio.sleep(0.02)
            return store.cancelled()


        async def async_calls_sync():
            items = []
            store.push(items, await store.slow(5))
            return items, store.add(1)


        def sync_runs_async():
            return asyncio.run(awaited()), store.runs_a_loop(3)


        def contexts():
            return store.context_here(), store.context_here()[1], store.in_threads([1, 2, 3])


        def counters():
            counter = Counter(3)
            return (
                counter.up(), counter.up(by=4), counter.value, counter.twice, counter.name, counter.keep("x"), len(counter),
                counter[0], "x" in counter, "y" in counter, counter(5), repr(counter), str(counter), f"{counter}",
                bool(counter), bool(Counter()), isinstance(counter, Counter), type(counter).__name__,
                Counter.of("12").value, Counter.helper(5, 3), counter.me() is counter, counter.other(counter),
                counter.STEP, store.value_of(counter), store.is_counter(counter), issubclass(Special, Counter),
            )


        def counter_set_item():
            counter = Counter()
            counter.keep("a")
            counter[0] = "b"
            return counter[0]


        def counter_equality():
            one, other = Counter(1), Counter(1)
            return (
                one == other, one == Counter(2), one != other, one == 5, hash(one) == hash(other), len({one, other}),
                one is other,
            )


        def counter_special():
            special = Special(1)
            return special.up(), isinstance(special, Counter), store.is_counter(special), special.twice


        def counter_context():
            counter = Counter(1)
            with counter as inside:
                within = inside.value
            return within, counter.value


        def counter_travels():
            counter = store.make(1)
            back = lens.bump(counter, 2)
            return back is counter, counter.value, lens.hand_on(counter), counter.value, lens.made_here().value


        def counter_kept():
            box = Box("holder", [Counter(1), Counter(2)])
            back = store.same(box)
            back.things[0].up()
            return [c.value for c in box.things], back is box


        def counter_failure():
            counter = Counter(5)
            try:
                counter.fail()
            except Broken as error:
                return str(error), counter.value


        def counter_fails():
            return Counter(5).fail()


        def counter_missing():
            return Counter(5).nothing_of_that_name


        async def counter_awaits():
            counter = Counter(1)
            return await counter.later(2), await asyncio.gather(counter.later(1), counter.later(1)), counter.value


        def counter_bound_method():
            counter = Counter(1)
            up = counter.up
            return [up() for _ in range(3)], list(map(counter.up, [1, 1]))
    ''',
}

# Where cut and uncut differ on purpose, the next test says how.
SCENARIOS = tuple(
    name for name in re.findall(r"^        (?:async )?def (\w+)\(\)", FILES["desk.py"], flags=re.MULTILINE)
)


def write_app(folder: Path) -> Path:
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"))
    (folder / "shardwright.toml").write_text(MANIFEST)
    return folder


def tell_all(app: Path, run: Callable[[str], Any]) -> dict[str, Any]:
    space: dict[str, Any] = {}
    exec(TELL, space)
    return {name: json.loads(json.dumps(space["tell"](lambda n=name: run(n), str(app)))) for name in SCENARIOS}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("parity"))


@pytest.fixture(scope="module")
def uncut(app: Path) -> dict[str, Any]:
    program = f"""{TELL}
import asyncio, inspect, json, sys
sys.path.insert(0, {str(app)!r})
import desk
def run(name):
    result = getattr(desk, name)()
    return asyncio.run(result) if inspect.iscoroutine(result) else result
print(json.dumps({{name: tell(lambda: run(name), {str(app)!r}) for name in {SCENARIOS!r}}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module", params=["processes", "inproc"])
def cut(request: pytest.FixtureRequest, app: Path) -> dict[str, Any]:
    before = Inventory.take()
    with (
        shardwright.start(app, inproc=request.param == "inproc", state=app / "state") as node,
        node.session("parity") as session,
    ):
        found = tell_all(app, lambda name: session.call(f"desk.{name}"))
    left = settle(before)
    assert not left, left
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_cut_means_what_uncut_means(
    scenario: str, uncut: dict[str, Any], cut: dict[str, Any], record_exercised: Callable[[str, int], None]
) -> None:
    assert cut[scenario] == uncut[scenario]
    record_exercised("scenarios of the language, the same cut and uncut", 1)
