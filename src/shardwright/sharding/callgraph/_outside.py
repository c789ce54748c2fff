"""What functions and containers of the language and the standard library do with what they are given.

Everything else of outside is opaque: it may call the functions that it is handed, through frames of its own.

Over 400 lines: a flat table of models, a few lines for each function.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from shardwright._syntax import expression
from shardwright.sharding.callgraph._analysis import Analysis, CallSite
from shardwright.sharding.callgraph._boxes import Boxes
from shardwright.sharding.callgraph._call import Call
from shardwright.sharding.callgraph._calls import Calls
from shardwright.sharding.callgraph._code import Function, Scope
from shardwright.sharding.callgraph._graph import How
from shardwright.sharding.callgraph._values import (
    BoundDecoratedValue,
    BoundValue,
    BoxValue,
    ClassValue,
    DecoratedValue,
    FunctionValue,
    InstanceValue,
    ModuleValue,
    PartialValue,
    PropertyValue,
    Slot,
    SuperValue,
    SuspendedValue,
    Value,
    WrappedValue,
)

if TYPE_CHECKING:
    from shardwright.sharding.callgraph._walk import Walker

_MOST_BY_PATTERN = 160
_COLLECT = {
    "list": "list", "tuple": "tuple", "set": "set", "frozenset": "set", "sorted": "list", "reversed": "iterator",
    "iter": "iterator", "deque": "list", "islice": "iterator", "takewhile": "iterator", "dropwhile": "iterator",
    "cycle": "iterator", "accumulate": "iterator", "tee": "iterator", "aiter": "iterator",
}  # fmt: skip
_CONSUME = frozenset({"any", "all", "sum", "min", "max", "Counter", "fsum", "prod"})
_SAME = frozenset({
    "copy.copy", "copy.deepcopy", "weakref.proxy", "functools.update_wrapper", "functools.total_ordering",
    "typing.overload", "typing.final", "abc.abstractmethod", "typing.runtime_checkable", "asyncio.ensure_future",
    "asyncio.create_task", "asyncio.shield", "enum.unique", "typing.no_type_check", "types.coroutine", "atexit.register",
    "functools.singledispatch", "typing.override", "typing_extensions.override", "inspect.unwrap", "types.MappingProxyType",
    "functools.lru_cache", "functools.cache", "typing.assert_type", "typing.reveal_type",
})  # fmt: skip
_TEXT_CALLS = {
    "builtins.str": ["__str__"], "builtins.repr": ["__repr__"], "builtins.format": ["__format__", "__str__"],
    "builtins.print": ["__str__"], "builtins.ascii": ["__repr__"], "builtins.bytes": ["__bytes__"],
}  # fmt: skip
_DUNDER_CALLS = {
    "builtins.len": "__len__", "builtins.int": "__int__", "builtins.float": "__float__", "builtins.abs": "__abs__",
    "builtins.hash": "__hash__", "builtins.bool": "__bool__", "builtins.round": "__round__", "builtins.dir": "__dir__",
    "builtins.reversed": "__reversed__", "operator.index": "__index__", "os.fspath": "__fspath__", "os.fsdecode": "__fspath__",
    "os.fsencode": "__fspath__",
    "builtins.complex": "__complex__", "builtins.divmod": "__divmod__", "builtins.pow": "__pow__",
    "math.floor": "__floor__", "math.ceil": "__ceil__", "math.trunc": "__trunc__", "builtins.open": "__fspath__",
}  # fmt: skip
_DIRECT = frozenset({  # C functions that call back: the frame that is called has the caller's frame behind it
    "builtins.map", "builtins.filter", "builtins.sorted", "builtins.min", "builtins.max", "functools.reduce",
    "itertools.groupby", "itertools.takewhile", "itertools.dropwhile", "itertools.filterfalse", "itertools.starmap",
    "itertools.accumulate", "builtins.iter", "collections.defaultdict",
})  # fmt: skip


class Outside(Boxes):
    """Models by dotted path."""

    def __init__(self, analysis: Analysis, calls: Calls) -> None:
        super().__init__(calls)
        self.analysis = analysis
        self.walker: Walker
        self._attributes: dict[tuple[Function, str], Slot] = {}
        calls.models = self

    def function_attribute(self, function: Function, name: str) -> Slot:
        return self._attributes.setdefault((function, name), Slot())

    # -- functions -----------------------------------------------------------------------------------------------

    def call(self, path: str, call: Call) -> None:
        """A call of something outside. Whatever it is, it may call the functions that it is handed."""
        solver, analysis = self.solver, self.analysis
        module, _, name = path.rpartition(".")
        first, second = call.slot(0), call.slot(1)
        if path in _TEXT_CALLS:
            for slot, _ in call.arguments:
                self.calls.text(slot, _TEXT_CALLS[path], call.site)
            for value in analysis.known(str).values:
                solver.add(call.result, value)
            return
        if path in _DUNDER_CALLS and first is not None:
            arguments = [second] if second is not None else []
            if path == "builtins.bool":
                self.calls.truth(first, call.site)
            else:
                self.calls.special(first, _DUNDER_CALLS[path], arguments, Slot(), call.site)
            if path != "builtins.reversed":
                return
        handler: Callable[[Call], None] | None = getattr(self, f"_call_{path.replace('.', '_')}", None)
        if handler is not None:
            handler(call)
            return
        if module in ("builtins", "collections", "itertools") and name in _COLLECT:
            box = call.box(_COLLECT[name])
            solver.add(call.result, box)
            if first is not None:
                self.calls.iterate(first, box.rest, call.site)
            return
        if module in ("builtins", "math", "collections") and name in _CONSUME:
            self._consume(call)
            return
        if path in _SAME:
            if first is not None:
                solver.flow(first, call.result)
            elif not call.arguments:
                solver.add(call.result, analysis.outside("shardwright.same"))
            elif call.arguments:
                solver.flow(call.arguments[0][0], call.result)
            if first is not None and path in ("functools.lru_cache",):
                solver.add(call.result, analysis.outside("shardwright.same"))
            return
        if module.startswith("builtins.") and module.count(".") == 1:
            self._scalar_method(module.partition(".")[2], name, call)
            return
        self._unknown(path, call)

    def _unknown(self, path: str, call: Call) -> None:
        self._call_back(call, How.EXACT if path in _DIRECT else How.OUTSIDE)
        if call.decorates:
            for slot, _ in call.arguments:
                self.solver.flow(slot, call.result)
        if path != "shardwright.same":
            self.solver.add(call.result, self.analysis.outside(f"{path}()"))

    def _call_back(self, call: Call, how: How) -> None:
        if call.decorates:
            return
        for slot in (*(slot for slot, _ in call.arguments), *(slot for _, slot in call.keywords)):
            if slot.fixed and not any(isinstance(value, FunctionValue | BoundValue) for value in slot.values):
                continue
            self.solver.wait(slot, lambda value: self._called_back(value, call.site, how))

    def _called_back(self, value: Value, site: CallSite, how: How) -> None:
        match value:
            case FunctionValue(function=function) | BoundValue(function=function):
                self.calls.candidate(site, function, how)
            case PartialValue():
                self.solver.wait(value.callee, lambda inner: self._called_back(inner, site, how))
            case DecoratedValue(outer=outer):
                self._called_back(outer, site, how)
            case BoundDecoratedValue(decorated=decorated):
                self._called_back(decorated.outer, site, how)
            case SuspendedValue(function=function):
                self.calls.candidate(site, function, How.OUTSIDE)
            case _:
                return

    def _consume(self, call: Call) -> None:
        name = call.site.name
        many = len(call.arguments) > 1
        for slot, _ in call.arguments:
            item = slot
            if not many:
                item = Slot()
                self.calls.iterate(slot, item, call.site)
            if name in ("min", "max"):
                self.solver.flow(item, call.result)
                self.calls.special(item, "__lt__", [item], Slot(), call.site)
                self.calls.special(item, "__gt__", [item], Slot(), call.site)
            if name == "sum":
                self.calls.special(item, "__add__", [item], call.result, call.site)
                self.calls.special(item, "__radd__", [item], call.result, call.site)
            key = call.keyword("key")
            if key is not None:
                self._apply_to(key, [item], Slot(), call)

    def _scalar_method(self, type_: str, name: str, call: Call) -> None:
        solver = self.solver
        if name == "join":
            for slot, _ in call.arguments:
                self.calls.iterate(slot, Slot(), call.site)
        if name == "format":
            for slot in (*(slot for slot, _ in call.arguments), *(slot for _, slot in call.keywords)):
                self.calls.text(slot, ["__format__", "__str__"], call.site)
        kind = {"encode": bytes, "decode": str}.get(name, {"str": str, "bytes": bytes, "int": int}.get(type_, float))
        known = self.analysis.known(kind)
        if name in ("split", "rsplit", "splitlines", "partition", "rpartition"):
            box = call.box("list")
            solver.flow(known, box.rest)
            solver.add(call.result, box)
        else:
            for value in known.values:
                solver.add(call.result, value)

    # -- builtins ------------------------------------------------------------------------------------------------

    def _call_builtins_map(self, call: Call) -> None:
        box = call.box("iterator")
        self.solver.add(call.result, box)
        items = []
        for place, (slot, _) in enumerate(call.arguments[1:]):
            item = call.box("item", place).rest
            self.calls.iterate(slot, item, call.site)
            items.append(item)
        if call.arguments:
            self._apply_to(call.arguments[0][0], items, box.rest, call)

    def _call_builtins_filter(self, call: Call) -> None:
        if len(call.arguments) > 1:
            box = call.box("iterator")
            self.solver.add(call.result, box)
            self.calls.iterate(call.arguments[1][0], box.rest, call.site)
            self._apply_to(call.arguments[0][0], [box.rest], Slot(), call)

    _call_itertools_filterfalse = _call_builtins_filter
    _call_itertools_takewhile = _call_builtins_filter
    _call_itertools_dropwhile = _call_builtins_filter

    def _call_builtins_sorted(self, call: Call) -> None:
        box = call.box("list")
        self.solver.add(call.result, box)
        if call.arguments:
            self.calls.iterate(call.arguments[0][0], box.rest, call.site)
        self._sort(box, call)

    def _call_builtins_enumerate(self, call: Call) -> None:
        box, pair = call.box("iterator"), call.box("tuple")
        self.solver.add(call.result, box)
        self.solver.add(box.rest, pair)
        self.solver.flow(self.analysis.known(int), self.solver.item(pair, 0))
        if call.arguments:
            self.calls.iterate(call.arguments[0][0], self.solver.item(pair, 1), call.site)

    def _call_builtins_zip(self, call: Call) -> None:
        box, pair = call.box("iterator"), call.box("tuple")
        self.solver.add(call.result, box)
        self.solver.add(box.rest, pair)
        for place, (slot, starred) in enumerate(call.arguments):
            if starred:
                item = call.box("item", place).rest
                self.calls.iterate(slot, item, call.site)
                self.calls.iterate(item, pair.rest, call.site)
            else:
                self.calls.iterate(slot, self.solver.item(pair, place), call.site)

    _call_itertools_zip_longest = _call_builtins_zip
    _call_itertools_product = _call_builtins_zip

    def _call_itertools_chain(self, call: Call) -> None:
        box = call.box("iterator")
        self.solver.add(call.result, box)
        for place, (slot, starred) in enumerate(call.arguments):
            item = slot
            if starred:
                item = call.box("item", place).rest
                self.calls.iterate(slot, item, call.site)
            self.calls.iterate(item, box.rest, call.site)

    def _call_itertools_chain_from_iterable(self, call: Call) -> None:
        box = call.box("iterator")
        self.solver.add(call.result, box)
        for slot, _ in call.arguments[:1]:
            item = call.box("item").rest
            self.calls.iterate(slot, item, call.site)
            self.calls.iterate(item, box.rest, call.site)

    def _call_itertools_groupby(self, call: Call) -> None:
        box, pair, group = call.box("iterator"), call.box("tuple"), call.box("iterator", "group")
        self.solver.add(call.result, box)
        self.solver.add(box.rest, pair)
        self.solver.add(self.solver.item(pair, 1), group)
        for slot, _ in call.arguments[:1]:
            self.calls.iterate(slot, group.rest, call.site)
        key = call.keyword("key") or call.slot(1)
        if key is not None:
            self._apply_to(key, [group.rest], self.solver.item(pair, 0), call)

    def _call_functools_reduce(self, call: Call) -> None:
        item = call.box("item").rest
        for slot, _ in call.arguments[1:2]:
            self.calls.iterate(slot, item, call.site)
        for slot, _ in call.arguments[2:3]:
            self.solver.flow(slot, call.result)
        self.solver.flow(item, call.result)
        if call.arguments:
            self._apply_to(call.arguments[0][0], [call.result, item], call.result, call)

    def _call_builtins_next(self, call: Call) -> None:
        for slot, _ in call.arguments[:1]:
            self.calls.next_of(slot, call.result, call.site)
        for slot, _ in call.arguments[1:]:
            self.solver.flow(slot, call.result)

    _call_builtins_anext = _call_builtins_next

    def _call_builtins_iter(self, call: Call) -> None:
        box = call.box("iterator")
        self.solver.add(call.result, box)
        if len(call.arguments) == 1:
            self.calls.iterate(call.arguments[0][0], box.rest, call.site)
        elif call.arguments:
            self._apply_to(call.arguments[0][0], [], box.rest, call)

    def _call_builtins_dict(self, call: Call) -> None:
        box = call.box("dict")
        self.solver.add(call.result, box)
        for name, slot in call.keywords:
            if name is None:
                self.calls.merged(slot, box)
            else:
                self.solver.flow(slot, self.solver.item(box, name))
        for slot, _ in call.arguments[:1]:
            self.calls.merged(slot, box)
            pair = call.box("item").rest
            self.calls.iterate(slot, pair, call.site)
            self.calls.unpack(pair, [box.keys, box.rest], None, call.site)

    _call_collections_OrderedDict = _call_builtins_dict

    def _call_collections_defaultdict(self, call: Call) -> None:
        box = call.box("dict")
        self.solver.add(call.result, box)
        for slot, _ in call.arguments[:1]:
            self._apply_to(slot, [], box.rest, call)
        for slot, _ in call.arguments[1:2]:
            self.calls.merged(slot, box)

    def _call_builtins_isinstance(self, call: Call) -> None:
        if len(call.arguments) > 1:
            for slot in (call.arguments[1][0],):
                self.calls.special(slot, "__instancecheck__", [call.arguments[0][0]], Slot(), call.site)

    def _call_builtins_issubclass(self, call: Call) -> None:
        if len(call.arguments) > 1:
            self.calls.special(call.arguments[1][0], "__subclasscheck__", [call.arguments[0][0]], Slot(), call.site)

    def _call_builtins_type(self, call: Call) -> None:
        def one(value: Value) -> None:
            if isinstance(value, InstanceValue):
                self.solver.add(call.result, self.analysis.class_(value.class_, value.cone))
            elif isinstance(value, ClassValue) and not isinstance(value.class_.metaclass, str | None):
                self.solver.add(call.result, self.analysis.class_(value.class_.metaclass))

        if len(call.arguments) == 1:
            self.solver.wait(call.arguments[0][0], one)
        elif len(call.arguments) == 3:

            def base(value: Value) -> None:
                if isinstance(value, ClassValue):
                    self.solver.add(call.result, value)

            self.solver.within(call.arguments[1][0], base)

    def _call_builtins_super(self, call: Call) -> None:
        if call.arguments:

            def one(value: Value) -> None:
                if isinstance(value, ClassValue):
                    self.solver.add(call.result, self.analysis.one(SuperValue, value.class_, False))

            self.solver.wait(call.arguments[0][0], one)

    def _call_builtins_property(self, call: Call, cached: bool = False) -> None:
        made = call.made.get("property")
        if made is None:
            made = call.made["property"] = PropertyValue(cached)
        assert isinstance(made, PropertyValue)
        targets = (made.get, made.set, made.delete)
        for (slot, _), target in zip(call.arguments, targets, strict=False):
            self.solver.flow(slot, target)
        for name, slot in call.keywords:
            if name in ("fget", "fset", "fdel"):
                self.solver.flow(slot, targets[("fget", "fset", "fdel").index(name)])
        self.solver.add(call.result, made)

    _call_abc_abstractproperty = _call_builtins_property

    def _call_functools_cached_property(self, call: Call) -> None:
        self._call_builtins_property(call, cached=True)

    def _wrap(self, call: Call, kind: str) -> None:
        def one(value: Value) -> None:
            if isinstance(value, FunctionValue):
                self.solver.add(call.result, self.analysis.one(WrappedValue, value.function, kind))
            elif isinstance(value, DecoratedValue) and isinstance(value.outer, FunctionValue):
                self.solver.add(call.result, self.analysis.one(WrappedValue, value.outer.function, kind))
            elif isinstance(value, BoundValue | WrappedValue):
                self.solver.add(call.result, value)

        for slot, _ in call.arguments[:1]:
            self.solver.wait(slot, one)

    def _call_builtins_staticmethod(self, call: Call) -> None:
        self._wrap(call, "staticmethod")

    def _call_builtins_classmethod(self, call: Call) -> None:
        self._wrap(call, "classmethod")

    def _call_contextlib_contextmanager(self, call: Call) -> None:
        self._wrap(call, "context")

    _call_contextlib_asynccontextmanager = _call_contextlib_contextmanager

    def _call_functools_partial(self, call: Call) -> None:
        if not call.arguments:
            return
        made = call.made.get("partial")
        if made is None:
            named = {name: slot for name, slot in call.keywords if name is not None}
            first = tuple(slot for slot, starred in call.arguments[1:] if not starred)
            made = call.made["partial"] = PartialValue(call.arguments[0][0], first, named)
        self.solver.add(call.result, made)

    _call_functools_partialmethod = _call_functools_partial

    def _call_functools_wraps(self, call: Call) -> None:
        self.solver.add(call.result, self.analysis.outside("shardwright.same"))

    def _call_shardwright_same(self, call: Call) -> None:
        for slot, _ in call.arguments[:1]:
            self.solver.flow(slot, call.result)

    def _call_typing_cast(self, call: Call) -> None:
        if len(call.arguments) == 2:
            self.solver.flow(call.arguments[1][0], call.result)
            if call.node is not None and call.scope is not None:
                self._once(call, "cast", lambda: self.walker.hints.apply(_argument(call, 0), call.result, _scope(call)))

    def _call_typing_TypeVar(self, call: Call) -> None:
        bound = call.keyword("bound")
        if bound is not None:
            self.solver.flow(bound, call.result)
            if call.node is not None:
                node = next(item.value for item in call.node.keywords if item.arg == "bound")
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and call.scope is not None:
                    try:
                        inner = expression(node.value)
                    except SyntaxError:
                        return
                    self._once(
                        call,
                        "bound",
                        lambda: self.solver.flow(self.walker.hints.evaluate(inner, _scope(call)), call.result),
                    )

    _call_typing_extensions_TypeVar = _call_typing_TypeVar

    def _call_typing_NewType(self, call: Call) -> None:
        for slot, _ in call.arguments[1:2]:
            self.solver.flow(slot, call.result)

    def _once(self, call: Call, key: str, action: Callable[[], None]) -> None:
        if (key, "once") not in call.made:
            call.made[key, "once"] = BoxValue("list")
            action()

    def _call_builtins_getattr(self, call: Call) -> None:
        if len(call.arguments) < 2 or call.node is None:
            return
        base, _ = call.arguments[0]
        for slot, _ in call.arguments[2:3]:
            self.solver.flow(slot, call.result)
        name = call.node.args[1]
        if isinstance(name, ast.Constant) and isinstance(name.value, str):
            text = name.value
            self.solver.wait(base, lambda value: self.calls.load_from(value, text, call.result, call.site))
            return
        while (
            isinstance(name, ast.Call)
            and isinstance(name.func, ast.Attribute)
            and not isinstance(name.func.value, ast.Constant)
        ):
            name = name.func.value  # name.lower()
        pattern = _pattern(name)
        around = call.scope.code.node if call.scope is not None else None
        if pattern is None and isinstance(name, ast.Name) and around is not None:
            for item in ast.walk(around):
                if isinstance(item, ast.Assign) and any(
                    isinstance(target, ast.Name) and target.id == name.id for target in item.targets
                ):
                    pattern = _pattern(item.value) or pattern
        if pattern is not None:
            self.solver.wait(base, lambda value: self._by_pattern(value, pattern, call))

    def _by_pattern(self, value: Value, pattern: re.Pattern[str], call: Call) -> None:
        names: dict[str, None] = {}
        if isinstance(value, InstanceValue | ClassValue):
            classes = [*value.class_.inside, *(value.class_.below if value.cone else ())]
            for class_ in classes:
                names.update(dict.fromkeys(name for name in tuple(class_.body) if pattern.fullmatch(name)))
        elif isinstance(value, ModuleValue):
            module = self.analysis.modules[value.name]
            names.update(dict.fromkeys(name for name in tuple(module.scope.names) if pattern.fullmatch(name)))
        for name in list(names)[:_MOST_BY_PATTERN]:
            self.calls.load_from(value, name, call.result, call.site)

    def _call_builtins_setattr(self, call: Call) -> None:
        if len(call.arguments) == 3 and call.node is not None:
            name = call.node.args[1]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                text = name.value
                self.solver.wait(
                    call.arguments[0][0],
                    lambda value: self.calls.store_to(value, text, call.arguments[2][0], call.site),
                )

    def _call_inspect_getmembers(self, call: Call) -> None:
        """Pairs of names and all that the class defines."""
        box, pair = call.box("list"), call.box("tuple")
        self.solver.add(call.result, box)
        self.solver.add(box.rest, pair)
        self.solver.flow(self.analysis.known(str), self.solver.item(pair, 0))
        member = self.solver.item(pair, 1)

        def one(value: Value) -> None:
            if isinstance(value, InstanceValue | ClassValue):
                for class_ in (*value.class_.inside, *(value.class_.below if value.cone else ())):
                    for name in tuple(class_.body)[:_MOST_BY_PATTERN]:
                        self.calls.load_from(value, name, member, call.site)

        for slot, _ in call.arguments[:1]:
            self.solver.wait(slot, one)

    def _call_importlib_import_module(self, call: Call) -> None:
        if call.node is not None and call.node.args:
            name = call.node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                source = call.site.caller.module.source
                dots = len(name.value) - len(name.value.lstrip("."))
                absolute = source.absolute(name.value[dots:], dots) if dots else name.value
                if absolute in self.analysis.modules:
                    self.solver.add(call.result, self.analysis.module(absolute))


def _pattern(node: ast.expr) -> re.Pattern[str] | None:
    """The names that ``"visit_" + x``, ``f"visit_{x}"`` or ``"visit_%s" % x`` may give; None for anything."""
    text = ""
    match node:
        case ast.JoinedStr(values=values):
            for item in values:
                text += (
                    re.escape(item.value) if isinstance(item, ast.Constant) and isinstance(item.value, str) else ".*"
                )
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            for side in (left, right):
                inner = _pattern(side)
                if isinstance(side, ast.Constant) and isinstance(side.value, str):
                    text += re.escape(side.value)
                else:
                    text += inner.pattern if inner is not None else ".*"
        case ast.BinOp(left=ast.Constant(value=str(form)), op=ast.Mod()):
            text = ".*".join(re.escape(part) for part in re.split(r"%[a-z]", form))
        case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(form)), attr="format")):
            text = ".*".join(re.escape(part) for part in re.split(r"\{[^}]*\}", form))
        case _:
            return None
    return re.compile(text) if len(text.replace(".*", "").replace("\\", "")) >= 2 else None


def _argument(call: Call, place: int) -> ast.expr | None:
    return call.node.args[place] if call.node is not None and len(call.node.args) > place else None


def _scope(call: Call) -> Scope:
    assert call.scope is not None
    return call.scope
