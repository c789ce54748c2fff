"""Where in a value an object sits, for people: looked for only when something does not fit."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from shardwright.transport.codec._classes import instance_dict, slots_of

__all__ = ["Describe", "Step", "children", "describe_call", "describe_value", "path_to"]

Step: TypeAlias = tuple[str, Any]
"""One step into a value: ("item", index), ("key", key), ("attribute", name), ("element" or "key of", None)."""

Describe: TypeAlias = Callable[[tuple[Step, ...]], str]
"""Turns the steps from the root to an object into words."""

_MOST = 100_000  # objects looked at


def describe_value(steps: tuple[Step, ...]) -> str:
    """``value[0]['jobs'].callback``"""
    return "value" + render(steps)


def describe_call(steps: tuple[Step, ...]) -> str:
    """For a request that is ``(positional, keywords)``: ``argument 2['jobs'].callback``, ``argument 'name'``."""
    if len(steps) >= 2 and steps[0] == ("item", 0) and steps[1][0] == "item":
        return f"argument {steps[1][1] + 1}{_spaced(steps[2:])}"
    if len(steps) >= 2 and steps[0] == ("item", 1) and steps[1][0] == "key":
        return f"argument {steps[1][1]!r}{_spaced(steps[2:])}"
    return "the arguments" + render(steps)


def _spaced(steps: tuple[Step, ...]) -> str:
    return f" {render(steps)}" if steps else ""


def render(steps: tuple[Step, ...]) -> str:
    words = []
    for kind, key in steps:
        if kind == "attribute":
            words.append(f".{key}")
        elif kind in ("item", "key"):
            words.append(f"[{_short(key)}]")
        else:
            words.append(f"<{kind}>")
    return "".join(words)


def _short(key: object) -> str:
    try:
        text = repr(key)
    except Exception:
        return f"<{type(key).__name__}>"
    return text if len(text) <= 60 else text[:57] + "..."


def path_to(root: object, offender: object) -> tuple[Step, ...] | None:
    """The shortest way from ``root`` to ``offender``, or None."""
    seen = {id(root)}
    keep = [root]  # so that no id is reused while we look
    queue: collections.deque[tuple[Any, tuple[Any, ...] | None]] = collections.deque([(root, None)])
    while queue and len(seen) < _MOST:
        thing, way = queue.popleft()
        if thing is offender:
            steps = []
            while way is not None:
                step, way = way
                steps.append(step)
            return tuple(reversed(steps))
        for step, child in children(thing):
            if id(child) not in seen:
                seen.add(id(child))
                keep.append(child)
                queue.append((child, (step, way)))
    return None


def children(thing: Any) -> Iterator[tuple[Step, Any]]:
    """What an object holds, and the step to each; runs no code of its class."""
    cls: Any = type(thing)  # never isinstance: a handle may answer for another class
    if issubclass(cls, dict):
        for key, value in list(dict.items(thing)):
            yield ("key", key), value
        for key in list(dict.keys(thing)):
            yield ("a key", None), key
        if issubclass(cls, collections.defaultdict):
            yield ("default factory", None), thing.default_factory
    elif issubclass(cls, (list, tuple, collections.deque)):
        base: Any = next(k for k in (list, tuple, collections.deque) if issubclass(cls, k))
        for index, value in enumerate(list(base.__iter__(thing))):
            yield ("item", index), value
    elif issubclass(cls, (set, frozenset)):
        for value in list((set if issubclass(cls, set) else frozenset).__iter__(thing)):
            yield ("an element", None), value
    elif cls is slice:
        yield from ((("attribute", n), getattr(thing, n)) for n in ("start", "stop", "step"))
    elif issubclass(cls, type):
        return
    elif issubclass(cls, BaseException):
        for index, value in enumerate(thing.args):
            yield ("attribute", f"args[{index}]"), value
        yield ("attribute", "__cause__"), thing.__cause__
        yield ("attribute", "__context__"), thing.__context__
    if cls.__dictoffset__:
        try:
            state = instance_dict(thing)
        except AttributeError:
            state = {}
        if type(state) is dict:
            for name, value in list(state.items()):
                yield ("attribute", name), value
    for name, descriptor in slots_of(cls):
        try:
            yield ("attribute", name), descriptor.__get__(thing)
        except AttributeError:
            continue
