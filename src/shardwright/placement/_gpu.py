"""Which GPU, or which part of one, a shard gets; and the ledger of those given. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from msgspec import Struct, field

from shardwright.errors import InternalError
from shardwright.model.gpu import GpuDevice, GpuGrant, MigInstance
from shardwright.model.limits import Resources
from shardwright.model.units import format_bytes

_WHOLE = 1_000_000  # shares are booked in millionths, whose sums do not drift


class _Booked(Struct):
    share: int = 0
    memory_bytes: int = 0
    whole: bool = False
    instances: set[str] = field(default_factory=set)


class GpuLedger:
    """The GPUs of a node. ``mps``: shares of undivided devices can be had.

    Amounts below 1 are served by the smallest MIG instance that has as much and is free, else through MPS on the device that
    is used most and still has room, so that whole devices stay free; 1 and more by whole devices, of one bank if possible.
    """

    def __init__(self, devices: Sequence[GpuDevice], *, mps: bool = False) -> None:
        self.devices = tuple(devices)
        self.mps = mps
        self._booked = {device.uuid: _Booked() for device in self.devices}
        self._grants: dict[str, GpuGrant] = {}

    def capacity(self) -> Resources:
        """All of it; of a divided device what its instances have."""
        share, memory = 0.0, 0
        for device in self.devices:
            share += sum(each.share for each in device.instances) if device.divided else 1.0
            memory += sum(each.memory_bytes for each in device.instances) if device.divided else device.memory_bytes
        return Resources(gpu=round(share, 6), gpu_memory_bytes=memory)

    def take(self, shard: str, gpu: float | None, memory_bytes: int | None) -> GpuGrant:
        """Book it. Raises ValueError that says what is lacking; then nothing is booked."""
        if shard in self._grants:
            raise InternalError(f"{shard} has a GPU already")
        share, memory = round((gpu or 0.0) * _WHOLE), memory_bytes or 0
        part = share < _WHOLE
        grant = self._instance(share, memory) or self._shared(share, memory) if part else self._whole(share, memory)
        if grant is None:
            raise ValueError(self._lack(gpu, memory_bytes))
        self._book(grant, 1)
        self._grants[shard] = grant
        return grant

    def give_back(self, shard: str) -> None:
        """Idempotent: most shards have none."""
        grant = self._grants.pop(shard, None)
        if grant is not None:
            self._book(grant, -1)

    def of(self, shard: str) -> GpuGrant | None:
        return self._grants.get(shard)

    def _book(self, grant: GpuGrant, sign: int) -> None:
        for device in self.devices:
            booked = self._booked[device.uuid]
            if grant.way == "mig":
                for each in device.instances:
                    if each.uuid in grant.uuids:
                        (booked.instances.add if sign > 0 else booked.instances.discard)(each.uuid)
            elif device.uuid in grant.uuids:
                if grant.way == "device":
                    booked.whole = sign > 0
                else:
                    booked.share += sign * round(grant.share * _WHOLE)
                    booked.memory_bytes += sign * grant.memory_bytes

    def _untouched(self, device: GpuDevice) -> bool:
        booked = self._booked[device.uuid]
        return not (device.divided or booked.whole or booked.share or booked.memory_bytes)

    def _whole(self, share: int, memory: int) -> GpuGrant | None:
        count, rest = divmod(share, _WHOLE)
        if rest:
            raise ValueError(f"{share / _WHOLE:g} GPUs cannot be had: above 1, whole devices are given")
        free = [d for d in self.devices if self._untouched(d)]
        chosen: Sequence[GpuDevice] | None = None
        best: tuple[int, int] | None = None
        for group in itertools.islice(itertools.combinations(free, count), 20_000):
            has = sum(device.memory_bytes for device in group)
            if has < memory:
                continue
            rank = len({device.bank for device in group}), has
            if best is None or rank < best:
                chosen, best = group, rank
        if chosen is None:
            return None
        nodes = tuple(dict.fromkeys(node for device in chosen for node in device.nodes))
        total = sum(device.memory_bytes for device in chosen)
        return GpuGrant("device", tuple(device.uuid for device in chosen), float(count), total, nodes)

    def _instance(self, share: int, memory: int) -> GpuGrant | None:
        found: list[tuple[MigInstance, GpuDevice]] = [
            (each, device)
            for device in self.devices
            for each in device.instances
            if each.uuid not in self._booked[device.uuid].instances
            and round(each.share * _WHOLE) >= share
            and each.memory_bytes >= memory
        ]
        if not found:
            return None
        instance, device = min(found, key=lambda pair: (pair[0].share, pair[0].memory_bytes))
        nodes = (*device.nodes, *instance.nodes)
        return GpuGrant("mig", (instance.uuid,), instance.share, instance.memory_bytes, nodes)

    def _shared(self, share: int, memory: int) -> GpuGrant | None:
        """With no share stated, one as large as the part of the memory; with no memory stated, the other way round."""
        best: tuple[int, int, GpuDevice] | None = None
        best_room = None
        for device in self.devices if self.mps else ():
            booked = self._booked[device.uuid]
            if device.divided or booked.whole or memory > device.memory_bytes:
                continue
            asked = share or -(-memory * _WHOLE // device.memory_bytes)
            bytes_ = memory or device.memory_bytes * share // _WHOLE
            room = _WHOLE - booked.share - asked
            if room < 0 or booked.memory_bytes + bytes_ > device.memory_bytes:
                continue
            if best_room is None or room < best_room:
                best, best_room = (asked, bytes_, device), room
        if best is None:
            return None
        asked, bytes_, device = best
        return GpuGrant("mps", (device.uuid,), asked / _WHOLE, bytes_, device.nodes)

    def _lack(self, gpu: float | None, memory_bytes: int | None) -> str:
        asked = " and ".join(
            [
                *([f"{gpu:g} GPU"] if gpu else []),
                *([f"{format_bytes(memory_bytes)} of GPU memory"] if memory_bytes else []),
            ]
        )
        if not self.devices:
            return f"{asked} cannot be had: this machine has no GPU"
        if (gpu or 0) >= 1:
            return f"{asked} cannot be had: too few whole devices are free"
        kinds = ["MIG instance is free that has as much"] if any(device.divided for device in self.devices) else []
        if any(not device.divided for device in self.devices):
            kinds.append(
                "device has that much left" if self.mps else "share can be given without MPS (no control daemon)"
            )
        return f"{asked} cannot be had: no {', and no '.join(kinds)}"
