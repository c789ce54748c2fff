"""The method resolution order of classes whose bases are known by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shardwright.sharding.callgraph._code import Class


def linearize(class_: Class) -> list[Class | str]:
    """Python's C3 order; where bases contradict each other (or form a circle), depth first without repeats."""
    return _c3(class_, ()) or _depth_first(class_)


def _c3(class_: Class, path: tuple[Class, ...]) -> list[Class | str] | None:
    if class_ in path:
        return None
    lists: list[list[Class | str]] = []
    for base in class_.bases:
        if isinstance(base, str):
            lists.append([base])
            continue
        above = _c3(base, (*path, class_))
        if above is None:
            return None
        lists.append(above)
    lists.append(list(class_.bases))
    order: list[Class | str] = [class_]
    while lists := [item for item in lists if item]:
        for candidate in lists:
            head = candidate[0]
            if not any(head in item[1:] for item in lists):
                break
        else:
            return None
        order.append(head)
        lists = [[item for item in each if item is not head and item != head] for each in lists]
    return order


def _depth_first(class_: Class) -> list[Class | str]:
    order: dict[Class | str, None] = {}
    todo: list[Class | str] = [class_]
    while todo:
        item = todo.pop(0)
        if item in order:
            continue
        order[item] = None
        if not isinstance(item, str):
            todo = [*item.bases, *todo]
    return list(order)
