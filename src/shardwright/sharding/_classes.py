"""Which classes are copied (value classes) and which are reached by handle (stateful classes), and why.

A little beyond 400 lines: all that decides whether instances are copied or stay.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterator

from msgspec import Struct, field
from msgspec.structs import replace

from shardwright.sharding._functions import FunctionFacts, describe, literal
from shardwright.sharding._made_methods import added_methods, assigned_method
from shardwright.sharding._scanned import MUTATORS
from shardwright.sharding._symbols import CLASS_FACTORIES, Ref, Resolver, target_names

_RECORD_BASES = frozenset({
    "typing.NamedTuple", "typing.TypedDict", "typing.Protocol", "typing_extensions.TypedDict",
    "typing_extensions.NamedTuple", "typing_extensions.Protocol",
})  # fmt: skip
_RECORD_DECORATORS = frozenset({
    "dataclasses.dataclass", "attr.s", "attr.attrs", "attr.define", "attr.frozen", "attr.dataclass", "attrs.define",
    "attrs.frozen", "attrs.mutable", "pydantic.dataclasses.dataclass",
})  # fmt: skip
# bases that bring no state that a copy would lose
_PLAIN_BASES = frozenset({
    "builtins.object", "builtins.dict", "builtins.list", "builtins.tuple", "builtins.set", "builtins.frozenset",
    "builtins.str", "builtins.int", "builtins.float", "builtins.bytes", "builtins.complex", "abc.ABC", "typing.Generic",
    "typing_extensions.Generic", "collections.OrderedDict", "collections.UserDict", "collections.UserList",
    "collections.UserString", "json.JSONEncoder", "json.JSONDecoder", "string.Template", "string.Formatter",
    "datetime.tzinfo", "contextlib.ContextDecorator", "contextlib.AbstractContextManager",
})  # fmt: skip
_BUILDING = frozenset({"__init__", "__new__", "__post_init__", "__setstate__", "__init_subclass__", "__set_name__",
                       "__attrs_post_init__", "__class_getitem__"})  # fmt: skip
# calls whose result in an attribute is a plain value
_PLAIN_CALLS = frozenset({
    *(f"builtins.{name}" for name in ("int", "float", "str", "bytes", "bytearray", "bool", "complex", "list",
    "tuple", "dict",
      "set", "frozenset", "len", "sum", "min", "max", "sorted", "abs", "round", "repr", "range", "type", "super",
      "divmod",
      "pow", "ord", "chr", "hash", "id", "getattr", "format", "isinstance", "any", "all", "hex")),
    "collections.OrderedDict", "collections.Counter", "collections.deque", "collections.defaultdict",
    "decimal.Decimal", "fractions.Fraction", "pathlib.Path", "pathlib.PurePath", "pathlib.PurePosixPath",
    "datetime.datetime", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date", "datetime.date.today",
    "datetime.timedelta", "datetime.time", "time.time", "time.monotonic", "time.perf_counter", "uuid.uuid4",
    "uuid.UUID",
    "re.compile", "copy.copy", "copy.deepcopy", "math.sqrt", "os.path.join", "os.fspath", "types.MappingProxyType",
    "dataclasses.field", "enum.auto", "enum.property", "operator.itemgetter", "operator.attrgetter", "json.loads",
    "json.dumps",
})  # fmt: skip
_HIDDEN = frozenset({
    "__init__", "__new__", "__del__", "__init_subclass__", "__class_getitem__", "__getattr__", "__getattribute__",
    "__setattr__", "__delattr__", "__dir__", "__reduce__", "__reduce_ex__", "__getstate__", "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__", "__copy__", "__deepcopy__", "__set_name__", "__post_init__", "__slots__", "__subclasshook__",
    "__instancecheck__", "__subclasscheck__", "__prepare__",
})  # fmt: skip
_PROPERTIES = ("property", "cached_property", "functools.cached_property", "abstractproperty")


class MethodFacts(Struct, frozen=True):
    """A method as handles see it. ``kind``: method | static | class | property. ``home`` is the defining class."""

    name: str
    kind: str
    facts: FunctionFacts
    home: Ref


class ClassFacts(Struct):
    """What is known of a class. ``nature``: exception | enum | record | plain | foreign (unknown base)."""

    ref: Ref
    node: ast.ClassDef
    nature: str
    bases: tuple[Ref, ...]
    changes: list[tuple[int, str]] = field(default_factory=list)  # why copies would not do
    global_writes: list[int] = field(default_factory=list)
    stateful: bool = False
    stripped: bool = False  # elsewhere only its name and bases are seen
    why: str = ""
    methods: dict[str, MethodFacts] = field(default_factory=dict)

    @property
    def hands_out_iterators(self) -> bool:
        """Whether iterating over an object makes an iterator of another class, which cannot cross an edge."""
        return ("__iter__" in self.methods or "__aiter__" in self.methods) and not (
            "__next__" in self.methods or "__anext__" in self.methods
        )

    @property
    def is_generic(self) -> bool:
        """Whether the class statement itself lets ``C[int]`` be written."""
        return (
            any(isinstance(base, ast.Subscript) for base in self.node.bases)
            or bool(getattr(self.node, "type_params", ()))
            or "__class_getitem__" in assigned_in(self.node)
            or any(isinstance(item, ast.FunctionDef) and item.name == "__class_getitem__" for item in self.node.body)
        )

    @property
    def is_abstract_base(self) -> bool:
        return Ref("abc", "ABC") in self.bases or any(
            keyword.arg == "metaclass" and ast.unparse(keyword.value).endswith("ABCMeta")
            for keyword in self.node.keywords
        )


def classes_in(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.ClassDef]]:
    """Every class statement reachable without calling something, nested ones after their outer class."""
    for statement in getattr(node, "body", []):
        yield from _classes_below(statement, prefix)


def _classes_below(statement: ast.stmt, prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    if isinstance(statement, ast.ClassDef):
        name = f"{prefix}{statement.name}"
        yield name, statement
        yield from classes_in(statement, f"{name}.")
    elif isinstance(statement, ast.If | ast.Try | ast.TryStar | ast.With):
        for block in ("body", "orelse", "finalbody"):
            for inner in getattr(statement, block, []):
                yield from _classes_below(inner, prefix)
        for handler in getattr(statement, "handlers", []):
            for inner in handler.body:
                yield from _classes_below(inner, prefix)


class ClassBook:
    """Facts about every class of the application, made on demand.

    ``declared`` answers ``"stateful"``, ``"value"`` or ``""`` for a class that the manifest speaks of; ``owned`` says
    whether a component owns a module; ``writes_globals`` lists the lines where a class writes globals of its module.
    """

    def __init__(
        self,
        resolver: Resolver,
        declared: Callable[[Ref], str],
        owned: Callable[[str], bool],
        global_writes: Callable[[Ref], list[int]],
    ) -> None:
        self._resolver = resolver
        self._declared = declared
        self._owned = owned
        self._global_writes = global_writes
        self._known: dict[Ref, ClassFacts | None] = {}

    def facts(self, ref: Ref) -> ClassFacts | None:
        """The facts of a class of the application; ``None`` for everything else."""
        if ref in self._known:
            return self._known[ref]
        node = self._resolver.class_node(ref) if ref.name else None
        if node is None:
            self._known[ref] = None
            return None
        bases = tuple(base for item in node.bases if (base := self._resolver.expression(ref.module, item)) is not None)
        facts = ClassFacts(ref, node, "plain", bases)
        self._known[ref] = facts  # before looking at bases, for a class may name itself
        known = [item for item in node.bases if isinstance(item, ast.Call) and self._is_factory(ref.module, item)]
        facts.nature = self._nature(facts, len(bases) + len(known) < len(node.bases))
        if known and facts.nature == "plain":
            facts.nature = "record"
        facts.global_writes = self._global_writes(ref)
        self._find_changes(facts)
        self._decide(facts)
        facts.methods = self._methods(facts)
        return facts

    def is_stateful(self, ref: Ref) -> bool:
        facts = self.facts(ref)
        return facts is not None and facts.stateful

    # -- nature --------------------------------------------------------------------------------------------------

    def _nature(self, facts: ClassFacts, unknown_base: bool) -> str:
        for decorator in facts.node.decorator_list:
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            ref = self._resolver.expression(facts.ref.module, called)
            if ref is not None and (f"{ref.module}.{ref.name}" in _RECORD_DECORATORS or ref.name == "dataclass"):
                return "record"
        natures = [self._base_nature(base) for base in facts.bases]
        for nature in ("exception", "enum", "record"):
            if nature in natures:
                return nature
        return "foreign" if "foreign" in natures or unknown_base else "plain"

    def _is_factory(self, module: str, call: ast.Call) -> bool:
        """``class P(namedtuple("P", "x y"))``"""
        called = self._resolver.expression(module, call.func)
        return called is not None and f"{called.module}.{called.name}" in CLASS_FACTORIES

    def _base_nature(self, base: Ref) -> str:
        if self._resolver.made_class(base):
            return "record"
        above = self.facts(base)
        if above is not None:
            return above.nature
        full, last = f"{base.module}.{base.name}", base.name.rpartition(".")[2]
        if base.module == "builtins":
            known = getattr(builtins, base.name, None)
            if isinstance(known, type) and issubclass(known, BaseException):
                return "exception"
        if base.module == "enum":
            return "enum"
        if full in _RECORD_BASES or last in ("BaseModel", "Struct", "SQLModel", "RootModel"):
            return "record"
        if full in _PLAIN_BASES or base.module in ("collections.abc", "typing", "numbers"):
            return "plain"
        return "exception" if last.endswith(("Error", "Exception", "Warning")) else "foreign"

    # -- changes -------------------------------------------------------------------------------------------------

    def _find_changes(self, facts: ClassFacts) -> None:
        for item in facts.node.body:
            if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            arguments = [*item.args.posonlyargs, *item.args.args]
            static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in item.decorator_list)
            own = arguments[0].arg if arguments and not static else ""
            if item.name in _BUILDING:
                if facts.nature in ("plain", "foreign") and item.name == "__init__":
                    self._resources(facts, item, own)
                continue
            found = _first_change(item, own, facts.node.name)
            if found is not None:
                facts.changes.append((found, f"{item.name} changes {own or facts.node.name}"))

    def _resources(self, facts: ClassFacts, init: ast.FunctionDef | ast.AsyncFunctionDef, own: str) -> None:
        """``self.x = something()`` of unknown kind: a copy of the object would not be the object."""
        for item in ast.walk(init):
            if not isinstance(item, ast.Assign | ast.AnnAssign) or item.value is None:
                continue
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            parts = [part for t in targets for part in (t.elts if isinstance(t, ast.Tuple | ast.List) else [t])]
            if not any(_is_own(part, own) for part in parts if isinstance(part, ast.Attribute)):
                continue
            for call in ast.walk(item.value):
                if isinstance(call, ast.Call) and not self._plain_result(facts.ref.module, call):
                    facts.changes.append((item.lineno, f"__init__ keeps the result of {_short(call.func)}()"))
                    return

    def _plain_result(self, module: str, call: ast.Call) -> bool:
        ref = self._resolver.expression(module, call.func)
        if ref is None:  # a method of a value: str.strip(), dict.get()
            return isinstance(call.func, ast.Attribute)
        if f"{ref.module}.{ref.name}" in _PLAIN_CALLS:
            return True
        if self._resolver.class_node(ref) is not None:
            return not self.is_stateful(ref)
        # functions of the application return what they return: take them for values, they are copied anyway
        return self._resolver.tree.locate(ref.module) is not None and self._resolver.binding(ref) is not None

    def _decide(self, facts: ClassFacts) -> None:
        declared = self._declared(facts.ref)
        if declared:
            facts.stateful, facts.why = declared == "stateful", "the manifest says so"
            return
        if not self._owned(facts.ref.module):
            facts.why = "common modules are copied"
            return
        if facts.nature in ("exception", "enum", "record"):
            facts.why = f"{facts.nature} classes are copied"
            return
        if facts.nature == "foreign":
            facts.stateful, facts.why = True, "inherits from a class outside the application"
        elif any(self.is_stateful(base) for base in facts.bases):
            facts.stateful, facts.why = True, "inherits from a stateful class"
        elif facts.changes:
            facts.stateful, facts.why = True, facts.changes[0][1]
        elif any((above := self.facts(base)) is not None and above.changes for base in facts.bases):
            facts.stateful, facts.why = True, "inherits methods that change it"
        elif facts.global_writes:
            facts.stateful, facts.why = True, "its methods write globals of the module"
        else:
            facts.why = "no method changes it"

    # -- methods -------------------------------------------------------------------------------------------------

    def _methods(self, facts: ClassFacts) -> dict[str, MethodFacts]:
        found: dict[str, MethodFacts] = {}
        for base in reversed(facts.bases):
            above = self.facts(base)
            if above is not None:
                found.update(above.methods)
        for item in facts.node.body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                kind = _method_kind(item)
                if item.name not in _HIDDEN and kind:
                    described = describe(self._resolver, facts.ref.module, item)
                    found[item.name] = MethodFacts(item.name, kind, described, facts.ref)
            elif isinstance(item, ast.Assign):
                for target in item.targets:
                    if isinstance(target, ast.Name):
                        self._assigned(facts, found, target.id, item.value)
        for added in added_methods(self._resolver, facts.ref.module, facts.node, set(found)):
            found[added.name] = MethodFacts(added.name, "method", added, facts.ref)
        return found

    def _assigned(self, facts: ClassFacts, found: dict[str, MethodFacts], name: str, value: ast.expr) -> None:
        if isinstance(value, ast.Name) and value.id in found:  # `bump = step`
            found[name] = replace(found[value.id], name=name)
            return
        made = assigned_method(self._resolver, facts.ref.module, name, value)
        if made is not None and name not in _HIDDEN:
            found[name] = MethodFacts(name, made[0], made[1], facts.ref)
        elif isinstance(value, ast.Constant):  # `__hash__ = None`
            found.pop(name, None)

    def constructor(self, facts: ClassFacts) -> FunctionFacts:
        """How the class is constructed; ``(self, *args, **kwargs)`` where that cannot be seen."""
        return self._constructor(facts) or FunctionFacts(
            facts.ref.name, facts.node.lineno, "(self, *args, **kwargs)", (), doc=ast.get_docstring(facts.node)
        )

    def _constructor(self, facts: ClassFacts) -> FunctionFacts | None:
        for name in ("__init__", "__new__"):
            for item in facts.node.body:
                if isinstance(item, ast.FunctionDef) and item.name == name:
                    return describe(self._resolver, facts.ref.module, item)
        if facts.nature == "record":
            return None
        for base in facts.bases:
            above = self.facts(base)
            found = self._constructor(above) if above is not None else None
            if found is not None:
                return found
        if facts.nature == "plain" and all(
            f"{base.module}.{base.name}" in ("builtins.object", "abc.ABC", "typing.Generic")
            or self.facts(base) is not None
            for base in facts.bases
        ):
            return FunctionFacts(facts.ref.name, facts.node.lineno, "(self)", ())
        return None


def constants_of(node: ast.ClassDef) -> dict[str, str]:
    """Class attributes with immutable literal values that no method assigns."""
    found: dict[str, str] = {}
    for item in node.body:
        if isinstance(item, ast.Assign) and len(item.targets) == 1 and isinstance(item.targets[0], ast.Name):
            text, name = literal(item.value), item.targets[0].id
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            text, name = literal(item.value), item.target.id
        else:
            continue
        if text and not name.startswith("__") and not text.startswith(("[", "{")):
            found[name] = text
    if not found:
        return found
    stored = {
        item.attr
        for method in node.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        for item in ast.walk(method)
        if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store)
    }
    return {name: text for name, text in found.items() if name not in stored}


def assigned_in(node: ast.ClassDef) -> frozenset[str]:
    """The names that statements of the class body assign."""
    targets: list[ast.expr] = []
    for item in ast.walk(ast.Module(_outside_functions(node.body), [])):
        if isinstance(item, ast.Assign):
            targets += item.targets
        elif isinstance(item, ast.AnnAssign) and item.value is not None:
            targets.append(item.target)
    return frozenset(name for target in targets for name in target_names(target))


def attributes_of(node: ast.ClassDef) -> frozenset[str]:
    """The names of attributes that methods store to, of whatever object, and of methods."""
    stored = {
        item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute) and isinstance(item.ctx, ast.Store)
    }
    defined = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
    return frozenset(stored | defined)


def _outside_functions(body: list[ast.stmt]) -> list[ast.stmt]:
    return [item for item in body if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]


def _method_kind(item: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    kind = "method"
    for decorator in item.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        text = _short(called)
        if text == "staticmethod":
            kind = "static"
        elif text == "classmethod":
            kind = "class"
        elif text in _PROPERTIES:
            kind = "property"
        elif text.endswith((".setter", ".deleter")) or text.endswith(("overload",)):
            return ""
    return kind


def _short(node: ast.expr) -> str:
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else "a call"


def _is_own(node: ast.expr, own: str) -> bool:
    """Whether an expression stands on ``self.<attribute>``."""
    inside = False
    while isinstance(node, ast.Attribute | ast.Subscript):
        inside = True
        node = node.value
    return inside and bool(own) and isinstance(node, ast.Name) and node.id == own


def _first_change(method: ast.AST, own: str, class_name: str) -> int | None:
    lines = []
    for item in ast.walk(method):
        targets: list[ast.expr] = []
        if isinstance(item, ast.Assign):
            targets = item.targets
        elif isinstance(item, ast.AugAssign | ast.AnnAssign):
            targets = [item.target]
        elif isinstance(item, ast.Delete):
            targets = item.targets
        elif isinstance(item, ast.For | ast.AsyncFor):
            targets = [item.target]
        elif isinstance(item, ast.Call):
            function = item.func
            if isinstance(function, ast.Attribute) and function.attr in MUTATORS:
                on = function.value
                if _is_own(on, own) or (isinstance(on, ast.Name) and on.id == own and own) or _is_own(on, class_name):
                    lines.append(item.lineno)
            elif isinstance(function, ast.Name) and function.id in ("setattr", "delattr") and item.args:
                if isinstance(item.args[0], ast.Name) and item.args[0].id in (own, class_name):
                    lines.append(item.lineno)
            elif isinstance(function, ast.Name) and function.id == "next" and item.args and _is_own(item.args[0], own):
                lines.append(item.lineno)
        for target in targets:
            parts = target.elts if isinstance(target, ast.Tuple | ast.List) else [target]
            if any(_is_own(part, own) or _is_own(part, class_name) for part in parts):
                lines.append(item.lineno)  # type: ignore[attr-defined]
    return min(lines) if lines else None
