"""Where in a value an object sits, for people: looked for only when something does not fit."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from shardwright.transport.codec._classes import instance_dict

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
    if isinstance(thing, (str, bytes, int, float)):
        pass
    elif isinstance(thing, dict):
        for key, value in list(dict.items(thing)):
            yield ("key", key), value
        for key in list(dict.keys(thing)):
            yield ("a key", None), key
        if isinstance(thing, collections.defaultdict):
            yield ("default factory", None), thing.default_factory
    elif isinstance(thing, (list, tuple, collections.deque)):
        for index, value in enumerate(list(thing)):
            yield ("item", index), value
    elif isinstance(thing, (set, frozenset)):
        for value in list(thing):
            yield ("an element", None), value
    elif isinstance(thing, slice):
        yield from ((("attribute", n), getattr(thing, n)) for n in ("start", "stop", "step"))
    if isinstance(thing, BaseException):
        for index, value in enumerate(thing.args):
            yield ("attribute", f"args[{index}]"), value
        yield ("attribute", "__cause__"), thing.__cause__
        yield ("attribute", "__context__"), thing.__context__
    if isinstance(thing, type):
        return
    try:
        for name, value in list(instance_dict(thing).items()):
            yield ("attribute", name), value
    except AttributeError:
        pass
    for cls in type(thing).__mro__:
        for name in vars(cls).get("__slots__", ()):
            try:
                yield ("attribute", name), vars(cls)[name].__get__(thing)
            except (AttributeError, KeyError):
                continue
