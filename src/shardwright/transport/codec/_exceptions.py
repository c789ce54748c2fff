"""Exceptions: type, arguments, attributes, notes, cause and context, groups, and the frames of their traceback.

They are rebuilt without ``__init__``, ``__reduce__`` or any other code of their class. The names of a type's bases
travel with it; a receiver that does not know the type makes a RemoteError that also subclasses the nearest base it
knows, so that ``except ValueError`` still works. What an exception holds that does not fit becomes its repr, and a
note says so: an error must not be lost because of its baggage.

One file beyond 400 lines: writing and reading share the tables of fields and of known types.
"""

from __future__ import annotations

import builtins
import os
import stat
import sys
from types import CodeType, TracebackType
from typing import Any

from shardwright.errors import RemoteError, ShardwrightError
from shardwright.transport.codec import _tagged_decode as decoding
from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassPlan, instance_dict, qualified_name
from shardwright.transport.codec._memo import same_sequence
from shardwright.transport.codec._tagged_decode import Decoder
from shardwright.transport.codec._tagged_encode import Encoder, write_slots
from shardwright.transport.codec._wire import Refusal, Tag, violation

__all__ = ["encode", "read_contents", "text_of", "text_that_came", "write_contents"]

_CAME = "__shardwright_text__"  # attribute of exceptions whose class is here without its code
_FRAMES = 128  # of each end of a longer traceback
_TEXT = 8192
_HEAP_TYPE = 1 << 9
_OWN = f"{__name__.split('.')[0]}."

_BUILTIN: dict[str, type[BaseException]] = {
    f"builtins:{name}": thing
    for name, thing in vars(builtins).items()
    if isinstance(thing, type) and issubclass(thing, BaseException) and thing.__name__ == name
}
_OURS: dict[str, type[BaseException]] = {
    f"{thing.__module__}:{name}": thing
    for name, thing in vars(sys.modules[ShardwrightError.__module__]).items()
    if isinstance(thing, type) and issubclass(thing, ShardwrightError)
}
# Of the standard library: known by name wherever the receiver has the module loaded already.
_LIBRARY = frozenset(
    {
        "asyncio.exceptions:CancelledError",
        "asyncio.exceptions:InvalidStateError",
        "asyncio.exceptions:IncompleteReadError",
        "asyncio.exceptions:LimitOverrunError",
        "asyncio.queues:QueueEmpty",
        "asyncio.queues:QueueFull",
        "concurrent.futures._base:CancelledError",
        "concurrent.futures._base:InvalidStateError",
        "configparser:Error",
        "_queue:Empty",
        "queue:Full",
        "json.decoder:JSONDecodeError",
        "re:error",
        "re:PatternError",
        "sqlite3:Error",
        "sqlite3:DatabaseError",
        "sqlite3:IntegrityError",
        "sqlite3:OperationalError",
        "sqlite3:ProgrammingError",
        "ssl:SSLError",
        "socket:gaierror",
        "subprocess:CalledProcessError",
        "subprocess:TimeoutExpired",
        "zoneinfo._common:ZoneInfoNotFoundError",
        "decimal:InvalidOperation",
        "decimal:DivisionByZero",
        "dataclasses:FrozenInstanceError",
        "struct:error",
        "binascii:Error",
        "zlib:error",
    }
)

_OS = ("errno", "strerror", "filename", "filename2")
_SYNTAX = ("msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset", "print_file_and_line")
_UNICODE = ("encoding", "object", "start", "end", "reason")
_FIELDS: dict[type[BaseException], tuple[str, ...]] = {
    OSError: _OS,
    SyntaxError: _SYNTAX,
    ImportError: ("msg", "name", "path"),
    StopIteration: ("value",),
    SystemExit: ("code",),
    AttributeError: ("name",),  # not obj: it is the object itself, kept for suggestions only
    NameError: ("name",),
    UnicodeDecodeError: _UNICODE,
    UnicodeEncodeError: _UNICODE,
    UnicodeTranslateError: ("object", "start", "end", "reason"),
}
_SIMPLE = frozenset({type(None), bool, int, float, complex, str, bytes})

_set_args: Any = vars(BaseException)["args"].__set__
_set_cause: Any = vars(BaseException)["__cause__"].__set__
_set_context: Any = vars(BaseException)["__context__"].__set__
_set_suppress: Any = vars(BaseException)["__suppress_context__"].__set__
_set_traceback: Any = vars(BaseException)["__traceback__"].__set__


def _fields(cls: type) -> tuple[type[BaseException] | None, tuple[str, ...]]:
    for base in cls.__mro__:
        names = _FIELDS.get(base)
        if names is not None:
            return base, names
    return None, ()


def _field(base: type, name: str) -> Any:
    for owner in base.__mro__:
        if name in vars(owner):
            return vars(owner)[name]
    raise AttributeError(name)  # pragma: no cover - the table above names real fields


# -- writing ---------------------------------------------------------------------------------------------------


def encode(s: Encoder, value: BaseException) -> None:
    if s.codec._handle(s, value) or s.known(value):
        return
    group = isinstance(value, BaseExceptionGroup)
    if group:
        s.byte(Tag.EXCEPTION_GROUP)
    else:
        s.begin(Tag.EXCEPTION)
    names = _lineage(type(value))
    s.number(len(names))
    for name in names:
        s.class_name(name)
    if isinstance(value, BaseExceptionGroup):
        s.text(str(value.message))
        s.enter(value)
        members = value.exceptions
        s.number(len(members))
        s.items += len(members) + wire.WEIGHT_OBJECT
        for member in members:
            encode(s, member)
        s.leave()
        s.enqueue(s.remember(value), write_contents, value)
    else:
        s.shell(value, write_contents, wire.WEIGHT_OBJECT)


def _lineage(cls: type) -> list[str]:
    """The type and its bases up to the first builtin one, by name."""
    names = []
    for base in cls.__mro__:
        if issubclass(base, BaseException):
            names.append(qualified_name(base) or f"?:{base.__name__}")
            if not base.__flags__ & _HEAP_TYPE and base.__module__ == "builtins":
                break
    return names


def write_contents(s: Encoder, value: Any) -> None:
    if s.trial:  # exceptions always fit
        return
    lost: list[str] = []
    args = value.args
    s.number(len(args))
    s.items += len(args)
    for index, arg in enumerate(args):
        _fitting(s, arg, f"args[{index}]", lost)
    base, names = _fields(type(value))
    s.number(len(names))
    for name in names:
        _fitting(s, _field(base or BaseException, name).__get__(value), name, lost)
    state = dict(instance_dict(value))
    notes = state.pop("__notes__", None)
    state.pop(_CAME, None)
    state = {name: held for name, held in state.items() if type(name) is str}
    s.number(len(state))
    s.items += 2 * len(state)
    for name, held in state.items():
        s.text(name)
        _fitting(s, held, name, lost)
    try:
        plan: ClassPlan | None = s.codec.classes.plan_of(type(value))
    except Refusal:
        plan = None
    if plan is not None and plan.slots and _all_fit(s, plan, value):
        write_slots(s, plan.slots, value)
    else:
        s.number(0)
    for other in (value.__cause__, value.__context__):
        if other is None:
            s.byte(Tag.NONE)
        else:
            encode(s, other)
    s.byte(1 if value.__suppress_context__ else 0)
    s.text(text_of(value))
    lines = [note for note in notes if type(note) is str] if isinstance(notes, (list, tuple)) else []
    lines += [f"({what} did not fit the edge and is shown as its repr)" for what in lost]
    s.number(len(lines))
    for line in lines:
        s.text(line)
    _write_frames(s, value.__traceback__)


def _fitting(s: Encoder, held: object, what: str, lost: list[str]) -> None:
    if type(held) in _SIMPLE or _fits(s, held):
        s.value(held)
        return
    lost.append(what)
    s.value(_repr(held))


def _fits(s: Encoder, held: object) -> bool:
    """Whether the value can be written, tried on a message that is thrown away."""
    if s.number_of(held) is not None:
        return True
    trial = s.trial_of()
    try:
        trial.value(held)
        trial.drain()
    except (Refusal, RecursionError, ShardwrightError):
        return False
    return True


def _all_fit(s: Encoder, plan: ClassPlan, value: BaseException) -> bool:
    for _, descriptor in plan.slots:
        try:
            held = descriptor.__get__(value)
        except AttributeError:
            continue
        if type(held) not in _SIMPLE and not _fits(s, held):
            return False
    return True


def _repr(held: object) -> str:
    try:
        text = repr(held)
    except Exception:
        text = f"<{type(held).__qualname__} whose repr failed>"
    return text if len(text) <= _TEXT else text[:_TEXT] + "..."


def text_of(value: BaseException) -> str:
    """``str(value)``, bounded, whatever it raises."""
    try:
        text = str(value)
    except Exception:
        text = f"<{type(value).__qualname__} whose str failed>"
    return text if len(text) <= _TEXT else text[:_TEXT] + "..."


def text_that_came(value: BaseException) -> str | None:
    """What ``str`` of it was where it came from, for a class whose code is not here; None when it did not come."""
    text = instance_dict(value).get(_CAME)
    return text if type(text) is str else None


def _write_frames(s: Encoder, traceback: TracebackType | None) -> None:
    frames: list[tuple[CodeType, int]] = []
    while traceback is not None:
        frame = traceback.tb_frame
        # our own frames around the user's code, and between, say nothing to the reader
        if not str(frame.f_globals.get("__name__", "")).startswith(_OWN):
            frames.append((frame.f_code, traceback.tb_lineno or 0))
        traceback = traceback.tb_next
    if len(frames) > 2 * _FRAMES:
        frames = frames[:_FRAMES] + frames[-_FRAMES:]
    s.number(len(frames))
    for code, line in frames:
        s.text(code.co_filename)
        s.text(code.co_name)
        s.number(max(line, 0))


# -- reading ---------------------------------------------------------------------------------------------------


def _read_shell(d: Decoder) -> Any:
    d.skip()
    names = _read_names(d)
    cls = _class_for(d, names)
    if issubclass(cls, BaseExceptionGroup):
        raise violation("a group of exceptions written as a single one")
    return d.shell(_new(cls), read_contents, wire.WEIGHT_OBJECT)


def _read_group(d: Decoder) -> Any:
    d.skip()
    names = _read_names(d)
    cls = _class_for(d, names)
    message = d.text()
    if not issubclass(cls, BaseExceptionGroup):
        raise violation("a single exception written as a group")
    members = d.elements()
    group = BaseExceptionGroup.__new__(cls, message, members)
    return d.shell(group, read_contents, wire.WEIGHT_OBJECT)


def _read_names(d: Decoder) -> list[str]:
    names = [d.class_name() for _ in range(d.count())]
    if not names:
        raise violation("an exception without a type")
    return names


def _new(cls: type) -> BaseException:
    base = next(k for k in cls.__mro__ if not k.__flags__ & _HEAP_TYPE)
    new: Any = base.__new__
    made: BaseException = new(cls)
    return made


def _class_for(d: Decoder, names: list[str]) -> type[BaseException]:
    for index, name in enumerate(names):
        cls = _known(d, name)
        if cls is None:
            continue
        if index == 0:
            return cls
        d.charge(wire.WEIGHT_CLASS)
        foreign = _foreign(names[0], cls)
        if foreign is not None:
            return foreign
    return _foreign(names[0], Exception) or RemoteError


def _known(d: Decoder, name: str) -> type[BaseException] | None:
    cls: Any = _BUILTIN.get(name) or _OURS.get(name)
    if cls is None and name in _LIBRARY:
        module, _, attribute = name.partition(":")
        cls = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    if cls is None and name in d.codec.classes.names:
        try:
            cls = d.codec.classes.plan_named(name).cls
        except Exception:
            return None
    return cls if isinstance(cls, type) and issubclass(cls, BaseException) else None


class _Foreign(RemoteError):
    """What every RemoteError made for an unknown type shares."""

    _remote_text: str = ""

    def __str__(self) -> str:
        return self._remote_text

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        return (_refound, (cls._remote_name, cls._remote_base, self.args, dict(self.__dict__)))  # type: ignore[attr-defined]


def _refound(name: str, base: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = _new(_foreign(name, base) or RemoteError)
    _set_args(error, args)
    error.__dict__.update(state)
    return error


_made: dict[tuple[str, type], type[BaseException]] = {}
_MOST_MADE = 256  # names come from peers


def _foreign(name: str, base: type[BaseException]) -> type[BaseException] | None:
    """A RemoteError that is also a ``base``; None where layouts or the base's own class hooks forbid it."""
    made = _made.get((name, base))
    if made is not None:
        return made
    if type(base) is not type or any("__init_subclass__" in vars(k) for k in base.__mro__ if k is not object):
        return None
    namespace = {"__module__": RemoteError.__module__, "_remote_name": name, "_remote_base": base}
    bases: tuple[type, ...] = (_Foreign,) if issubclass(_Foreign, base) else (_Foreign, base)
    try:
        cls = type("RemoteError", bases, namespace)
    except TypeError:
        return None
    if len(_made) >= _MOST_MADE:
        _made.clear()
    _made[name, base] = cls
    return cls


def read_contents(d: Decoder, thing: Any) -> None:
    args = tuple([d.value() for _ in range(d.count())])
    base, names = _fields(type(thing))
    # A type unknown here may have fields that its nearest known base lacks: read, and let go.
    fields = [d.value() for _ in range(d.count())]
    state = {}
    for _ in range(d.count(2)):
        name = d.text()
        state[name] = d.value()
    slots = _read_slot_values(d, thing)
    cause, context = d.value(), d.value()
    for other in (cause, context):
        if other is not None and not issubclass(type(other), BaseException):
            raise violation("a cause that is no exception")
    suppress = d.number()
    text = d.text()
    notes = [d.text() for _ in range(d.count())]
    frames = _read_frames(d)
    if base is None or len(fields) != len(names):
        base, fields = None, []
    if isinstance(thing, _Foreign):
        name = type(thing)._remote_name  # type: ignore[attr-defined]
        shown = name.removeprefix("builtins:").replace(":", ".")
        text = f"{shown}: {text}" if text else shown
        state = {"message": text, "remedy": "", "outcome": "failed", **state, "type_name": shown, "_remote_text": text}
    elif getattr(type(thing), "__shardwright_data__", False):
        state[_CAME] = text
    if notes:
        state["__notes__"] = notes
    held = (args, base, names, fields, state, slots, cause, context, bool(suppress), frames)
    d.fill(_fill, thing, held, _same)


def _read_slot_values(d: Decoder, thing: Any) -> tuple[Any, list[Any]] | None:
    n = d.count()
    if not n:
        return None
    values = []
    for _ in range(n):
        if d.peek() == Tag.UNSET:
            d.skip()
            values.append(decoding.UNSET)
        else:
            values.append(d.value())
    try:
        slots = d.codec.classes.plan_of(type(thing)).slots
    except Refusal:
        return None
    return (slots, values) if len(slots) == n else None


def _fill(thing: Any, held: Any) -> None:
    args, base, names, fields, state, slots, cause, context, suppress, frames = held
    if base is not None and names[-1] == "reason":  # UnicodeError: its fields are only checked all at once
        base.__init__(thing, *fields)
    elif base is not None:
        for name, value in zip(names, fields, strict=True):
            field = _field(base, name)
            if field.__get__(thing) is not value:  # a field that is absent reads as None, and shall stay absent
                field.__set__(thing, value)
    _set_args(thing, args)
    attributes = instance_dict(thing)
    attributes.clear()
    attributes.update(state)
    if slots is not None:
        decoding.fill_slots(thing, slots)
    _set_cause(thing, cause)
    _set_context(thing, context)
    _set_suppress(thing, suppress)
    if frames:
        _set_traceback(thing, _traceback(frames))


def _same(thing: Any, held: Any) -> bool:
    args, _, _, _, state, slots, cause, context, suppress, _ = held
    attributes = dict(instance_dict(thing))
    before = dict(state)
    notes = attributes.pop("__notes__", None)
    return (
        same_sequence(thing.args, args)
        and thing.__cause__ is cause
        and thing.__context__ is context
        and thing.__suppress_context__ is suppress
        and notes == before.pop("__notes__", None)
        and list(attributes) == list(before)
        and same_sequence(list(attributes.values()), list(before.values()))
        and (slots is None or decoding.same_slots(thing, slots))
    )


def _read_frames(d: Decoder) -> list[tuple[str, str, int]]:
    n = d.count(3)
    if n > 2 * _FRAMES:
        raise violation(f"a traceback of {n} frames")
    return [(d.text(), d.text(), min(d.number(), 0x7FFFFFFF)) for _ in range(n)]


def _traceback(frames: list[tuple[str, str, int]]) -> TracebackType | None:
    """Frames of those names, files and lines. They are stand-ins, and run nothing of the files that they name."""
    trace: TracebackType | None = None
    safe: dict[str, str] = {}
    for filename, function, line in reversed(frames):
        if filename not in safe:
            safe[filename] = _readable(filename)
        code = _RAISES.replace(
            co_filename=safe[filename], co_name=function, co_qualname=function, co_firstlineno=max(line, 1), co_linetable=_LINES
        )  # fmt: skip
        raising = _Raised()
        variables: dict[str, Any] = {"__name__": "", "__file__": safe[filename], "raised": raising}
        try:
            exec(code, variables)
        except _Raised:
            variables.clear()
        found = raising.__traceback__
        while found is not None and found.tb_frame.f_code is not code:
            found = found.tb_next
        if found is not None:
            trace = TracebackType(trace, found.tb_frame, found.tb_lasti, line)
    return trace


class _Raised(Exception):
    """Raised by stand-ins."""


_RAISES = compile("raise raised", "<frame>", "exec")


def _lines_without_columns(code: CodeType) -> bytes:
    """A table by which every instruction is in the first line, at no column: a stand-in's columns say nothing."""
    table = bytearray()
    left = len(code.co_code) // 2
    while left > 0:
        units = min(left, 8)
        table += bytes((0x80 | 13 << 3 | units - 1, 0))  # an entry with a line and no column; the line's change is 0
        left -= units
    return bytes(table)


_LINES = _lines_without_columns(_RAISES)


def _readable(filename: str) -> str:
    """The name as it is, or in angle brackets where showing the traceback must not open it.

    Whoever prints a traceback reads the lines of the files that it names, and a peer chose these names: a device or
    a pipe would hang the reader, any other file would be quoted in its log.
    """
    if filename.startswith("<") and filename.endswith(">"):
        return filename
    try:
        if not filename.endswith((".py", ".pyw", ".pyx")) or "\0" in filename:
            return f"<{filename}>"
        found = os.stat(filename)
    except FileNotFoundError:
        return filename
    except (OSError, ValueError):
        return f"<{filename}>"
    return filename if stat.S_ISREG(found.st_mode) and found.st_size < 1 << 24 else f"<{filename}>"


decoding.DISPATCH[Tag.EXCEPTION] = _read_shell
decoding.DISPATCH[Tag.EXCEPTION_GROUP] = _read_group
