"""Whether an expression has the same value in every process, so that a generated module may evaluate it for itself."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Callable

from shardwright.sharding._symbols import Ref

_BUILTIN_CALLS = frozenset({
    "frozenset", "set", "dict", "list", "tuple", "int", "str", "float", "bytes", "bytearray", "bool", "complex",
    "range",
    "len", "min", "max", "sum", "sorted", "abs", "round", "enumerate", "zip", "reversed", "object", "ord", "chr",
    "slice",
    "repr", "divmod", "pow", "type", "any", "all", "map", "filter", "hex", "bin", "oct", "property", "staticmethod",
})  # fmt: skip
_CALLS = frozenset({
    "re.compile", "re.escape", "collections.namedtuple", "collections.OrderedDict", "collections.Counter",
    "collections.ChainMap", "collections.deque", "types.MappingProxyType", "types.SimpleNamespace", "decimal.Decimal",
    "fractions.Fraction", "datetime.timedelta", "datetime.datetime", "datetime.date", "datetime.time",
    "datetime.timezone", "pathlib.Path", "pathlib.PurePath", "pathlib.PurePosixPath", "uuid.UUID", "typing.NewType",
    "typing.TypeVar", "typing.ParamSpec", "typing.TypeVarTuple", "typing.NamedTuple", "typing.TypedDict", "typing.cast",
    "enum.auto", "enum.Enum", "enum.IntEnum", "enum.StrEnum", "enum.Flag", "enum.IntFlag", "logging.getLogger",
    "struct.Struct", "string.Template", "operator.itemgetter", "operator.attrgetter", "operator.methodcaller",
    "functools.reduce", "dataclasses.field", "dataclasses.make_dataclass", "textwrap.dedent", "math.sqrt", "math.pow",
    "math.log", "math.radians", "math.cos", "math.sin", "itertools.product", "itertools.chain", "ipaddress.ip_network",
    "ipaddress.ip_address", "str.maketrans", "dict.fromkeys", "bytes.fromhex", "builtins.str.maketrans",
    "builtins.dict.fromkeys", "builtins.bytes.fromhex", "struct.calcsize", "zoneinfo.ZoneInfo", "json.loads",
})  # fmt: skip
_METHODS = frozenset({
    "split", "rsplit", "splitlines", "strip", "lstrip", "rstrip", "join", "format", "encode", "decode", "lower",
    "upper",
    "title", "replace", "items", "keys", "values", "get", "copy", "union", "intersection", "difference", "partition",
    "rpartition", "startswith", "endswith", "count", "index", "removeprefix", "removesuffix", "zfill", "ljust", "rjust",
    "center", "translate", "total_seconds", "casefold", "capitalize", "symmetric_difference", "issubset", "issuperset",
    "joinpath", "with_suffix", "hex", "bit_length", "fromkeys", "maketrans", "fromhex", "isidentifier",
})  # fmt: skip
_UNSTEADY = frozenset({"os.environ", "sys.argv", "sys.path", "sys.stdout", "sys.stderr", "sys.stdin", "sys.modules"})


class Purity:
    """Judges expressions of one module. ``resolve`` gives the home of a dotted name, ``kept`` says whether a
    top-level name exists in the generated module, ``constructible`` whether calling a class of the
    application has no effects, ``opaque`` whether a class hides an attribute (or, asked for none, its brackets)."""

    def __init__(
        self,
        resolve: Callable[[ast.expr], Ref | None],
        kept: Callable[[str], bool],
        constructible: Callable[[Ref], bool],
        opaque: Callable[[Ref, str], bool],
    ) -> None:
        self._opaque = opaque
        self._resolve = resolve
        self._kept = kept
        self._constructible = constructible

    def pure(self, node: ast.expr | None, local: frozenset[str] = frozenset()) -> bool:
        """Whether the expression may be evaluated again elsewhere with the same result."""
        match node:
            case None | ast.Constant():
                return True
            case ast.Name(id=name):
                return (
                    name in local
                    or self._kept(name)
                    or (name == "__name__")
                    or (hasattr(builtins, name) and not self._shadowed(node))
                )
            case ast.Attribute(value=base):
                ref = self._resolve(node)
                if ref is not None and f"{ref.module}.{ref.name}" in _UNSTEADY:
                    return False
                owner = self._resolve(base) if isinstance(base, ast.Name | ast.Attribute) else None
                if owner is not None and owner.name and self._opaque(owner, node.attr):
                    return False
                return self.pure(base, local)
            case ast.Subscript(value=ast.Name() | ast.Attribute() as base, slice=index):
                owner = self._resolve(base)
                if owner is not None and owner.name and self._opaque(owner, ""):
                    return False
                return self.pure(base, local) and self.pure(index, local)
            case ast.Call():
                return self._call(node, local)
            case ast.Lambda():
                return True
            case (
                ast.ListComp(generators=generators)
                | ast.SetComp(generators=generators)
                | ast.GeneratorExp(generators=generators)
                | ast.DictComp(generators=generators)
            ):
                inner = local | {
                    item.id for one in generators for item in ast.walk(one.target) if isinstance(item, ast.Name)
                }
                parts = [part for one in generators for part in (one.iter, *one.ifs)]
                parts += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
                return not any(one.is_async for one in generators) and all(self.pure(part, inner) for part in parts)
            case (
                ast.Tuple()
                | ast.List()
                | ast.Set()
                | ast.Dict()
                | ast.BinOp()
                | ast.UnaryOp()
                | ast.BoolOp()
                | ast.Compare()
                | ast.IfExp()
                | ast.Subscript()
                | ast.Slice()
                | ast.Starred()
                | ast.JoinedStr()
                | ast.FormattedValue()
            ):
                return all(
                    self.pure(child, local) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)
                )
        return False

    def _shadowed(self, node: ast.Name) -> bool:
        ref = self._resolve(node)
        return ref is not None and ref.module != "builtins"

    def _call(self, node: ast.Call, local: frozenset[str]) -> bool:
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if not all(self.pure(argument, local) for argument in arguments):
            return False
        ref = self._resolve(node.func)
        if ref is not None and ref.name:
            if ref.module == "builtins" and "." not in ref.name:
                return ref.name in _BUILTIN_CALLS
            if f"{ref.module}.{ref.name}" in _CALLS:
                return self.pure(node.func, local)
            if self._constructible(ref):
                return self.pure(node.func, local)
        if isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS:
            owner = self._resolve(node.func.value)
            inner = node.func.value
            plain = isinstance(
                inner, ast.Constant | ast.Name | ast.Call | ast.Attribute | ast.BinOp | ast.JoinedStr | ast.Dict
            )
            is_module = owner is not None and not owner.name
            return plain and not is_module and self.pure(inner, local)
        return False


def is_standard(module: str) -> bool:
    """Whether a module belongs to Python's own library: cheap to import, and everywhere."""
    return module.partition(".")[0] in sys.stdlib_module_names
