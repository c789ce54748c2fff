"""GPUs of this node: found once, where a manifest asks for any, and given to shards one by one."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct
from msgspec.structs import replace

from shardwright.contracts.sandbox import Finding, Sight
from shardwright.errors import StartFailed
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Manifest
from shardwright.model.units import format_bytes
from shardwright.placement import GpuLedger
from shardwright.sandbox import FoundGpus, device_files, find_gpus, gpu_environment

UNVERIFIED = "unverified on hardware"


def wants_gpu(component: Component) -> bool:
    limits = component.limits
    amounts = (
        *(limits.guarantee.gpu, limits.guarantee.gpu_memory_bytes),
        *(limits.ceiling.gpu, limits.ceiling.gpu_memory_bytes),
    )
    return any(amounts)


class GpuAccess(Struct, frozen=True):
    """What a shard's process gets: environment, and what it sees of device files and of the folder of MPS."""

    environment: Mapping[str, str]
    devices: tuple[str, ...]
    denied: tuple[str, ...]
    pipes: tuple[str, ...] = ()

    def seen(self, sight: Sight) -> Sight:
        return replace(sight, devices=self.devices, denied=self.denied, write=(*sight.write, *self.pipes))


class Gpus:
    """``looked``: whether anybody asked for one; without, a node leaves GPUs as they are, and shards see what there is."""

    def __init__(self, found: FoundGpus | None = None) -> None:
        self.looked = found is not None
        self.found = found or FoundGpus()
        self._ledger = GpuLedger(self.found.devices, mps=bool(self.found.mps))

    @classmethod
    def of(cls, manifest: Manifest, environment: Mapping[str, str]) -> Gpus:
        return cls(find_gpus(environment) if any(wants_gpu(each) for each in manifest.components) else None)

    @property
    def enforces(self) -> tuple[str, ...]:
        """The manifest's names of what is held to."""
        return ("gpu", "gpu_memory") if self.found.devices else ()

    def added_to(self, total: Resources) -> Resources:
        """A machine's capacity with its GPUs: none at all where somebody asked and there is none."""
        if not self.looked:
            return total
        own = self._ledger.capacity()
        return replace(total, gpu=own.gpu, gpu_memory_bytes=own.gpu_memory_bytes)

    def serves(self, component: Component) -> bool:
        """Whether its shards get a part of a GPU here: each is started by itself then, for CUDA does not survive a fork."""
        return bool(self.found.devices) and wants_gpu(component)

    def take(self, component: Component, shard: str, limits: Limits) -> GpuAccess | None:
        """What that shard gets; None where nobody asked for GPUs, or there are none. Raises StartFailed."""
        if not self.found.devices:
            return None
        every = device_files(self.found.devices)
        if not wants_gpu(component):
            return GpuAccess(gpu_environment(None), (), every)
        gpu = limits.guarantee.gpu if limits.guarantee.gpu is not None else limits.ceiling.gpu
        memory = limits.guarantee.gpu_memory_bytes
        if memory is None:
            memory = limits.ceiling.gpu_memory_bytes
        try:
            grant = self._ledger.take(shard, gpu, memory)
        except ValueError as lack:
            raise StartFailed(
                f"{component.name}: {lack}",
                remedy="ask for less, divide a device (MIG), or start the control daemon of MPS",
            ) from None
        mine = set(grant.nodes)
        environment = gpu_environment(grant, self.found.mps)
        pipes = (self.found.mps,) if grant.way == "mps" else ()
        return GpuAccess(environment, grant.nodes, tuple(path for path in every if path not in mine), pipes)

    def give_back(self, shard: str) -> None:
        self._ledger.give_back(shard)


def gpu_findings(environment: Mapping[str, str]) -> list[Finding]:
    """Lines of ``doctor``."""
    found = find_gpus(environment)
    if not found.devices:
        return [Finding("GPU", True, f"none: {found.trouble}")]
    lines = []
    for device in found.devices:
        parts = ""
        if device.divided:
            parts = ", divided: " + (
                ", ".join(f"{each.share:.3g} with {format_bytes(each.memory_bytes)}" for each in device.instances)
                or "no instance yet"
            )
        told = f"{device.name}, {format_bytes(device.memory_bytes)}{parts}; driver {found.driver}; {UNVERIFIED}"
        lines.append(Finding("GPU", True, told))
    shares = f"through MPS ({found.mps})" if found.mps else "by MIG instances alone: no control daemon of MPS runs"
    return [*lines, Finding("GPU shares", True, f"{shares}; {UNVERIFIED}")]
