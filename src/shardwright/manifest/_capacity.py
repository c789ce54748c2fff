"""Whether a machine can hold what a manifest guarantees."""

from __future__ import annotations

from msgspec.structs import replace

from shardwright.manifest._build import RESOURCE_KEYS
from shardwright.model.limits import Resources
from shardwright.model.manifest import Component, Manifest
from shardwright.model.scope import ScopeKind
from shardwright.model.units import format_bytes


def capacity_problems(manifest: Manifest, capacity: Resources) -> tuple[str, ...]:
    """What this machine cannot hold, as ``FILE:LINE: key: what; expected ...``; empty when everything fits.

    Two questions: does one shard of each component fit beside ``policy.reserve``; and do the shards that always run
    (``scale.min`` instances of a shared component, ``warm.min`` ready shards of any) fit together beside it. Cores may
    be promised ``policy.overcommit`` times in the second. Resources that ``capacity`` does not state are not judged.
    """
    reserve = manifest.policy.reserve
    problems = [
        _render(
            manifest, f"policy.reserve.{RESOURCE_KEYS[field]}", "the reserve", reserve, Resources(), capacity, field
        )
        for field in reserve.exceeds(capacity)
    ]
    fitting = []
    for component in manifest.components:
        guarantee = component.limits.guarantee
        over = guarantee.plus(reserve).exceeds(capacity)
        over = tuple(field for field in over if getattr(guarantee, field))  # else the reserve alone is to blame
        for field in over:
            key = f"components.{component.name}.resources.{RESOURCE_KEYS[field]}"
            problems.append(_render(manifest, key, "the guarantee", guarantee, reserve, capacity, field))
        fitting.append((component, replace(guarantee, **dict.fromkeys(over))))
    problems += _together(manifest, capacity, fitting)
    return tuple(problems)


def _always_running(component: Component) -> int:
    ready = component.warm.min
    return max(ready, component.scale.min) if component.scope.kind is ScopeKind.SHARED else ready


def _together(manifest: Manifest, capacity: Resources, guarantees: list[tuple[Component, Resources]]) -> list[str]:
    problems = []
    for field in Resources.__struct_fields__:
        room = getattr(capacity, field)
        if room is None:
            continue
        promised = room * (manifest.policy.overcommit_cpu if field == "cpu" else 1)
        held = getattr(manifest.policy.reserve, field) or 0
        parts = [
            (component, _always_running(component), amount)
            for component, guarantee in guarantees
            if (amount := getattr(guarantee, field)) and _always_running(component)
        ]
        total = sum(count * amount for _, count, amount in parts)
        if not parts or total + held <= promised * (1 + 1e-9) or held > room:
            continue
        parts.sort(key=lambda part: part[1] * part[2], reverse=True)
        listed = ", ".join(f"{component.name} {count} x {_amount(field, each)}" for component, count, each in parts)
        reserved = f" beside the reserve of {_amount(field, held)}" if held else ""
        key = f"components.{parts[0][0].name}.resources.{RESOURCE_KEYS[field]}"
        problems.append(
            f"{manifest.place(key)}: {key}: the shards that always run are guaranteed {_amount(field, total)} together "
            f"({listed}){reserved}; expected at most {_amount(field, promised)} on this machine"
        )
    return problems


def _render(
    manifest: Manifest, key: str, what: str, amounts: Resources, reserve: Resources, capacity: Resources, field: str
) -> str:
    held = getattr(reserve, field)
    reserved = f" beside the reserve of {_amount(field, held)}" if held else ""
    return (
        f"{manifest.place(key)}: {key}: {what} is {_amount(field, getattr(amounts, field))}{reserved}; "
        f"expected at most {_amount(field, getattr(capacity, field))} on this machine"
    )


def _amount(field: str, amount: float) -> str:
    if field.endswith("_bytes"):
        return format_bytes(amount)
    if field == "io_bytes_s":
        return f"{format_bytes(amount)}/s"
    if field == "network_bits_s":
        return f"{amount / 1e6:.15g}Mbit/s"
    unit = "core" if field == "cpu" else "GPU"
    return f"{amount:.6g} {unit}" if amount == 1 else f"{amount:.6g} {unit}s"
