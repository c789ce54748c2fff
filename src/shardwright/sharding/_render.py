"""A plan as JSON and as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

from msgspec import Struct

from shardwright.model.cut import Cut
from shardwright.model.limits import Limits
from shardwright.model.scope import Scope
from shardwright.model.shard import Diagnostic, EntryKind, PlanEdge, Severity, ShardDefinition, ShardPlan
from shardwright.model.units import format_bytes
from shardwright.sharding._found import Explanation

_MOST_SITES = 3
_MOST_NAMES = 8


def plan_json(plan: ShardPlan) -> dict[str, Any]:
    """The plan as JSON types. Generated modules are named, with their digest, but not printed."""
    found = _jsonable(plan)
    assert isinstance(found, dict)
    for module in found["modules"]:
        del module["stub_source"]
    found["refusals"] = [_jsonable(item) for item in plan.refusals]
    return found


def explanation_json(found: Explanation) -> dict[str, Any]:
    """An explanation as JSON types."""
    made = _jsonable(found)
    assert isinstance(made, dict)
    return made


def _jsonable(value: object) -> Any:
    if isinstance(value, Scope):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Struct):
        return {name: _jsonable(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_jsonable(item) for item in value]
    return value


def plan_text(plan: ShardPlan) -> str:
    """The plan for a reader at a terminal: definitions, edges with reasons and places, then findings, worst first."""
    parts = [
        f"Plan of {plan.app}: {_count(len(plan.definitions), 'shard definition')}, {_count(len(plan.edges), 'edge')}"
    ]
    parts.append(_table(
        ("component", "code", "scope", "state", "entry points", "guarantee", "depends on"),
        [_definition_row(definition) for definition in plan.definitions],
    ))  # fmt: skip
    parts.append("Entry points\n" + "\n".join(_entries(definition) for definition in plan.definitions))
    auto = [text for definition in plan.definitions if (text := _auto(definition))]
    if auto:
        parts.append("Isolation, where it is auto\n" + "\n".join(auto))
    if plan.edges:
        parts.append("Edges\n" + "\n".join(_edge(edge) for edge in plan.edges))
    if plan.cuts:
        parts.append("Cuts inside components\n" + "\n".join(_cut(cut) for cut in plan.cuts))
    data = [text for definition in plan.definitions if (text := _data(definition))]
    if data:
        parts.append("Data dependencies\n" + "\n".join(data))
    for severity, title in ((Severity.REFUSAL, "Refusals"), (Severity.WARNING, "Warnings"), (Severity.NOTE, "Notes")):
        found = [item for item in plan.diagnostics if item.severity is severity]
        if found:
            parts.append(f"{title} ({len(found)})\n" + "\n".join(_finding(item) for item in found))
    return "\n\n".join(parts) + "\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([texts[0], "  ".join("-" * width for width in widths), *texts[1:]])


def _definition_row(definition: ShardDefinition) -> tuple[str, ...]:
    code = definition.code.primary + (f":{definition.code.attribute}" if definition.code.attribute else "")
    return (
        definition.component,
        code,
        str(definition.scope),
        definition.state.value,
        str(len(definition.entry_points)),
        _limits(definition.limits),
        ", ".join(definition.depends_on) or "-",
    )


def _limits(limits: Limits) -> str:
    parts = []
    if limits.guarantee.cpu is not None:
        parts.append(f"{limits.guarantee.cpu:g} cpu")
    if limits.guarantee.memory_bytes is not None:
        parts.append(format_bytes(limits.guarantee.memory_bytes))
    return ", ".join(parts) or "-"


def _entries(definition: ShardDefinition) -> str:
    marks = {EntryKind.CLASS: " (class)", EntryKind.APPLICATION: " (application)"}
    names = []
    for entry in definition.entry_points:
        way = " (generator)" if entry.is_generator else " (async)" if entry.is_async else ""
        names.append(f"{entry.name}{marks.get(entry.kind, '')}{way}")
    shown = ", ".join(names[:_MOST_NAMES])
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"  {definition.component}: {shown or 'none'}{more}"


def _auto(definition: ShardDefinition) -> str:
    if definition.auto is None:
        return ""
    text = f"  {definition.component}: {definition.auto.isolation}, for {definition.auto.reason}"
    return f"{text}; remedy: {definition.auto.remedy}" if definition.auto.remedy else text


def _edge(edge: PlanEdge) -> str:
    origin = {(True, True): "declared", (True, False): "declared, not found", (False, True): "found, added"}
    text = f"  {edge.caller} -> {edge.callee}  [{origin.get((edge.declared, edge.found), 'added')}]  {edge.reason}"
    if edge.pickle:
        text += "  (pickle)"
    if edge.sites:
        shown = ", ".join(str(site) for site in edge.sites[:_MOST_SITES])
        more = f", and {len(edge.sites) - _MOST_SITES} more" if len(edge.sites) > _MOST_SITES else ""
        text += f"\n      at {shown}{more}"
    return text


def _cut(cut: Cut) -> str:
    lines = [
        f"  {cut.priority}. {cut.component} -> {cut.part} ({_count(cut.shards, 'shard')}): {cut.calls} calls, "
        f"{cut.size_bytes:,} bytes, {cut.moved_s:.3f} s moved, crossing costs {cut.cost_s:.4f} s, "
        f"predicted gain {cut.gain_s:.3f} s"
    ]
    lines += [f"      {function.id}  line {function.line}" for function in cut.functions]
    lines += [f"      runs ahead: the loop at {loop.module}:{loop.line}, {cut.window} rounds" for loop in cut.loops]
    return "\n".join(lines)


def _data(definition: ShardDefinition) -> str:
    parts = []
    for kind, title in (("global", "globals written"), ("environment", "environment"), ("file", "files")):
        names = [
            f"{item.name}{' (written)' if item.writes and kind != 'global' else ''}"
            for item in definition.data_dependencies
            if item.kind == kind
        ]
        if names:
            parts.append(f"{title} {', '.join(names)}")
    return f"  {definition.component}: {'; '.join(parts)}" if parts else ""


def _finding(item: Diagnostic) -> str:
    place = f"{item.site}: " if item.site is not None else ""
    text = f"  {item.code}  {place}{item.message}"
    return f"{text}\n         remedy: {item.remedy}" if item.remedy else text
