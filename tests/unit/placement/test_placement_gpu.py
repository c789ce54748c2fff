"""Which GPU a shard gets, and that nothing is given twice."""

from __future__ import annotations

import random

import pytest

from shardwright.model.gpu import GpuDevice, GpuGrant, MigInstance
from shardwright.model.limits import Resources
from shardwright.placement import GpuLedger

GIB = 2**30
WHOLE = GpuDevice("GPU-a", "T4", 16 * GIB, bank=0, nodes=("/dev/nvidia0",))
OTHER = GpuDevice("GPU-b", "T4", 16 * GIB, bank=1, nodes=("/dev/nvidia1",))
NEAR = GpuDevice("GPU-d", "L4", 24 * GIB, bank=1, nodes=("/dev/nvidia3",))
DIVIDED = GpuDevice(
    "GPU-c", "A100", 40 * GIB, nodes=("/dev/nvidia2",), divided=True,
    instances=(
        MigInstance("MIG-3", 3 / 7, 20 * GIB, ("/dev/nvidia-caps/nvidia-cap3",)),
        MigInstance("MIG-1", 1 / 7, 5 * GIB),
    ),
)  # fmt: skip


def test_parts_come_from_the_smallest_instance_that_suffices() -> None:
    ledger = GpuLedger([WHOLE, DIVIDED], mps=True)
    assert ledger.capacity() == Resources(gpu=round(1 + 4 / 7, 6), gpu_memory_bytes=41 * GIB)
    assert ledger.take("one", 0.1, None) == GpuGrant("mig", ("MIG-1",), 1 / 7, 5 * GIB, ("/dev/nvidia2",))
    second = ledger.take("two", 0.1, None)
    assert (second.uuids, second.nodes) == (("MIG-3",), ("/dev/nvidia2", "/dev/nvidia-caps/nvidia-cap3"))
    assert ledger.take("three", 0.1, 2 * GIB).way == "mps", "no instance is left"
    ledger.give_back("one")
    ledger.give_back("one")
    assert ledger.take("four", None, 4 * GIB).uuids == ("MIG-1",)


def test_shares_are_packed_so_that_devices_stay_whole() -> None:
    ledger = GpuLedger([WHOLE, OTHER], mps=True)
    assert ledger.take("one", 0.25, None) == GpuGrant("mps", ("GPU-a",), 0.25, 4 * GIB, ("/dev/nvidia0",))
    assert ledger.take("two", None, 4 * GIB).uuids == ("GPU-a",), "beside the other"
    assert ledger.take("three", 1, None) == GpuGrant("device", ("GPU-b",), 1.0, 16 * GIB, ("/dev/nvidia1",))
    with pytest.raises(ValueError, match="no device has that much left"):
        ledger.take("four", 0.6, None)
    with pytest.raises(ValueError, match="too few whole devices"):
        ledger.take("four", 1, None)
    assert ledger.take("four", 0.5, 8 * GIB).share == 0.5, "and what is left is given to the last part"
    assert ledger.of("nobody") is None


def test_whole_devices_of_one_bank_and_with_little_to_spare() -> None:
    assert GpuLedger([WHOLE, NEAR, OTHER]).take("pair", 2, None).uuids == ("GPU-d", "GPU-b")
    assert GpuLedger([NEAR, WHOLE]).take("one", 1, 8 * GIB).uuids == ("GPU-a",)
    assert GpuLedger([NEAR, WHOLE]).take("one", 1, 20 * GIB).uuids == ("GPU-d",)


@pytest.mark.parametrize(
    ("devices", "gpu", "memory", "said"),
    [
        ([], 0.5, None, "0.5 GPU cannot be had: this machine has no GPU"),
        ([WHOLE], 0.5, GIB, "without MPS"),
        ([WHOLE, OTHER], 1.5, None, "above 1, whole devices are given"),
        ([DIVIDED], 0.5, None, "no MIG instance is free that has as much"),
        ([DIVIDED], 1, None, "too few whole devices are free"),
    ],
)
def test_what_cannot_be_had_is_said(devices: list[GpuDevice], gpu: float, memory: int | None, said: str) -> None:
    ledger = GpuLedger(devices)
    with pytest.raises(ValueError, match=said):
        ledger.take("one", gpu, memory)
    assert ledger.of("one") is None


def test_never_more_is_given_than_there_is() -> None:
    source, ledger = random.Random(5), GpuLedger([WHOLE, OTHER, DIVIDED], mps=True)
    given: dict[str, GpuGrant] = {}
    for number in range(2_000):
        if given and source.random() < 0.45:
            shard = source.choice(sorted(given))
            ledger.give_back(shard)
            del given[shard]
        else:
            shard = f"shard-{number}"
            try:
                asked = source.choice([0.1, 0.3, 0.5, 1, 2, None])
                memory = source.choice([GIB, 6 * GIB]) if asked is None or source.random() < 0.5 else None
                grant = ledger.take(shard, asked, memory)
            except ValueError:
                continue
            assert grant.share >= (asked or 0) - 1e-6 and grant.memory_bytes >= (memory or 0)
            given[shard] = grant
        for device in (WHOLE, OTHER):
            holders = [each for each in given.values() if device.uuid in each.uuids]
            assert not any(each.way == "device" for each in holders) or len(holders) == 1
            if holders and holders[0].way == "mps":
                assert sum(each.share for each in holders) <= 1 + 1e-6
                assert sum(each.memory_bytes for each in holders) <= device.memory_bytes
        parts = [uuid for each in given.values() if each.way == "mig" for uuid in each.uuids]
        assert len(parts) == len(set(parts))
