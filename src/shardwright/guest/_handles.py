"""Handles: stand-ins for objects of stateful classes that live in another shard.

A handle class has the name and the methods of the class that it stands for, so ``isinstance`` and signatures work. Calls
and attribute reads travel to the owner; writing attributes from outside is refused, for the owner alone changes its state.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, NoReturn

from shardwright.errors import CutRefused
from shardwright.model.ids import ShardId

if TYPE_CHECKING:
    from shardwright.guest._stubs import Proxies
    from shardwright.model.shard import ShardDefinition


class HandleType(type):
    """Constructing a handle class constructs the object in its owner."""

    _proxies: Proxies
    _definition: ShardDefinition
    _qualname: str

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
        return cls._proxies.construct(cls, args, kwargs)

    def __setattr__(cls, name: str, value: object) -> None:
        if not name.startswith("__"):
            raise cls._fixed(name)
        super().__setattr__(name, value)

    def __delattr__(cls, name: str) -> None:
        if not name.startswith("__"):
            raise cls._fixed(name)
        super().__delattr__(name)

    def _fixed(cls, name: str) -> CutRefused:
        owner = cls._definition.component if hasattr(cls, "_definition") else "its owner"
        return CutRefused(
            f"{cls.__qualname__}.{name} belongs to component {owner}, and cannot be changed from another one",
            remedy=f"give {owner} a function that changes it",
        )

    def __instancecheck__(cls, instance: object) -> bool:
        return super().__instancecheck__(instance)


class Handle(metaclass=HandleType):
    """Base of all handle classes. Instances are made by the codec, never by hand."""

    __slots__ = ("__weakref__", "_sw_object", "_sw_received", "_sw_shard")
    _sw_shard: ShardId
    _sw_object: int
    _sw_received: int

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(self)._proxies.read_object(self, name)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(
            f"cannot set {type(self).__name__}.{name} from another shard: the object lives in {self._sw_shard}; "
            "change it through its own methods"
        )

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {type(self).__name__}.{name} from another shard")

    def __repr__(self) -> str:
        return f"<{type(self).__qualname__} in {self._sw_shard}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a handle cannot be pickled; pass it in a call")

    def __del__(self) -> None:
        proxies = getattr(type(self), "_proxies", None)
        if proxies is not None:
            proxies.dropped(self._sw_shard, self._sw_object, self._sw_received)


class HandleCache:
    """One handle per remote object and process, so that identity holds."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # the collector may run user code inside, and that may come back here
        self._handles: weakref.WeakValueDictionary[tuple[ShardId, int], Handle] = weakref.WeakValueDictionary()

    def get(self, cls: type[Handle], shard: ShardId, object_id: int) -> Handle:
        """The handle of that object; counts one more reception."""
        with self._mutex:
            handle = self._handles.get((shard, object_id))
            if handle is None:
                fresh = object.__new__(cls)
                object.__setattr__(fresh, "_sw_shard", shard)
                object.__setattr__(fresh, "_sw_object", object_id)
                object.__setattr__(fresh, "_sw_received", 0)
                handle = self._handles.setdefault((shard, object_id), fresh)
            object.__setattr__(handle, "_sw_received", handle._sw_received + 1)
            return handle
