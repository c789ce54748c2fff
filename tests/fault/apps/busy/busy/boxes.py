"""Objects that live here and are reached by handles."""

import gc
import weakref

_made: "weakref.WeakSet[Box]" = weakref.WeakSet()


class Box:
    def __init__(self, size: int) -> None:
        self.size = size
        self.load = bytearray(size)
        _made.add(self)

    def grow(self, more: int) -> int:
        self.size += more
        return self.size


def alive() -> int:
    gc.collect()
    return len(_made)
