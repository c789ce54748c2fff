"""Changing the limits of shards while they run."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from shardwright.composition import ShardRecord
from shardwright.errors import NodeError, ShardwrightError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.units import format_bytes, parse_bit_rate, parse_byte_rate, parse_bytes
from shardwright.node._api_messages import Unusable
from shardwright.node._core import Core

Parse = Callable[[str], float]


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None


# The manifest's names -> the field, and how text is read; numbers are in the field's own unit.
_RESOURCES: dict[str, tuple[str, Parse]] = {
    "cpu": ("cpu", _share),
    "memory": ("memory_bytes", parse_bytes),
    "io": ("io_bytes_s", parse_byte_rate),
    "network": ("network_bits_s", parse_bit_rate),
    "gpu": ("gpu", _share),
    "gpu_memory": ("gpu_memory_bytes", parse_bytes),
}
_SHARES = frozenset({"cpu", "gpu"})
_FIXED = frozenset({"gpu", "gpu_memory"})  # devices are chosen, and CUDA reads its environment, when a shard starts


async def resize(
    core: Core, target: str, guarantee: Mapping[str, Any], ceiling: Mapping[str, Any]
) -> dict[ShardId, Limits]:
    """Change limits of one running shard, or of all running shards of a component; what is not named stays.

    Amounts are numbers (cores, bytes, bytes or bits per second) or text with units, as in the manifest. Guarantees that
    grow are promised before they are applied, and those that shrink are given back after: at no instant is more
    promised than the node has. Returns what reads back.

    Raises NodeError: an unknown target or resource, amounts that are none, a guarantee above its ceiling, or one that
    does not fit (nothing was changed then); or limits that the machine refused (those of the other shards are changed).
    """
    least, most = _amounts(guarantee, "guarantee"), _amounts(ceiling, "ceiling")
    if fixed := next((name for name in (*guarantee, *ceiling) if name in _FIXED), None):
        raise Unusable(
            f"{fixed} of a shard cannot be changed while it runs",
            remedy="change the manifest: new shards start with it",
        )
    if not least and not most:
        raise Unusable("nothing to change", remedy='name an amount, such as guarantee={"cpu": 0.5}')
    async with core.resizing:
        records = targets(core, target)
        base = core.control.limiting.base
        wanted = {record.id: _changed(record.id, base(record), least, most) for record in records}
        before = {record.id: record.limits for record in records}
        promised = {
            shard: Limits(_greater(before[shard].guarantee, limits.guarantee), limits.ceiling)
            for shard, limits in wanted.items()
        }
        composer = core.shards.composer
        try:
            composer.resize(promised)
        except ValueError as lack:
            first_of = records[0].id
            core.record(
                "refuse", f"resize of {target}: {lack}", shard=first_of, component=records[0].component,
                inputs=_inputs(before[first_of], wanted[first_of]),
            )  # fmt: skip
            raise NodeError(
                f"the guarantee of {target} does not fit: {lack}",
                remedy="lower another guarantee first, or close sessions",
            ) from None
        applied: dict[ShardId, Limits] = {}
        refused: dict[ShardId, ShardwrightError] = {}
        for record in records:
            shard, limits = record.id, wanted[record.id]
            try:
                assert core.shards.launcher is not None
                applied[shard] = await core.shards.launcher.resize(shard, limits)
            except ShardwrightError as error:
                refused[shard] = error
                composer.resize({shard: before[shard]})
                core.record("failure", f"resize: {error}", shard=shard, component=record.component)
            else:  # (when cancelled, nobody knows what it came to: then the greater promise stays)
                core.control.limiting.bounds[shard] = limits  # by which the controller goes from now on
                composer.resize({shard: limits})
                core.record(
                    "resize", "its limits were changed on request", shard=shard, component=record.component,
                    inputs=_inputs(before[shard], limits),
                )  # fmt: skip
        core.shards.freed()
    if refused:
        shard, first = next(iter(refused.items()))
        raise NodeError(
            f"the limits of {len(refused)} of {len(records)} shards could not be changed: {shard}: {first}"
        ) from first
    return applied


def _amounts(given: Mapping[str, Any], what: str) -> dict[str, float]:
    """Field of Resources -> amount. Raises NodeError."""
    found: dict[str, float] = {}
    for name, value in given.items():
        if name not in _RESOURCES:
            raise Unusable(f"{what}: there is no resource {name!r}", remedy=nearest(str(name), _RESOURCES))
        field, parse = _RESOURCES[name]
        try:
            if isinstance(value, bool) or not isinstance(value, (int, float, str)):
                raise ValueError(f"expected a number, or text with a unit, got {value!r}")
            amount = parse(value) if isinstance(value, str) else value
            if not math.isfinite(amount) or amount < 0 or (amount == 0 and what == "ceiling"):
                raise ValueError(f"expected {'more than 0' if what == 'ceiling' else '0 or more'}, got {value!r}")
        except ValueError as error:
            raise Unusable(f"{what} of {name}: {error}") from None
        found[field] = float(amount) if name in _SHARES else int(amount)
    return found


def targets(core: Core, target: str) -> list[ShardRecord]:
    """The running shards meant. Raises NodeError with the nearest name."""
    running = [record for record in core.records() if record.id in core.ports()]
    found = [record for record in running if target in (record.id, record.component)]
    if found:
        return found
    components = [str(definition.component) for definition in core.plan.definitions]
    if target in components:
        raise Unusable(f"no shard of {target} is running now", remedy="change its section of the manifest instead")
    raise Unusable(
        f"there is no shard or component {target!r}", remedy=nearest(target, [*components, *(r.id for r in running)])
    )


def _changed(shard: ShardId, base: Limits, least: Mapping[str, float], most: Mapping[str, float]) -> Limits:
    limits = Limits(_with(base.guarantee, least), _with(base.ceiling, most))
    for field in limits.guarantee.exceeds(limits.ceiling):
        name = next(name for name, (known, _) in _RESOURCES.items() if known == field)
        raise Unusable(
            f"{shard}: the guarantee of {name} ({_shown(field, getattr(limits.guarantee, field))}) "
            f"would be above its ceiling ({_shown(field, getattr(limits.ceiling, field))})",
            remedy=_remedy(name, field in least, field in most),
        )
    return limits


def _remedy(name: str, guarantee: bool, ceiling: bool) -> str:
    if guarantee and ceiling:
        return f"ask for less guaranteed {name}, or for a higher ceiling"
    if ceiling:
        return f"ask for a higher ceiling, or lower the guarantee of {name} in the same step"
    return f"ask for less, or raise the ceiling of {name} in the same step"


def _with(resources: Resources, amounts: Mapping[str, float]) -> Resources:
    kept = {name: getattr(resources, name) for name in Resources.__struct_fields__}
    return Resources(**(kept | dict(amounts)))


def _greater(one: Resources, other: Resources) -> Resources:
    """Of each resource the greater amount."""
    both = {name: (getattr(one, name), getattr(other, name)) for name in Resources.__struct_fields__}
    return Resources(**{name: max((a for a in pair if a is not None), default=None) for name, pair in both.items()})


def _inputs(before: Limits, after: Limits) -> tuple[tuple[str, object], ...]:
    """What changed, for the journal."""
    changes: list[tuple[str, object]] = []
    for kind in ("guarantee", "ceiling"):
        old, new = getattr(before, kind), getattr(after, kind)
        for name in Resources.__struct_fields__:
            was, now = getattr(old, name), getattr(new, name)
            if was != now:
                changes.append((f"{kind}_{name}", f"{_shown(name, was)} -> {_shown(name, now)}"))
    return tuple(changes)


def _shown(field: str, amount: float | None) -> str:
    """An amount with its unit."""
    if amount is None:
        return "none"
    if field.endswith("_bytes"):
        return format_bytes(amount)
    if field == "io_bytes_s":
        return f"{format_bytes(amount)}/s"
    return f"{amount:g} bit/s" if field == "network_bits_s" else f"{amount:g}"


def nearest(name: str, names: Iterable[str]) -> str:
    """A remedy: the name that was probably meant, else all there are."""
    known = sorted(names)
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
