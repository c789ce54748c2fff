"""Random generators and random consumers, cut and uncut: the same items, ends, exceptions, effects and context variables.

A generator is a random program of yields, handlers, effects and changes of context variables; its consumer a random row of
next, send, throw and close. Both are interpreted by the same two modules, in one process uncut and as two shards.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import shardwright
from guest_apps import write_application

LONG = os.environ.get("SWT_LONG") == "1"
MODES = ("shm", "socket", "inproc")
MANIFEST = """
    [app]
    name = "flow"
    context_variables = ["flow.common:MARK"]
    [components.user]
    code = "flow.user"
    [components.maker]
    code = "flow.maker"
    state = "memory"
    [policy]
    node_grace = "0s"
    transport = "{transport}"
"""
COMMON = """
    from contextvars import ContextVar

    MARK = ContextVar("MARK")

    class Odd(Exception):
        def __init__(self, first, second):
            super().__init__(first, second)
            self.second = second

    def error(kind, value):
        return {
            "value": ValueError(value), "key": KeyError(value), "odd": Odd(value, [value]), "stop": StopIteration(value),
        }[kind]

    KINDS = {"value": ValueError, "key": KeyError, "odd": Odd, "any": Exception, "exit": GeneratorExit}
"""
MAKER = """
    import asyncio
    from contextlib import aclosing  # an inner one would be closed whenever the garbage collector likes
    from contextvars import ContextVar
    from flow.common import KINDS, MARK, error

    OWN = ContextVar("OWN", default=0)  # of this module alone
    seen = []

    class Returned(Exception):
        pass

    def effect(step, argument):
        match step:
            case ["append", value]:
                argument.append(value)
            case ["set", value]:
                MARK.set(value)
            case ["get"]:
                seen.append(["mark", MARK.get("unset")])
            case ["own", value]:
                OWN.set(value)
            case ["look"]:
                seen.append(["own", OWN.get()])
            case ["raise", kind, value]:
                raise error(kind, value)

    def play(program, argument):
        for step in program:
            match step:
                case ["yield", value]:
                    seen.append(["got", (yield value)])
                case ["same"]:
                    seen.append(["got", (yield argument)])
                case ["fresh", value]:
                    seen.append(["got", (yield [value, {value: (value,)}])])
                case ["from", body]:
                    yield from play(body, argument)
                case ["return", value]:
                    return value
                case ["sleep"]:
                    pass
                case ["try", body, kind, handler, last]:
                    try:
                        found = yield from play(body, argument)
                        if found is not None:
                            return found
                    except KINDS[kind] as caught:
                        seen.append(["caught", type(caught).__name__, caught.args])
                        if isinstance(caught, GeneratorExit):
                            raise  # what goes on then is left to the garbage collector
                        yield from play(handler, argument)
                    finally:
                        seen.append(["finally"])
                        for effects in last:
                            effect(effects, argument)
                case _:
                    effect(step, argument)

    async def aplay(program, argument):
        for step in program:
            match step:
                case ["yield", value]:
                    seen.append(["got", (yield value)])
                case ["same"]:
                    seen.append(["got", (yield argument)])
                case ["fresh", value]:
                    seen.append(["got", (yield [value, {value: (value,)}])])
                case ["from", body]:
                    async with aclosing(aplay(body, argument)) as inner:
                        async for item in inner:
                            yield item
                case ["return", _]:
                    return
                case ["sleep"]:
                    await asyncio.sleep(0)
                case ["try", body, kind, handler, last]:
                    try:
                        async with aclosing(aplay(body, argument)) as inner:
                            async for item in inner:
                                yield item
                    except KINDS[kind] as caught:
                        seen.append(["caught", type(caught).__name__, caught.args])
                        if isinstance(caught, GeneratorExit):
                            raise
                        async with aclosing(aplay(handler, argument)) as inner:
                            async for item in inner:
                                yield item
                    finally:
                        seen.append(["finally"])
                        for effects in last:
                            effect(effects, argument)
                case _:
                    effect(step, argument)

    class Reel:
        def __init__(self):
            self.turns = 0

        def play(self, program, argument):
            self.turns += 1
            seen.append(["turn", self.turns])
            return (yield from play(program, argument))

    def take_seen():
        found = list(seen)
        seen.clear()
        return found
"""
USER = """
    import asyncio
    import sys
    from flow import maker
    from flow.common import MARK, error

    def outcome(run, argument, thrown=None):
        try:
            item = run()
        except BaseException as raised:
            return failed(raised, argument, thrown)
        return ["item", item, item is argument, list(argument), MARK.get("unset")]

    def failed(raised, argument, thrown):
        what = "stop" if isinstance(raised, (StopIteration, StopAsyncIteration)) else "raised"
        cause = raised.__cause__ or raised.__context__ if thrown is None or raised is not thrown else None
        return [
            what, type(raised).__name__, raised.args, getattr(raised, "value", None), raised is thrown,
            type(cause).__name__, list(argument), MARK.get("unset"),
        ]

    def drive(program, actions, reel):
        unraisable = []
        before, sys.unraisablehook = sys.unraisablehook, lambda what: unraisable.append(type(what.exc_value).__name__)
        try:
            argument = ["first"]
            stream = (maker.Reel() if reel else maker).play(program, argument)
            told = []
            for action in actions:
                match action:
                    case ["next"]:
                        told.append(outcome(lambda: next(stream), argument))
                    case ["send", value]:
                        told.append(outcome(lambda: stream.send(value), argument))
                    case ["throw", kind, value]:
                        thrown = error(kind, value)
                        told.append(outcome(lambda: stream.throw(thrown), argument, thrown))
                    case ["close"]:
                        told.append(outcome(stream.close, argument))
                    case ["set", value]:
                        MARK.set(value)
            del stream
            told.append([list(argument), MARK.get("unset")])
            return told, unraisable, maker.take_seen()
        finally:
            sys.unraisablehook = before

    async def adrive(program, actions):
        argument = ["first"]
        stream = maker.aplay(program, argument)
        told = []
        for action in [*actions, ["close"]]:
            thrown = None
            try:
                match action:
                    case ["next"]:
                        item = await anext(stream)
                    case ["send", value]:
                        item = await stream.asend(value)
                    case ["throw", kind, value]:
                        thrown = error(kind, value)
                        item = await stream.athrow(thrown)
                    case ["close"]:
                        item = await stream.aclose()
                    case ["set", value]:
                        MARK.set(value)
                        continue
                told.append(["item", item, item is argument, list(argument), MARK.get("unset")])
            except BaseException as raised:
                told.append(failed(raised, argument, thrown))
        return told, maker.take_seen()
"""

values = st.integers(0, 9)
kinds = st.sampled_from(["value", "key", "odd"])
effects = st.one_of(
    st.tuples(st.just("append"), values),
    st.tuples(st.just("set"), values),
    st.just(("get",)),
    st.tuples(st.just("own"), values),
    st.just(("look",)),
)
steps = st.recursive(
    st.one_of(
        st.tuples(st.just("yield"), values),
        st.tuples(st.just("fresh"), values),
        st.just(("same",)),
        st.just(("sleep",)),
        effects,
        effects,
        st.tuples(st.just("raise"), st.sampled_from(["value", "key", "odd", "stop"]), values),
        st.tuples(st.just("return"), values),
    ),
    lambda inner: st.one_of(
        st.tuples(st.just("from"), st.lists(inner, max_size=3)),
        st.tuples(
            st.just("try"),
            st.lists(inner, min_size=1, max_size=4),
            st.sampled_from(["value", "key", "odd", "any", "exit"]),
            st.lists(inner, max_size=2),
            st.lists(effects, max_size=1),
        ),
    ),
    max_leaves=12,
)
programs = st.lists(steps, max_size=6)
actions = st.lists(
    st.one_of(
        st.just(("next",)),
        st.just(("next",)),
        st.tuples(st.just("send"), st.one_of(st.none(), values)),
        st.tuples(st.just("throw"), kinds, values),
        st.just(("close",)),
        st.tuples(st.just("set"), values),
    ),
    max_size=8,
)


def listed(thing: Any) -> Any:
    return [listed(each) for each in thing] if isinstance(thing, tuple | list) else thing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("flow")
    write_application(found / "flow", "", __init__="", common=COMMON, maker=MAKER, user=USER)
    (found / "flow" / "shardwright.toml").unlink()
    return found


@pytest.fixture(scope="module")
def uncut(folder: Path) -> Iterator[ModuleType]:
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("flow.user")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] == "flow"]:
            del sys.modules[name]


@pytest.fixture(params=MODES)
def session(request: pytest.FixtureRequest, folder: Path) -> Iterator[Any]:
    transport = "auto" if request.param == "inproc" else request.param
    write_application(folder, MANIFEST.format(transport=transport))
    inproc = request.param == "inproc"
    with shardwright.start(folder, inproc=inproc, state=folder / "state") as node, node.session("flow") as session:
        yield session


limits = settings(
    max_examples=1500 if LONG else 60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def in_a_context_of_its_own(run: Callable[[], Any]) -> Any:
    """As a call of a shard is."""
    import contextvars

    return contextvars.Context().run(run)


def test_generators(session: Any, uncut: ModuleType, record_exercised: Callable[[str, int], None]) -> None:
    done = 0

    @limits
    @given(programs, actions, st.booleans())
    def alike(program: Any, acts: Any, reel: bool) -> None:
        nonlocal done
        program, acts = listed(program), listed(acts)
        expected = in_a_context_of_its_own(lambda: uncut.drive(program, acts, reel))
        assert listed(session.call("user.drive", program, acts, reel)) == listed(expected)
        done += 1

    alike()
    record_exercised("random generators, the same cut and uncut", done)


def test_async_generators(session: Any, uncut: ModuleType, record_exercised: Callable[[str, int], None]) -> None:
    done = 0

    @limits
    @given(programs, actions)
    def alike(program: Any, acts: Any) -> None:
        nonlocal done
        program, acts = listed(program), listed(acts)
        expected = in_a_context_of_its_own(lambda: asyncio.run(uncut.adrive(program, acts)))
        assert listed(session.call("user.adrive", program, acts)) == listed(expected)
        done += 1

    alike()
    record_exercised("random async generators, the same cut and uncut", done)
