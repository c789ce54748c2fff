"""What a walk over a module finds: uses of others, files and variables that it touches, what it imports."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct, field

from shardwright.sharding._source import SourceModule
from shardwright.sharding._symbols import Ref

MUTATORS = frozenset({
    "append", "extend", "insert", "remove", "pop", "clear", "sort", "reverse", "update", "setdefault", "popitem", "add",
    "discard", "appendleft", "popleft", "extendleft", "rotate", "subtract", "put", "put_nowait", "move_to_end", "write",
    "intersection_update", "difference_update", "symmetric_difference_update", "__setitem__", "__delitem__",
})  # fmt: skip


class UseKind(StrEnum):
    IMPORT = "import"  # from m import name
    LOAD = "load"
    CALL = "call"
    ENTER = "enter"  # with ref: / with ref():
    SUBCLASS = "subclass"
    WRITE = "write"  # m.name = ...
    MUTATE = "mutate"  # m.NAME.append(...), m.NAME[k] = ...
    SET = "set"  # object.attribute = ..., ref names the object's class
    TEST = "test"  # isinstance(x, ref), except ref
    ITERATE = "iterate"  # for x in object, list(object), ...; ref is the object's class


class Use(Struct, frozen=True):
    """A use of ``ref``. ``top`` names the top-level statement it stands in; ``deferred`` says inside a function."""

    ref: Ref
    kind: UseKind
    line: int
    top: str
    deferred: bool
    instance: bool = False  # reached through an object of the class that ``ref`` begins with
    by: str = ""  # of MUTATE: the method that was called, or that stands for the statement; empty for `x.name = ...`
    unsafe_argument: str = ""  # what about an argument cannot be copied
    callbacks: tuple[Ref, ...] = ()  # functions among the arguments


class Touch(Struct, frozen=True):
    """A file or environment variable in the code, or a setting of the whole process (``kind`` "process", "logging").

    ``top`` names the top-level statement that it stands in; ``deferred`` says inside a function.
    """

    kind: str
    name: str
    writes: bool
    line: int
    deferred: bool
    top: str = ""


class Scan(Struct):
    """The findings of one module. ``imports`` are ``(module, line)``, by whatever way; ``unread`` are opaque places."""

    module: SourceModule
    uses: list[Use] = field(default_factory=list)
    touches: list[Touch] = field(default_factory=list)
    imports: list[tuple[str, int]] = field(default_factory=list)
    dynamic: list[tuple[Ref, int]] = field(default_factory=list)  # import_module("..."), getattr(module, name)
    unknown_calls: list[tuple[str, int, str]] = field(default_factory=list)  # (method, line, top) on unknown objects
    unknown_enters: set[tuple[str, int]] = field(default_factory=set)  # those of them that a `with` enters
