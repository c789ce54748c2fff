"""The classes of a module as those see them whose code does not import it: their data, and none of their code.

A value may reach a shard that never imported the module of its class: the class is then made of what this source says.
Nothing in it is an expression of the module's author but literals: fields, their plain defaults, members of enums, the
bases and decorators of a short list. What a class does by code of its own is declared through ``__shardwright__`` and
refuses to run (see ``guest._data``).
"""

from __future__ import annotations

import ast
import builtins

from shardwright._syntax import expression, parsed
from shardwright.sharding._classes import ClassFacts, constants_of
from shardwright.sharding._program import Program
from shardwright.sharding._stub import StubWriter
from shardwright.sharding._surface import Surface, statements
from shardwright.sharding._symbols import CLASS_FACTORIES, Ref

_ENUMS = frozenset({"enum.Enum", "enum.IntEnum", "enum.StrEnum", "enum.Flag", "enum.IntFlag", "enum.ReprEnum"})
_BASES = _ENUMS | {
    "typing.NamedTuple", "collections.OrderedDict", "collections.defaultdict", "collections.deque", "collections.Counter",
    "types.SimpleNamespace",
    *(f"builtins.{name}" for name in ("object", "dict", "list", "tuple", "set", "frozenset", "str", "int", "float",
      "bytes", "bytearray", "complex")),
}  # fmt: skip
# these say something about a class, and change nothing that its data shows
_SILENT_BASES = frozenset({"abc.ABC", "typing.Generic", "typing.Protocol", "typing_extensions.Generic",
                           "typing_extensions.Protocol"})  # fmt: skip
_SILENT_DECORATORS = frozenset({"enum.unique", "typing.final", "typing_extensions.final", "typing.runtime_checkable",
                                "functools.total_ordering"})  # fmt: skip
_FACTORIES = frozenset({"list", "dict", "set", "tuple", "frozenset", "str", "int", "float", "bytes", "bool"})
# hooks of the class statement and of the end of an object: there is nothing here for them to do
_DROPPED = frozenset({"__init_subclass__", "__class_getitem__", "__set_name__", "__del__", "__subclasshook__",
                      "__prepare__", "__match_args__"})  # fmt: skip
_ORDERS = ("__lt__", "__le__", "__gt__", "__ge__")
_MOST_BITS = 256
_ME = "__shardwright__"


class Hidden(Exception):
    """Why a class cannot be shown as data."""


def data_source(program: Program, surfaces: dict[str, Surface], module: str) -> str:
    """The source of the module of data; the same input gives the same text."""
    return _Data(program, surfaces, module).run()


def code_of_class(node: ast.ClassDef) -> tuple[str, ...]:
    """The names in a value class that are code of its own, in their order; those that nobody calls left out."""
    found = [
        item.name
        for item in node.body
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and item.name not in _DROPPED
    ]
    return tuple(dict.fromkeys(found))


class _Data:
    def __init__(self, program: Program, surfaces: dict[str, Surface], module: str) -> None:
        self.program = program
        self.surface = surfaces[module]
        self.module = module
        self.stub = StubWriter(program, surfaces, module)
        self.imports: set[str] = {"dataclasses", "typing"}

    def run(self) -> str:
        blocks: list[str] = []
        tree = self.surface.symbols.module.tree
        for statement, _ in statements(tree.body):
            match statement:
                case ast.ClassDef(name=name):
                    blocks += self.top_class(name, statement)
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call() as call):
                    made = self.program.resolver.made_class(Ref(self.module, name))
                    if made:
                        blocks.append(self.made(name, made, call))
        lines = [f"import {name}" for name in sorted(self.imports)]
        return "\n".join([*lines, *blocks]) + "\n" if blocks else ""

    def top_class(self, name: str, node: ast.ClassDef) -> list[str]:
        if self.surface.stateful.get(name) is node:
            return [self.handle(name, node)]
        facts = self.program.classes.facts(Ref(self.module, name))
        if facts is None or facts.node is not node or facts.stateful:
            return []
        try:
            return [ast.unparse(ast.fix_missing_locations(self.value(name, node, facts)))]
        except Hidden as why:
            return [f"{name} = {_ME}.hidden({name!r}, {str(why)!r})"]

    def handle(self, name: str, node: ast.ClassDef) -> str:
        facts = self.program.classes.facts(Ref(self.module, name))
        assert facts is not None
        lines = [f"{name} = {self.stub.declare_class(name, facts, inherits=False)}"]
        lines += [f"type.__setattr__({name}, {item!r}, {text})" for item, text in sorted(constants_of(node).items())]
        for item in node.body:
            if isinstance(item, ast.ClassDef):
                inner = self.program.classes.facts(Ref(self.module, f"{name}.{item.name}"))
                if inner is None:
                    continue
                try:
                    if inner.stateful:
                        text = self.handle(f"{name}.{item.name}", item).replace(f"{name}.", "", 1)
                    else:
                        text = ast.unparse(ast.fix_missing_locations(self.value(f"{name}.{item.name}", item, inner)))
                        text += f"\n{item.name}.__qualname__ = {f'{name}.{item.name}'!r}"
                except Hidden as why:
                    text = f"{item.name} = {_ME}.hidden({f'{name}.{item.name}'!r}, {str(why)!r})"
                lines += [text, f"type.__setattr__({name}, {item.name!r}, {item.name})"]
        return "\n".join(lines)

    # -- one class -----------------------------------------------------------------------------------------------

    def value(self, qualname: str, node: ast.ClassDef, facts: ClassFacts) -> ast.ClassDef:
        if any(keyword.arg == "metaclass" and not _is_abc(keyword.value) for keyword in node.keywords):
            raise Hidden("its metaclass is code")
        bases, known = self.bases(node)
        enum, fields = bool(known & _ENUMS) or facts.nature == "enum", "typing.NamedTuple" in known
        decorators, ordered = self.decorators(node)
        record = any("dataclasses.dataclass" in ast.unparse(item) for item in decorators)
        body: list[ast.stmt] = []
        names: set[str] = set()
        for item in node.body:
            members = self.member(qualname, item, names, enum=enum, record=record, strict=fields, facts=facts)
            body += members
            names |= {name for each in members for name in _bound(each)}
        if facts.nature == "exception":
            body.append(_assign("__shardwright_data__", ast.Constant(True)))
        if ordered:
            body += [self.refusing(qualname, name) for name in _ORDERS if name not in names]
        made = parsed(f"class {node.name}: pass").body[0]
        assert isinstance(made, ast.ClassDef)
        made.bases, made.body, made.decorator_list = bases, body or made.body, decorators
        return made

    def bases(self, node: ast.ClassDef) -> tuple[list[ast.expr], set[str]]:
        found: list[ast.expr] = []
        known: set[str] = set()
        for base in node.bases:
            if isinstance(base, ast.Call):
                found.append(self.factory(base))
                continue
            ref = self.program.resolver.expression(self.module, base)
            if ref is None:
                raise Hidden(f"its base {ast.unparse(base)} is the result of code")
            full = f"{ref.module}.{ref.name}"
            if full in _SILENT_BASES:
                continue
            if full in _BASES or _is_exception(ref):
                known.add(full)
                if ref.module != "builtins":
                    self.imports.add(ref.module)
                    found.append(expression(full))
                else:
                    found.append(ast.Name(ref.name, ast.Load()))
            elif self.program.classes.facts(ref) is not None or self.program.resolver.made_class(ref):
                found.append(_call("cls", f"{ref.module}:{ref.name}"))
            else:
                raise Hidden(f"its base is {full}")
        return found, known

    def factory(self, call: ast.Call) -> ast.expr:
        called = self.program.resolver.expression(self.module, call.func)
        full = f"{called.module}.{called.name}" if called is not None else ""
        if full not in CLASS_FACTORIES:
            raise Hidden(f"its base is the result of {ast.unparse(call.func)}()")
        return self.made_call(full, call)

    def made(self, name: str, factory: str, call: ast.Call) -> str:
        try:
            text = ast.unparse(ast.fix_missing_locations(self.made_call(factory, call)))
        except Hidden as why:
            return f"{name} = {_ME}.hidden({name!r}, {str(why)!r})"
        return f"{name} = {text}\n{name}.__module__ = __name__"

    def made_call(self, factory: str, call: ast.Call) -> ast.expr:
        if factory in ("typing.TypedDict", "dataclasses.make_dataclass"):
            raise Hidden(f"it is made by {factory}")
        arguments = list(call.args)
        if factory == "typing.NamedTuple":
            if len(arguments) != 2 or not isinstance(arguments[1], ast.List | ast.Tuple):
                raise Hidden("its fields are the result of code")
            names = [item.elts[0] for item in arguments[1].elts if isinstance(item, ast.Tuple) and item.elts]
            factory, arguments = "collections.namedtuple", [arguments[0], ast.List(list(names), ast.Load())]
        for item in (*arguments, *(keyword.value for keyword in call.keywords)):
            if not _literal(item):
                raise Hidden("its fields are the result of code")
        module = factory.partition(".")[0]
        self.imports.add(module)
        keywords = [keyword for keyword in call.keywords if keyword.arg in ("names", "start", "rename", "defaults")]
        return ast.Call(expression(factory), arguments, keywords)

    def decorators(self, node: ast.ClassDef) -> tuple[list[ast.expr], bool]:
        """Those that are kept; and whether the class gets what it lacks of the four comparisons."""
        kept: list[ast.expr] = []
        ordered = False
        for item in node.decorator_list:
            if id(item) in self.surface.undecorated:
                continue
            called = item.func if isinstance(item, ast.Call) else item
            ref = self.program.resolver.expression(self.module, called)
            full = f"{ref.module}.{ref.name}" if ref is not None else ""
            if full == "dataclasses.dataclass":
                keywords = item.keywords if isinstance(item, ast.Call) else []
                if any(keyword.arg is None or not _literal(keyword.value) for keyword in keywords):
                    raise Hidden("its decorator is told what to do by code")
                kept.append(ast.Call(expression(full), [], list(keywords)))
            elif full == "functools.total_ordering":
                ordered = True
            elif full not in _SILENT_DECORATORS:
                raise Hidden(f"it is decorated by {ast.unparse(called)}")
        return kept, ordered

    def member(
        self,
        qualname: str,
        item: ast.stmt,
        names: set[str],
        *,
        enum: bool,
        record: bool,
        strict: bool,
        facts: ClassFacts,
    ) -> list[ast.stmt]:
        match item:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if enum and name in ("__new__", "__init__", "_generate_next_value_", "_missing_"):
                    raise Hidden(f"its members are made by its {name}")
                if name in _DROPPED:
                    return []
                if facts.nature == "exception" and name in ("__str__", "__repr__"):
                    return [_assign(name, ast.Attribute(ast.Name(_ME, ast.Load()), f"exception{name}", ast.Load()))]
                return [self.refusing(qualname, name)]
            case ast.ClassDef(name=name):
                inner = self.program.classes.facts(Ref(self.module, f"{qualname}.{name}"))
                if inner is None or inner.stateful:
                    return []
                return [self.value(f"{qualname}.{name}", item, inner)]
            case ast.AnnAssign(target=ast.Name(id=name), value=value):
                kind = _annotation(item.annotation)
                if value is None:
                    return [_annotated(name, kind, None)]
                if kind == "typing.ClassVar" or not (record or strict):
                    return self.plain(qualname, name, value, names, enum)
                return [_annotated(name, kind, self.default(qualname, name, value, strict))]
            case ast.Assign(targets=targets, value=value) if all(isinstance(each, ast.Name) for each in targets):
                bound = [each.id for each in targets if isinstance(each, ast.Name)]
                return [made for name in bound for made in self.plain(qualname, name, value, names, enum)]
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                return [item]
        if enum and _bound(item):
            raise Hidden("its members are the result of code")
        return [self.refusing(qualname, name) for name in _bound(item)]

    def plain(self, qualname: str, name: str, value: ast.expr, names: set[str], enum: bool) -> list[ast.stmt]:
        """``name = value`` in a class body."""
        if name in _DROPPED:
            return []
        if _literal(value) or (isinstance(value, ast.Name) and value.id in names):
            return [_assign(name, value)]
        if enum and _member_value(value, names):
            return [_assign(name, value)]
        if enum and not name.startswith("_"):
            call = value.func if isinstance(value, ast.Call) else None
            ref = self.program.resolver.expression(self.module, call) if call is not None else None
            if ref != Ref("enum", "auto"):
                raise Hidden(f"its member {name} is the result of code")
            self.imports.add("enum")
            return [_assign(name, ast.Call(expression("enum.auto"), [], []))]
        if name == "__slots__":
            raise Hidden("its __slots__ are the result of code")
        if name == "__hash__":
            return [self.refusing(qualname, name)]
        return [self.refusing(qualname, name)]

    def default(self, qualname: str, name: str, value: ast.expr, strict: bool) -> ast.expr:
        """Of a field."""
        if _literal(value):
            return value
        if strict:
            raise Hidden(f"the default of {name} is the result of code")
        absent = ast.keyword("default_factory", _call("absent", f"{qualname}.{name}"))
        ref = self.program.resolver.expression(self.module, value.func) if isinstance(value, ast.Call) else None
        keywords: list[ast.keyword] = []
        if ref == Ref("dataclasses", "field") and isinstance(value, ast.Call):
            for keyword in value.keywords:
                if (
                    keyword.arg in ("init", "repr", "hash", "compare", "kw_only", "default") and _literal(keyword.value)
                ) or (keyword.arg == "default_factory" and _builtin_factory(keyword.value, self.surface)):
                    keywords.append(keyword)
                elif keyword.arg in ("default", "default_factory"):
                    keywords.append(absent)
                elif keyword.arg != "metadata":
                    raise Hidden(f"its field {name} is told what to do by code")
        else:
            keywords = [absent]
        return ast.Call(expression("dataclasses.field"), [], keywords)

    def refusing(self, qualname: str, name: str) -> ast.stmt:
        made = _call("code", f"{qualname}.{name}")
        return _assign(name, made)


def _call(method: str, argument: str) -> ast.Call:
    return ast.Call(ast.Attribute(ast.Name(_ME, ast.Load()), method, ast.Load()), [ast.Constant(argument)], [])


def _assign(name: str, value: ast.expr) -> ast.Assign:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _annotated(name: str, kind: str, value: ast.expr | None) -> ast.AnnAssign:
    return ast.AnnAssign(ast.Name(name, ast.Store()), expression(kind), value, 1)


def _annotation(node: ast.expr) -> str:
    """What a data class makes of an annotation."""
    text = ast.unparse(node)
    text = text[1:-1] if isinstance(node, ast.Constant) else text
    head = text.partition("[")[0].rpartition(".")[2]
    return {
        "ClassVar": "typing.ClassVar", "InitVar": "dataclasses.InitVar[object]", "KW_ONLY": "dataclasses.KW_ONLY",
    }.get(head, "object")  # fmt: skip


def _literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _member_value(node: ast.expr, names: set[str]) -> bool:
    """Numbers and earlier members, put together: ``READ | WRITE``, ``1 << 3``."""
    match node:
        case ast.Constant(value=int()):
            return True
        case ast.Name(id=name):
            return name in names
        case ast.UnaryOp(op=ast.USub() | ast.Invert(), operand=inner):
            return _member_value(inner, names)
        case ast.BinOp(op=ast.LShift(), left=left, right=ast.Constant(value=int(bits))):
            return 0 <= bits <= _MOST_BITS and _member_value(left, names)
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.BitXor() | ast.Add() | ast.Sub(), left=left, right=right):
            return _member_value(left, names) and _member_value(right, names)
    return False


def _builtin_factory(node: ast.expr, surface: Surface) -> bool:
    return isinstance(node, ast.Name) and node.id in _FACTORIES and surface.symbols.last(node.id) is None


def _is_exception(ref: Ref) -> bool:
    known = getattr(builtins, ref.name, None) if ref.module == "builtins" else None
    return isinstance(known, type) and issubclass(known, BaseException)


def _is_abc(node: ast.expr) -> bool:
    return ast.unparse(node) in ("ABCMeta", "abc.ABCMeta")


def _bound(item: ast.stmt) -> list[str]:
    match item:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case ast.Assign(targets=targets):
            return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
        case ast.If() | ast.Try() | ast.With() | ast.For():
            inner = [*item.body, *getattr(item, "orelse", ())]
            return [name for each in inner for name in _bound(each)]
    return []
