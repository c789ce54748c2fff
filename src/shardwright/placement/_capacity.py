"""The ledger of what a node has promised: guarantees never sum to more than it has."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from shardwright.errors import InternalError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.units import format_bytes

_NAMES = Resources.__struct_fields__
# Shares are kept as whole millionths: thousands of reservations and releases must not drift as sums of floats do.
_MILLIONTHS = frozenset({"cpu", "gpu"})
_BYTES = frozenset({"memory_bytes", "gpu_memory_bytes"})
_NOTHING = Resources()
_PHRASES = {
    "cpu": "cpu (cores)",
    "memory_bytes": "memory",
    "io_bytes_s": "io (bytes/s)",
    "network_bits_s": "network (bits/s)",
    "gpu": "gpu (share)",
    "gpu_memory_bytes": "gpu memory",
}


def _units(amount: Resources) -> dict[str, int]:
    return {
        name: round(value * 1_000_000) if name in _MILLIONTHS else int(value)
        for name in _NAMES
        if (value := getattr(amount, name)) is not None
    }


def _text(name: str, units: int) -> str:
    if name in _MILLIONTHS:
        return f"{units / 1_000_000:.4g}"
    return format_bytes(units) if name in _BYTES else str(units)


class Capacity:
    """What may be guaranteed to shards: ``total`` less ``reserve``, CPU times ``overcommit_cpu``.

    Only guarantees are counted; a guarantee that is not stated counts as nothing. A resource of which ``total`` states
    nothing is not limited: who knows that there is none of it (a machine without a GPU) states 0. Raises ValueError
    when a shard is reserved twice, or does not fit.
    """

    __slots__ = ("_reserved", "_shards", "_usable")

    def __init__(self, total: Resources, reserve: Resources = _NOTHING, overcommit_cpu: float = 1.0) -> None:
        if not overcommit_cpu > 0:
            raise ValueError(f"overcommit_cpu must be more than 0, got {overcommit_cpu}")
        kept = _units(reserve)
        self._usable = {name: max(0, amount - kept.get(name, 0)) for name, amount in _units(total).items()}
        if "cpu" in self._usable:
            self._usable["cpu"] = round(self._usable["cpu"] * overcommit_cpu)
        self._reserved = dict.fromkeys(_NAMES, 0)
        self._shards: dict[ShardId, dict[str, int]] = {}

    def __repr__(self) -> str:
        spent = ", ".join(
            f"{_PHRASES[name]} {_text(name, self._reserved[name])}/{_text(name, most)}"
            for name, most in self._usable.items()
        )
        return f"<Capacity {spent}; {len(self._shards)} shards>"

    def emptied(self) -> Capacity:
        """A ledger of the same size in which nothing is reserved: for asking "could this ever fit?"."""
        other = Capacity(Resources())
        other._usable = dict(self._usable)
        return other

    def fits(self, *limits: Limits, without: Collection[ShardId] = ()) -> bool:
        """Whether all these guarantees together could be reserved now, or once those of ``without`` are released."""
        return not self._lacking(limits, without)

    def explain(self, *limits: Limits, without: Collection[ShardId] = ()) -> str:
        """Which resources lack for all these guarantees together, and by how much; empty when they fit."""
        return "; ".join(
            f"{_PHRASES[name]}: {_text(name, asked)} asked, {_text(name, max(0, left))} of "
            f"{_text(name, self._usable[name])} left, {_text(name, asked - left)} too little"
            for name, (asked, left) in self._lacking(limits, without).items()
        )

    def reserve(self, shard: ShardId, limits: Limits) -> None:
        """Promise the guarantee to that shard. Raises ValueError; then nothing has changed."""
        if shard in self._shards:
            raise ValueError(f"{shard} already has a reservation")
        if lack := self.explain(limits):
            raise ValueError(f"{shard} does not fit: {lack}")
        amount = _units(limits.guarantee)
        self._shards[shard] = amount
        for name, units in amount.items():
            self._reserved[name] += units

    def change(self, limits: Mapping[ShardId, Limits]) -> None:
        """Promise other guarantees to shards that have one, all of them or none.

        Raises ValueError when a shard has no reservation, or they do not fit together; then nothing has changed.
        """
        for shard in limits:
            if shard not in self._shards:
                raise ValueError(f"{shard} has no reservation")
        if lack := self.explain(*limits.values(), without=tuple(limits)):
            raise ValueError(lack)
        for shard in limits:
            self.release(shard)
        for shard, amount in limits.items():
            self.reserve(shard, amount)

    def release(self, shard: ShardId) -> None:
        """Take the promise back. A shard without a reservation is an error: something was released twice."""
        try:
            amount = self._shards.pop(shard)
        except KeyError:
            raise ValueError(f"{shard} has no reservation") from None
        for name, units in amount.items():
            self._reserved[name] -= units

    def holds(self, shard: ShardId) -> bool:
        return shard in self._shards

    def reserved(self) -> Resources:
        """The sum of all guarantees; resources that nobody reserved are 0."""
        return _resources(self._reserved)

    def left(self) -> Resources:
        """What may still be reserved; resources that are not limited are None."""
        return _resources({name: max(0, most - self._reserved[name]) for name, most in self._usable.items()})

    def usable(self) -> Resources:
        """What may be reserved in all; resources that are not limited are None."""
        return _resources(self._usable)

    def check(self) -> None:
        """Raises InternalError unless the sums are those of the shards, and within what is usable."""
        for name in _NAMES:
            summed = sum(amount.get(name, 0) for amount in self._shards.values())
            if summed != self._reserved[name]:
                raise InternalError(f"{_PHRASES[name]}: {self._reserved[name]} reserved, the shards sum to {summed}")
            if name in self._usable and summed > self._usable[name]:
                raise InternalError(f"{_PHRASES[name]}: {summed} reserved of {self._usable[name]}")

    def _lacking(self, limits: Sequence[Limits], without: Collection[ShardId]) -> dict[str, tuple[int, int]]:
        """Resource -> (asked, left) for those of which more is asked than is left."""
        lacking = {}
        amounts = [_units(each.guarantee) for each in limits]
        for name in self._usable:
            asked = sum(amount.get(name, 0) for amount in amounts)
            if not asked:
                continue
            back = sum(self._shards[shard].get(name, 0) for shard in without if shard in self._shards)
            left = self._usable[name] - self._reserved[name] + back
            if asked > left:
                lacking[name] = (asked, left)
        return lacking


def _resources(units: Mapping[str, int]) -> Resources:
    return Resources(**{n: u / 1_000_000 if n in _MILLIONTHS else u for n, u in units.items()})  # type: ignore[arg-type]
