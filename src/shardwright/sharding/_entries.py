"""The entry points of a component: what other shards may call, by which name and number."""

from __future__ import annotations

import ast
import difflib

from msgspec import Struct

from shardwright.errors import PlanError
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.manifest import Component
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import Diagnostic, EntryKind, EntryPoint, KeyArgument, Severity, Site
from shardwright.sharding._classes import classes_in
from shardwright.sharding._functions import ANYTHING, FunctionFacts, describe, made_by_call
from shardwright.sharding._program import Program
from shardwright.sharding._symbols import Bind, Ref, Symbols

# functions of a module that Python itself calls
_MODULE_HOOKS = frozenset({"__getattr__", "__dir__"})
_APPLICATION_ARGUMENTS = (("scope", "receive", "send"), ("environ", "start_response"))


class _Found(Struct, frozen=True):
    name: str  # inside its module
    kind: EntryKind
    facts: FunctionFacts
    ref: Ref
    own_arguments: int = 0  # leading ``self`` or ``cls``
    needs_key: bool = True


def function_facts(program: Program, symbols: Symbols, name: str) -> FunctionFacts | None:
    """The facts of a top-level name that is a function in the end; ``None`` for everything else."""
    binding = symbols.last(name)
    if binding is None or name in _MODULE_HOOKS:
        return None
    if isinstance(binding.node, ast.FunctionDef | ast.AsyncFunctionDef):
        return describe(program.resolver, symbols.module.name, binding.node)
    if binding.kind is not Bind.ASSIGN or binding.value is None:
        return None
    if isinstance(binding.value, ast.Name) and binding.value.id != name:
        return function_facts(program, symbols, binding.value.id) if binding.value.id in symbols.bindings else None
    return made_by_call(program.resolver, symbols.module.name, name, binding.value)


def entries_of(program: Program, component: Component) -> tuple[tuple[EntryPoint, ...], list[Diagnostic]]:
    """All entry points, sorted by name and numbered in that order, and refusals of those that cannot be routed."""
    chosen: dict[str, _Found] = {}
    later: list[tuple[str, str, _Found]] = []
    prefix = component.module + "."
    for module in program.owned_by(component.name):
        symbols = program.resolver.symbols(module)
        assert symbols is not None
        for found in _of_module(program, component, symbols):
            if module == component.module:
                chosen[found.name] = found
            else:
                later.append((f"{module[len(prefix) :]}.{found.name}", f"{module}.{found.name}", found))
    for name, found in _reexports(program, component):
        chosen.setdefault(name, found)
    for short, full, found in later:
        chosen[short if short not in chosen else full] = found
    entries, diagnostics = [], []
    for number, name in enumerate(sorted(chosen)):
        found = chosen[name]
        key, refusal = _key(program, component, name, found)
        if refusal is not None:
            diagnostics.append(refusal)
        entries.append(
            EntryPoint(
                MethodId(number),
                name,
                found.ref.module,
                found.ref.name,
                found.kind,
                found.facts.is_async,
                found.facts.is_generator,
                key,
                found.facts.line,
            )
        )
    if component.scope.kind is ScopeKind.KEY and entries and not any(entry.key is not None for entry in entries):
        _refuse_key(component, chosen)
    return tuple(entries), diagnostics


def main_entries(program: Program) -> tuple[EntryPoint, ...]:
    """The entry points of the implicit component: the top-level functions of the main module."""
    assert program.main_module is not None
    symbols = program.resolver.symbols(program.main_module.name)
    assert symbols is not None
    found = {name: facts for name in symbols.bindings if (facts := function_facts(program, symbols, name)) is not None}
    attribute = program.manifest.main.partition(":")[2]
    binding = symbols.last(attribute) if attribute else None
    if attribute not in found and binding is not None and "." not in attribute:  # `from app.cli import main`
        home = program.resolver.attribute(symbols.module.name, attribute)
        other = program.resolver.symbols(home.module)
        facts = function_facts(program, other, home.name) if other is not None else None
        found[attribute] = FunctionFacts(
            attribute,
            binding.line,
            ANYTHING,
            (),
            facts.is_async if facts else False,
            facts.is_generator if facts else False,
        )
    return tuple(
        EntryPoint(
            MethodId(number),
            name,
            symbols.module.name,
            name,
            EntryKind.FUNCTION,
            found[name].is_async,
            found[name].is_generator,
            None,
            found[name].line,
        )
        for number, name in enumerate(sorted(found))
    )


def _of_module(program: Program, component: Component, symbols: Symbols) -> list[_Found]:
    module = symbols.module.name
    found: list[_Found] = []
    application = component.attribute if module == component.module else ""
    # Whatever a route serves is an application, however it is written: its shard finds out how it wants to be called.
    served = any(route.app == component.name for route in program.manifest.routes)
    for name in symbols.bindings:
        facts = function_facts(program, symbols, name)
        if facts is not None:
            kind = EntryKind.FUNCTION
            if name == application and (served or _is_application(facts)):
                kind = EntryKind.APPLICATION
            found.append(_Found(name, kind, facts, Ref(module, name)))
    for name, node in classes_in(symbols.module.tree):
        ref = Ref(module, name)
        if served and name == application:  # the class itself: ``App(scope)``, or ``App(environ, start_response)``
            facts = FunctionFacts(name, node.lineno, "(*args, **kwargs)", ())
            found.append(_Found(name, EntryKind.APPLICATION, facts, ref))
            continue
        facts_of_class = program.classes.facts(ref)
        if facts_of_class is None or facts_of_class.node is not node or not facts_of_class.stateful:
            continue
        found += _of_class(program, ref, name)
    if application and application not in {item.name for item in found}:
        binding = symbols.last(application)
        if binding is None or binding.kind in (Bind.ASSIGN, Bind.OTHER, Bind.FROM):
            line = binding.line if binding is not None else 1
            facts = FunctionFacts(application, line, "(*args, **kwargs)", ())
            found.append(_Found(application, EntryKind.APPLICATION, facts, Ref(module, application)))
    return found


def _of_class(program: Program, ref: Ref, name: str) -> list[_Found]:
    facts = program.classes.facts(ref)
    assert facts is not None
    found = [_Found(name, EntryKind.CLASS, _at(program.classes.constructor(facts), facts.node.lineno), ref, 1)]
    for own, method in facts.methods.items():
        if method.kind == "property":
            continue
        found.append(
            _Found(
                f"{name}.{own}",
                EntryKind.METHOD,
                method.facts,
                Ref(ref.module, f"{ref.name}.{own}"),
                0 if method.kind == "static" else 1,
                needs_key=method.kind != "method",
            )
        )
    return found


def _at(facts: FunctionFacts, line: int) -> FunctionFacts:
    return FunctionFacts(facts.name, line, facts.signature, facts.parameters)


def _reexports(program: Program, component: Component) -> list[tuple[str, _Found]]:
    """Functions and stateful classes of submodules that the package's ``__init__`` offers under its own name."""
    symbols = program.resolver.symbols(component.module)
    if symbols is None or not symbols.module.is_package:
        return []
    found: list[tuple[str, _Found]] = []
    for name in sorted(set(symbols.bindings) | (program.resolver.exported(component.module) or set())):
        if name in symbols.bindings:
            binding = symbols.last(name)
            if binding is None or binding.kind is not Bind.FROM or binding.type_only:
                continue
        ref = program.resolver.attribute(component.module, name)
        if not ref.name or ref.module == component.module or program.owners.get(ref.module) != component.name:
            continue
        home = program.resolver.symbols(ref.module)
        facts = function_facts(program, home, ref.name) if home is not None else None
        if facts is not None:
            found.append((name, _Found(name, EntryKind.FUNCTION, facts, ref)))
        elif program.classes.is_stateful(ref):
            found += [(item.name, item) for item in _of_class(program, ref, name)]
    return found


def _is_application(facts: FunctionFacts) -> bool:
    names = tuple(parameter.name.lstrip("_") for parameter in facts.parameters)
    return names in _APPLICATION_ARGUMENTS


def _key(
    program: Program, component: Component, name: str, found: _Found
) -> tuple[KeyArgument | None, Diagnostic | None]:
    if component.scope.kind is not ScopeKind.KEY or not found.needs_key:
        return None, None
    parameter = found.facts.parameter(component.scope.argument)
    if parameter is not None:
        position = parameter.position - found.own_arguments if parameter.position >= 0 else -1
        return KeyArgument(parameter.name, position, parameter.default, parameter.annotation), None
    if found.name.rpartition(".")[2].startswith("_"):
        return None, None
    source = program.tree.loaded[found.ref.module]
    argument = component.scope.argument
    return None, Diagnostic(
        "SW240",
        Severity.REFUSAL,
        f"{component.name}.{name} cannot be routed: it has no argument {argument!r}",
        Site(source.relative, found.facts.line),
        ComponentName(component.name),
        f"add the argument {argument!r}, or move {name} to a component of another scope",
    )


def _refuse_key(component: Component, chosen: dict[str, _Found]) -> None:
    names = sorted({parameter.name for found in chosen.values() for parameter in found.facts.parameters})
    argument = component.scope.argument
    close = difflib.get_close_matches(argument, names, 1, 0.5)
    raise PlanError(
        f"component {component.name!r}: no function or constructor has the argument {argument!r} of its scope",
        code="SW208",
        remedy=f"did you mean `key:{close[0]}`?" if close else "name an argument that its functions have",
    )
