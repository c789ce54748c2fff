"""Between a component and what was cut out of it: one trust domain, the same modules on both sides.

Pickle with aligned memos. Caller and callee number the objects of a request alike, for pickling and unpickling count the
same; after the call, objects that changed travel back with their new contents, and results refer to objects of the
request by number. So a caller sees its own objects changed, and ``f(x) is x`` stays true. Functions and classes go by name,
as do modules and sentinels (plain ``object()`` instances that a module holds). What cannot be watched for changes, and
whatever exists in one process alone, is refused before anything is sent.
"""

from __future__ import annotations

import array
import collections
import copyreg
import datetime
import decimal
import enum
import fractions
import importlib
import io
import pathlib
import pickle
import random
import re
import sys
import types
import uuid
from collections.abc import Sequence
from importlib.machinery import BuiltinImporter, ExtensionFileLoader
from operator import is_
from typing import Any

from shardwright.errors import CannotCross, Outcome, ProtocolViolation, ShardwrightError
from shardwright.transport.codec._classes import ClassTable
from shardwright.transport.codec._kin_classes import Given, executed, put, was_there
from shardwright.transport.codec._kin_code import reduced
from shardwright.transport.codec._kin_errors import packed, unpacked
from shardwright.transport.codec._kin_named import is_single, named, reached, sentinel
from shardwright.transport.codec._kin_streams import Drained, drained
from shardwright.transport.codec._memo import Memo
from shardwright.transport.codec._paths import Describe, describe_value
from shardwright.transport.codec._pickle import Part, PickleCodec, _writable

__all__ = ["Drained", "KinCodec", "KinPickler", "drained", "executed", "is_single", "was_there"]

_Kind = tuple[Any, Any, Any]  # take, same, put

_FIXED = (
    type(None), bool, int, float, complex, str, bytes, tuple, frozenset, range, slice, type, re.Pattern, enum.Enum,
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.MethodDescriptorType, types.ModuleType,
    types.WrapperDescriptorType, types.GetSetDescriptorType, datetime.date, datetime.time, datetime.timedelta, datetime.tzinfo,
    decimal.Decimal, fractions.Fraction, pathlib.PurePath, uuid.UUID, types.GenericAlias, type(...), type(NotImplemented),
)  # fmt: skip
_TAGGED, _PICKLED, _GIVEN, _ALONE = b"T", b"P", b"G", b"A"
_MANY = 64  # objects of a request: from so many on it is asked first whether the reply refers to one of them
_KNOWN = pickle.NEXT_BUFFER + pickle.MEMOIZE + pickle.POP


def _same_items(now: Any, held: Any) -> bool:
    return len(now) == len(held) and all(map(is_, now, held))


def _same_dict(now: Any, held: Any) -> bool:
    if not now:  # as most attributes of what graphs are made of
        return not held
    return len(now) == len(held) and all(map(is_, now, held)) and all(map(is_, now.values(), held.values()))


def _put_list(thing: Any, state: Any) -> None:
    thing[:] = state


def _put_dict(thing: Any, state: Any) -> None:
    thing.clear()
    thing.update(state)


def _put_set(thing: Any, state: Any) -> None:
    thing.clear()
    thing.update(state)


def _put_deque(thing: Any, state: Any) -> None:
    thing.clear()
    thing.extend(state)


_LIST: _Kind = (list, _same_items, _put_list)
_DICT: _Kind = (dict, _same_dict, _put_dict)
_SET: _Kind = (set, lambda now, held: now == held and all(map(is_, now, held)), _put_set)
_DEQUE: _Kind = (list, _same_items, _put_deque)
_BYTES: _Kind = (bytes, lambda now, held: now == held, _put_list)
_ARRAY: _Kind = (lambda thing: thing[:], lambda now, held: now.tobytes() == held.tobytes(), _put_list)


def _numbers(thing: Any) -> Any:
    return thing.copy()


def _same_numbers(now: Any, held: Any) -> bool:
    return bool(now.shape == held.shape and now.dtype == held.dtype and now.tobytes() == held.tobytes())


def _put_numbers(thing: Any, state: Any) -> None:
    thing[...] = state


def _written(thing: Any) -> Any:
    return thing.getvalue(), thing.tell()


def _put_written(thing: Any, state: Any) -> None:
    text, place = state
    thing.seek(0)
    thing.truncate()
    thing.write(text)
    thing.seek(place)


_WRITTEN: _Kind = (_written, lambda now, held: _written(now) == held, _put_written)


def _attributes(names: tuple[str, ...], inner: _Kind | None) -> _Kind:
    """Of an instance: what its ``__dict__`` and its slots hold, and what the builtin container it derives from holds."""
    missing = object()

    def take(thing: Any) -> Any:
        own = getattr(thing, "__dict__", None)
        slots = tuple([getattr(thing, name, missing) for name in names])
        return (dict(own) if own is not None else None), slots, inner[0](thing) if inner is not None else None

    def same(thing: Any, held: Any) -> bool:
        own = getattr(thing, "__dict__", None)
        if own is not None and not _same_dict(own, held[0]):
            return False
        if any(getattr(thing, name, missing) is not value for name, value in zip(names, held[1], strict=True)):
            return False
        return inner is None or bool(inner[1](thing, held[2]))

    def put(thing: Any, state: Any) -> None:
        own, slots, content = state
        if own is not None:
            _put_dict(thing.__dict__, own)
        for name, (there, value) in zip(names, slots, strict=True):
            if there:
                object.__setattr__(thing, name, value)
            elif hasattr(thing, name):
                object.__delattr__(thing, name)
        if inner is not None:
            inner[2](thing, content)

    def packed(thing: Any) -> Any:
        own, slots, content = take(thing)
        return own, tuple([(value is not missing, None if value is missing else value) for value in slots]), content

    take.packed = packed  # type: ignore[attr-defined]
    return take, same, put


_kinds: dict[type, _Kind | str | None] = {
    list: _LIST, dict: _DICT, set: _SET, bytearray: _BYTES, collections.deque: _DEQUE, array.array: _ARRAY,
    io.StringIO: _WRITTEN, io.BytesIO: _WRITTEN,
    random.Random: (lambda thing: thing.getstate(), lambda now, held: now.getstate() == held, random.Random.setstate),
    collections.OrderedDict: _DICT, collections.Counter: _DICT, collections.defaultdict: _DICT,
}  # fmt: skip
_INNER = ((list, _LIST), (dict, _DICT), (set, _SET), (collections.deque, _DEQUE), (bytearray, _BYTES))


def _kind_of(cls: type) -> _Kind | str | None:
    """How objects of a class are watched for changes: not at all (None), as a kind, or why they cannot be (a text)."""
    found = _kinds.get(cls, cls)
    if found is cls:
        found = _kinds[cls] = _made_kind(cls)
    return found  # type: ignore[return-value]


def _made_kind(cls: type) -> _Kind | str | None:
    if cls.__module__ == "numpy" and cls.__name__ == "ndarray":
        return _numbers, _same_numbers, _put_numbers
    if cls is object or (cls.__module__ == "numpy" and (cls.__name__ == "dtype" or _has_base(cls, "generic"))):
        return None
    inner = next((kind for base, kind in _INNER if issubclass(cls, base)), None)
    slots = tuple(name for name in copyreg._slotnames(cls) if hasattr(cls, name))  # type: ignore[attr-defined]
    if any(_foreign(base) for base in cls.__mro__) and inner is None and not issubclass(cls, _FIXED):
        return f"objects of {cls.__module__}.{cls.__qualname__} hold what is written in C, and changes of it cannot be seen"
    if getattr(cls, "__dictoffset__", 0) or slots or inner is not None:
        if issubclass(cls, (type, types.ModuleType, enum.Enum, types.FunctionType)):
            return None
        return _attributes(slots, inner)
    return None


def _has_base(cls: type, name: str) -> bool:
    return any(base.__name__ == name for base in cls.__mro__)


_OF_C = frozenset({types.MethodDescriptorType, types.WrapperDescriptorType})  # what a class statement makes none of


def _foreign(cls: type) -> bool:
    """Whether a class is one of C code that is not known to have fixed values."""
    if cls is object or cls in _FIXED or cls in _kinds or issubclass(cls, BaseException):
        return False
    if not cls.__flags__ & (1 << 9):
        return True
    if any(type(member) in _OF_C and member.__objclass__ is cls for member in vars(cls).values()):
        return True  # it may be shown by a module that is Python, as Element is
    loader = getattr(sys.modules.get(cls.__module__), "__loader__", None)
    return loader is BuiltinImporter or isinstance(loader, ExtensionFileLoader)


class KinPickler(pickle.Pickler):
    """Functions, classes, modules and sentinels by name."""

    def reducer_override(self, obj: Any) -> Any:
        cls = type(obj)
        if cls is object:
            return sentinel(obj)
        if cls is types.ModuleType:
            return importlib.import_module, (obj.__name__,)
        if (cls is types.FunctionType or isinstance(obj, type)) and obj.__module__ == "__main__":
            raise pickle.PicklingError(f"{obj.__qualname__} is of the program's own __main__")
        if is_single(obj):
            path = named(obj)
            if path is None:
                raise pickle.PicklingError(f"a {cls.__name__} that no module leads to is the same nowhere else")
            return reached, path
        if cls is types.FunctionType and ("<" in obj.__qualname__ or _at(obj.__module__, obj.__qualname__) is not obj):
            return reduced(obj)
        return NotImplemented


def _at(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return found


class _KinMemo:
    """``objects`` by number; ``held`` what the callee saw of those that can change."""

    __slots__ = ("given", "held", "objects", "root")

    def __init__(
        self, root: object, objects: dict[int, Any], held: list[tuple[int, Any, _Kind, Any]], given: Any = ()
    ) -> None:
        self.root, self.objects, self.held, self.given = root, objects, held, given


class KinCodec(PickleCodec):
    """The same methods as TaggedCodec, and the same promises of what a caller sees; for one trust domain."""

    restores_arguments = True

    def __init__(self, classes: ClassTable | None = None) -> None:
        super().__init__(classes)
        self._given = Given()

    def encode_request(
        self, value: object, *, describe: Describe = describe_value
    ) -> tuple[bytes, tuple[Part, ...], Memo]:
        """Raises CannotCross, outcome "not started", when a value cannot go there or be watched for changes."""
        payload, buffers, memo = _dump(value, {}, "not started")
        objects: dict[int, Any] = dict(memo.values())
        kinds = dict.fromkeys(map(type, objects.values()))  # objects are many, their classes few
        for cls in kinds:
            kind = _kind_of(cls)
            if isinstance(kind, str):
                raise CannotCross(kind, outcome="not started", remedy="pass plain data, or keep both together")
        classes = {cls for cls in kinds if not issubclass(cls, type)}
        if len(classes) != len(kinds):
            classes.update(thing for thing in objects.values() if isinstance(thing, type))
        given = self._given.to_give(classes)
        if given:
            ahead, _, _ = _dump(given, {}, "not started")
            payload = _GIVEN + len(ahead).to_bytes(8, "little") + ahead + payload
        return payload, buffers, _KinMemo(value, objects, [], given)  # type: ignore[return-value]

    def decode_request(self, payload: Part, buffers: Sequence[Part] = ()) -> tuple[Any, Memo]:
        if bytes(payload[:1]) == _GIVEN:
            end = 9 + int.from_bytes(payload[1:9], "little")
            put(_load(payload[9:end], (), {})[0])
            payload = payload[end:]
        value, objects = _load(payload, buffers, {})
        kinds = {cls: _kind_of(cls) for cls in {*map(type, objects.values())}}
        watched = {cls: kind for cls, kind in kinds.items() if isinstance(kind, tuple)}
        held = [
            (number, thing, kind, kind[0](thing))
            for number, thing in objects.items()
            if (kind := watched.get(type(thing))) is not None
        ]
        return value, _KinMemo(value, objects, held)  # type: ignore[return-value]

    def encode_reply(self, value: object, memo: Memo) -> tuple[bytes, tuple[Part, ...]]:
        if type(value) is types.GeneratorType:
            value = drained(value)
        changes, known = _changes(memo), _objects(memo)
        if not changes and len(known) >= _MANY:
            payload, buffers, mentioned = _dump(value, {}, "failed")
            own = {key for key, (_, thing) in mentioned.items() if not isinstance(thing, type)}  # those go by name
            if own.isdisjoint(map(id, known.values())):
                return _ALONE + payload, buffers
        payload, buffers, _ = _dump((changes, value), _numbered(memo), "failed")
        return payload, buffers

    def decode_reply(self, payload: Part, buffers: Sequence[Part], memo: Memo) -> Any:
        objects = _objects(memo)
        kin: Any = memo
        if type(kin) is _KinMemo and kin.given:  # now it is sure that it arrived
            self._given.gave(kin.given)
        if bytes(payload[:1]) == _ALONE:  # it refers to nothing of the request, and nothing of that has changed
            return _load(payload[1:], buffers, {})[0]
        (changes, value), _ = _load(payload, buffers, objects)
        _apply(changes, objects)
        return value

    def encode_error(self, exception: BaseException, memo: Memo | None = None) -> tuple[bytes, tuple[Part, ...]]:
        """Changes of arguments travel with it. What does not pickle goes as the tagged codec writes it."""
        if not isinstance(exception, ShardwrightError):
            try:
                changes = _changes(memo) if memo is not None else []
                parts = (changes, packed(exception, set()))
                payload, buffers, _ = _dump(parts, _numbered(memo) if memo is not None else {}, "failed")
                return _PICKLED + payload, buffers
            except (CannotCross, RecursionError):
                pass
        payload, buffers = self._errors.encode_error(exception)
        return _TAGGED + payload, buffers

    def decode_error(self, payload: Part, buffers: Sequence[Part] = (), memo: Memo | None = None) -> BaseException:
        if bytes(payload[:1]) == _TAGGED:
            return self._errors.decode_error(payload[1:], buffers)
        objects = _objects(memo)
        (changes, parts), _ = _load(payload[1:], buffers, objects)
        _apply(changes, objects)
        return unpacked(parts)


def _dump(
    value: object, memo: dict[int, Any], outcome: Outcome
) -> tuple[bytes, tuple[Part, ...], dict[int, tuple[int, Any]]]:
    buffers: list[pickle.PickleBuffer] = []
    out = io.BytesIO()
    pickler = KinPickler(out, 5, buffer_callback=buffers.append)
    if memo:
        pickler.memo = memo
    try:
        pickler.dump(value)
        raw = tuple([buffer.raw() for buffer in buffers]) if buffers else ()
    except Exception as error:
        raise CannotCross(
            f"the value does not pickle: {error}", outcome=outcome, remedy="pass plain data, or keep both together"
        ) from error
    return out.getvalue(), raw, pickler.memo.copy()


def _load(payload: Part, buffers: Sequence[Part], objects: dict[int, Any]) -> tuple[Any, dict[int, Any]]:
    try:
        given: list[Any] = [_writable(buffer) for buffer in buffers]
        if objects:  # what the memo begins with is read like buffers: assigning it loses it, up to Python 3.13 at least
            given = [*(objects[number] for number in range(len(objects))), *given]
            payload = _KNOWN * len(objects) + bytes(payload)
        unpickler = pickle.Unpickler(io.BytesIO(payload), buffers=given or None)
        value = unpickler.load()
        return value, unpickler.memo.copy()
    except Exception as error:
        raise ProtocolViolation(f"malformed pickle: {type(error).__name__}: {error}") from error


def _objects(memo: Memo | None) -> dict[int, Any]:
    """The objects of a request by number; none where there was no request to be read."""
    kin: Any = memo
    return kin.objects if type(kin) is _KinMemo else {}


def _numbered(memo: Memo) -> dict[int, tuple[int, Any]]:
    """The memo for a reply's pickler. Numbers go on from its size, so an object of two numbers counts twice."""
    objects = _objects(memo)
    found: dict[int, tuple[int, Any]] = {id(thing): (number, thing) for number, thing in objects.items()}
    if len(found) == len(objects):
        return found
    found = {}
    for number, thing in objects.items():
        if id(thing) in found:
            thing = object()
        found[id(thing)] = (number, thing)
    return found


def _taken(kind: _Kind, thing: Any) -> Any:
    """What a thing holds now, in the form that travels."""
    take: Any = getattr(kind[0], "packed", kind[0])
    return take(thing)


def _changes(memo: Memo) -> list[tuple[int, Any]]:
    kin: Any = memo
    if type(kin) is not _KinMemo:
        return []
    return [(number, _taken(kind, thing)) for number, thing, kind, held in kin.held if not kind[1](thing, held)]


def _apply(changes: list[tuple[int, Any]], objects: dict[int, Any]) -> None:
    for number, state in changes:
        thing = objects[number]
        kind = _kind_of(type(thing))
        if kind is None or isinstance(kind, str):
            raise ProtocolViolation(f"a change of a {type(thing).__name__}")
        kind[2](thing, state)
