"""Facts about functions: signature, whether they are async, generators or context managers."""

from __future__ import annotations

import ast

from msgspec import Struct

from shardwright.sharding._symbols import Bind, Ref, Resolver

ANYTHING = "(*args, **kwargs)"

# decorators that leave the way of calling as it is
_PRESERVING = frozenset({
    "functools.lru_cache", "functools.cache", "functools.singledispatch", "typing.final", "typing.no_type_check",
    "builtins.property", "functools.cached_property", "typing.override", "typing.overload",
    "typing_extensions.override", "typing_extensions.deprecated",
    "warnings.deprecated", "abc.abstractmethod", "builtins.staticmethod", "builtins.classmethod", "atexit.register",
    "contextlib.contextmanager", "contextlib.asynccontextmanager", "functools.wraps",
})  # fmt: skip
_CONTEXT_MANAGERS = frozenset({"contextlib.contextmanager", "contextlib.asynccontextmanager"})
# calls that make a function out of a function
_WRAPPERS = frozenset({
    "functools.partial", "functools.lru_cache", "functools.cache", "functools.wraps", "functools.update_wrapper",
    "functools.singledispatch", "contextlib.contextmanager", "contextlib.asynccontextmanager",
})  # fmt: skip
_LONG_DEFAULT = 200


class Parameter(Struct, frozen=True):
    """``position`` counts from 0 with ``self``; -1 for keyword-only. ``default`` is a literal's repr, else empty.

    ``annotation`` is its source text.
    """

    name: str
    position: int
    default: str
    annotation: str = ""


class FunctionFacts(Struct, frozen=True):
    name: str
    line: int
    signature: str
    parameters: tuple[Parameter, ...]
    is_async: bool = False
    is_generator: bool = False
    is_context_manager: bool = False
    doc: str | None = None
    returns: ast.expr | None = None

    def parameter(self, name: str) -> Parameter | None:
        return next((parameter for parameter in self.parameters if parameter.name == name), None)


def literal(node: ast.expr | None) -> str:
    """The source of a short literal expression; empty for everything else."""
    if node is None:
        return ""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ""
    text = ast.unparse(node)
    return text if len(text) <= _LONG_DEFAULT else ""


def annotation(argument: ast.arg) -> str:
    """The source text of an argument's annotation, also of one in quotes; empty when there is none."""
    node = argument.annotation
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return "" if node is None else ast.unparse(node)


def parameters_of(arguments: ast.arguments) -> tuple[Parameter, ...]:
    """The named parameters in order."""
    plain = [*arguments.posonlyargs, *arguments.args]
    padding: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    defaults = padding + list(arguments.defaults)
    found = [
        Parameter(arg.arg, place, literal(default), annotation(arg))
        for place, (arg, default) in enumerate(zip(plain, defaults, strict=True))
    ]
    found += [
        Parameter(arg.arg, -1, literal(default), annotation(arg))
        for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return tuple(found)


def signature_of(arguments: ast.arguments) -> str:
    """``(a, b=1, *, c)`` without annotations; defaults that are no short literals become ``...``."""

    def shown(arg: ast.arg, default: ast.expr | None) -> str:
        return arg.arg if default is None else f"{arg.arg}={literal(default) or '...'}"

    plain = [*arguments.posonlyargs, *arguments.args]
    padding: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    defaults = padding + list(arguments.defaults)
    parts = []
    for place, (arg, default) in enumerate(zip(plain, defaults, strict=True), 1):
        parts.append(shown(arg, default))
        if place == len(arguments.posonlyargs):
            parts.append("/")
    if arguments.vararg is not None:
        parts.append(f"*{arguments.vararg.arg}")
    elif arguments.kwonlyargs:
        parts.append("*")
    parts += [shown(arg, default) for arg, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg is not None:
        parts.append(f"**{arguments.kwarg.arg}")
    return f"({', '.join(parts)})"


def yields(node: ast.AST) -> bool:
    """Whether a function's own body yields."""
    todo: list[ast.AST] = list(getattr(node, "body", []))
    while todo:
        item = todo.pop()
        if isinstance(item, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            todo.extend(ast.iter_child_nodes(item))
    return False


def describe(resolver: Resolver, module: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> FunctionFacts:
    """The facts of a ``def``, as callers of the outermost callable see them."""
    signature = signature_of(node.args)
    generator, is_async, managed = yields(node), isinstance(node, ast.AsyncFunctionDef), False
    for decorator in reversed(node.decorator_list):
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        ref = resolver.expression(module, called)
        if ref is None:
            continue
        known = f"{ref.module}.{ref.name}"
        if known in _CONTEXT_MANAGERS or ref.name in ("contextmanager", "asynccontextmanager"):
            generator, is_async, managed = False, False, True
        elif known not in _PRESERVING:
            inner = returned_function(resolver, ref, depth=2 if isinstance(decorator, ast.Call) else 1)
            if inner is None:
                if resolver.tree.locate(ref.module) is None or resolver.binding(ref) is not None:
                    signature = ANYTHING
            elif inner is not node:
                variadic = inner.args.vararg is not None and inner.args.kwarg is not None
                if not (variadic and not inner.args.args and not inner.args.posonlyargs):
                    signature = signature_of(inner.args)
                if isinstance(inner, ast.FunctionDef):
                    is_async = is_async and not yields(inner) and _returns_call(inner)
                    generator = yields(inner) or (generator and _returns_call(inner))
                else:
                    is_async, generator = True, yields(inner)
    return FunctionFacts(
        node.name, node.lineno, signature, parameters_of(node.args), is_async, generator, managed,
        ast.get_docstring(node), node.returns,
    )  # fmt: skip


def _returns_call(node: ast.FunctionDef) -> bool:
    return any(isinstance(item, ast.Return) and isinstance(item.value, ast.Call) for item in ast.walk(node))


def returned_function(resolver: Resolver, ref: Ref, depth: int) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """The nested function that a decorator of the application returns; ``depth`` 2 for a decorator factory."""
    binding = resolver.binding(ref)
    if binding is None or "." in ref.name or not isinstance(binding.node, ast.FunctionDef):
        return None
    node: ast.FunctionDef | ast.AsyncFunctionDef = binding.node
    for _ in range(depth):
        nested = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
        returned = [item.value for item in ast.walk(node) if isinstance(item, ast.Return)]
        names = [value.id for value in returned if isinstance(value, ast.Name) and value.id in nested]
        if not names:
            return None
        node = nested[names[-1]]
    return node


def made_by_call(resolver: Resolver, module: str, name: str, value: ast.expr) -> FunctionFacts | None:
    """The facts of ``name = lambda ...``, ``name = partial(g, 1)``, ``name = decorator(g)``, else ``None``."""
    if isinstance(value, ast.Lambda):
        return FunctionFacts(name, value.lineno, signature_of(value.args), parameters_of(value.args))
    if not isinstance(value, ast.Call):
        return None
    factory, called = isinstance(value.func, ast.Call), value.func
    if isinstance(called, ast.Call):
        called = called.func
    ref = resolver.expression(module, called)
    if ref is None:
        return None
    wrapped = next((facts for arg in value.args if (facts := _function(resolver, module, arg)) is not None), None)
    if wrapped is None:
        return None
    known = f"{ref.module}.{ref.name}"
    last = ref.name.rpartition(".")[2]
    inner = returned_function(resolver, ref, 2 if factory else 1)
    foreign = resolver.tree.locate(ref.module) is None and ref.module != "builtins" and last == last.lower()
    if known not in _WRAPPERS and inner is None and not foreign:
        return None
    managed = known in _CONTEXT_MANAGERS
    is_async, generator = wrapped.is_async and not managed, wrapped.is_generator and not managed
    if inner is not None:
        is_async = isinstance(inner, ast.AsyncFunctionDef) or (is_async and _returns_call(inner))
        generator = yields(inner) or generator
    return FunctionFacts(name, value.lineno, ANYTHING, (), is_async, generator, managed or wrapped.is_context_manager)


def _function(resolver: Resolver, module: str, node: ast.expr) -> FunctionFacts | None:
    if isinstance(node, ast.Lambda):
        return FunctionFacts("<lambda>", node.lineno, signature_of(node.args), parameters_of(node.args))
    ref = resolver.expression(module, node) if isinstance(node, ast.Name | ast.Attribute) else None
    binding = resolver.binding(ref) if ref is not None else None
    if ref is not None and binding is not None and binding.kind is Bind.FUNCTION and "." not in ref.name:
        assert isinstance(binding.node, ast.FunctionDef | ast.AsyncFunctionDef)
        return describe(resolver, ref.module, binding.node)
    return None
