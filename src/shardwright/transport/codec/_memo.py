"""The memo of a request: its objects by number, the same on both sides, and what they held when they arrived.

The callee's memo remembers a shallow copy of each mutable object. After the call, an object whose elements are no
longer the very same ones has changed, and its new contents travel back in the reply, where the caller's memo finds
the caller's own object by its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import is_
from typing import TYPE_CHECKING, Any, TypeAlias

from shardwright.transport.codec._extension import native

__all__ = ["Memo", "PythonMemo", "Snapshot", "joined"]

Compare = Callable[[Any, Any], bool]
Snapshot = tuple[Any, Any, Compare]  # the object, what it held, whether it still does


class PythonMemo:
    """The objects of one request. Opaque to callers: pass it from the request to its reply."""

    __slots__ = ("objects", "root", "snapshots")

    def __init__(self, root: object, objects: list[Any], snapshots: list[Snapshot]) -> None:
        self.root = root
        self.objects = objects
        self.snapshots = snapshots

    def __repr__(self) -> str:
        return f"Memo({len(self.objects)} objects, {len(self.snapshots)} mutable)"

    def changed(self) -> list[tuple[Any, Any]]:
        """The objects that no longer hold what they held, and that."""
        return [(thing, held) for thing, held, unchanged in self.snapshots if not unchanged(thing, held)]


if TYPE_CHECKING:
    Memo: TypeAlias = PythonMemo
else:
    Memo = PythonMemo if native is None else native.Memo


def joined(first: Any, second: Any) -> Any:
    """The memo for a reply to two requests of one conversation: objects of the first, then those of the second.

    Both sides must join the same two. The second itself where either remembers nothing.
    """
    if not isinstance(first, Memo) or not isinstance(second, Memo) or not first.objects:
        return second
    return Memo(second.root, [*first.objects, *second.objects], [*first.snapshots, *second.snapshots])


def same_elements(elements: Iterable[Any], held: list[Any]) -> bool:
    """Whether these are the very same objects, in order."""
    now = list(elements)
    return len(now) == len(held) and all(map(is_, now, held))


def same_sequence(thing: Any, held: list[Any]) -> bool:
    return len(thing) == len(held) and all(map(is_, thing, held))
