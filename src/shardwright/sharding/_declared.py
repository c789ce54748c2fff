"""What a manifest declares of single functions and variables, held against the code."""

from __future__ import annotations

import ast
from collections.abc import Callable

from msgspec.structs import replace

from shardwright.errors import PlanError
from shardwright.model.manifest import Component
from shardwright.model.shard import EntryKind, EntryPoint
from shardwright.sharding._program import Program
from shardwright.sharding._source import nearest
from shardwright.sharding._symbols import Ref

_MAKERS = frozenset({"contextvars.ContextVar", "_contextvars.ContextVar"})


def declare(component: Component, entries: tuple[EntryPoint, ...]) -> tuple[EntryPoint, ...]:
    """The entry points, as ``idempotent`` and ``ahead`` of the manifest say. Raises PlanError for names that are none."""
    idempotent = _named(component, "idempotent", component.idempotent, entries, lambda entry: not entry.is_generator)
    ahead = _named(component, "ahead", component.ahead, entries, lambda entry: entry.is_generator)
    if not (idempotent or ahead):
        return entries
    return tuple(
        replace(entry, idempotent=entry.method_id in idempotent, ahead=entry.method_id in ahead) for entry in entries
    )


def _named(
    component: Component,
    key: str,
    names: tuple[str, ...],
    entries: tuple[EntryPoint, ...],
    fits: Callable[[EntryPoint], bool],
) -> frozenset[int]:
    known = {
        f"{entry.module}:{entry.qualname}": entry
        for entry in entries
        if entry.kind in (EntryKind.FUNCTION, EntryKind.METHOD) and fits(entry)
    }
    for name in names:
        if name not in known:
            near = nearest(name, tuple(known))
            kind = "generator" if key == "ahead" else "function"
            raise PlanError(
                f"component {component.name!r}: {key} names {name!r}, which is no {kind} that others may call",
                code="SW204",
                remedy=f"did you mean {near!r}?" if near else f"name a {kind} of the component as module:function",
            )
    return frozenset(known[name].method_id for name in names)


def check_variables(program: Program) -> None:
    """Raises PlanError for a context variable that is none, or that a component owns."""
    for name in program.manifest.context_variables:
        module, _, attribute = name.partition(":")
        program.module_named(module, "app.context_variables")
        owner = program.owners.get(module)
        if owner is not None:
            raise PlanError(
                f"app.context_variables: {name} belongs to component {owner!r}: others have no variable of their own to set",
                code="SW204",
                remedy="keep it in a module that no component owns, and import it from there",
            )
        program.require(module, attribute, "app.context_variables")
        binding = program.resolver.binding(Ref(module, attribute))
        made = binding.value if binding is not None else None
        if isinstance(made, ast.Call):
            ref = program.resolver.expression(module, made.func)
            if ref is not None and f"{ref.module}.{ref.name}" in _MAKERS:
                continue
        raise PlanError(
            f"app.context_variables: {name} is no context variable",
            code="SW204",
            remedy=f"write {attribute} = ContextVar(...) at the top of {module}",
        )
