"""What outlives calls: which globals and attributes of classes lead to what functions change.

Modules and classes hold objects and containers, directly or inside of others. From each that a function changes, what holds it
is followed backwards, once for all of them: a slot or value is visited for the first that reaches it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shardwright.sharding.callgraph._analysis import Analysis
from shardwright.sharding.callgraph._values import BoxValue, InstanceValue, Slot

Changed = tuple[str, Any]
"""A function, and the container or class whose content, or whose objects, it changes."""


def changed_through(analysis: Analysis, changed: Iterable[Changed]) -> dict[str, str]:
    """The globals (``module:name``) and attributes of classes (``name``) that lead there, each with the first such function."""
    roots: list[tuple[str, Slot]] = []
    for module in analysis.modules.values():
        roots += [(f"{module.source.name}:{name}", slot) for name, slot in module.scope.names.items()]
    for class_ in analysis.classes():
        roots += list(class_.body.items())
    before = _held_by(slot for _, slot in roots)
    origins: dict[Slot, list[str]] = {}
    for origin, slot in roots:
        origins.setdefault(slot, []).append(origin)
    found: dict[str, str] = {}
    seen: set[Any] = set()
    for function, thing in changed:
        todo = [thing]
        while todo:
            item = todo.pop()
            if item in seen:
                continue
            seen.add(item)
            for origin in origins.get(item, ()):
                found.setdefault(origin, function)
            todo += before.get(item, ())
    return found


def _held_by(roots: Iterable[Slot]) -> dict[Any, list[Any]]:
    """For each slot, container and class that roots lead to: what holds it."""
    before: dict[Any, list[Any]] = {}
    seen: set[Any] = set()
    todo: list[Any] = list(roots)
    while todo:
        item = todo.pop()
        if item in seen:
            continue
        seen.add(item)
        inner: list[Any]
        if isinstance(item, Slot):
            inner = []
            for value in item.values:
                if isinstance(value, BoxValue):
                    inner.append(value)
                elif isinstance(value, InstanceValue):
                    for class_ in (value.class_, *(value.class_.below if value.cone else ())):
                        inner += class_.inside
        elif isinstance(item, BoxValue):
            inner = [item.rest, item.keys, *item.items.values()]
        else:
            inner = list(item.attributes.values())
        for held in inner:
            before.setdefault(held, []).append(item)
            todo.append(held)
    return before
