"""GPUs of a machine, and what of them a shard was given."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Way = Literal["device", "mig", "mps"]


class MigInstance(Struct, frozen=True):
    """A part of a device that its hardware keeps apart. ``share`` is of the whole device; ``nodes`` are device files."""

    uuid: str
    share: float
    memory_bytes: int
    nodes: tuple[str, ...] = ()


class GpuDevice(Struct, frozen=True):
    """One GPU. Where it is divided (``divided``), its ``instances`` are all that can be used of it."""

    uuid: str
    name: str
    memory_bytes: int
    bank: int | None = None  # the memory bank that it is near to
    nodes: tuple[str, ...] = ()
    divided: bool = False
    instances: tuple[MigInstance, ...] = ()


class GpuGrant(Struct, frozen=True):
    """What a shard was given: whole devices, one MIG instance, or a share of one device through MPS.

    ``uuids`` are as CUDA wants them; ``nodes`` are the device files that it takes. ``share`` and ``memory_bytes`` are what
    is booked, in all.
    """

    way: Way
    uuids: tuple[str, ...]
    share: float
    memory_bytes: int
    nodes: tuple[str, ...] = ()
