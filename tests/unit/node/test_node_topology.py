"""The machine as /sys tells it, from copies of what such machines say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shardwright.node._topology import numbers, read_topology


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def two_banks(root: Path) -> Path:
    """Two sockets of two cores with two threads each; a cache for each socket."""
    base = "devices/system"
    for cpu in range(8):
        package, core = cpu % 4 // 2, cpu % 2
        write(root, **{
            f"{base}/cpu/cpu{cpu}/topology/physical_package_id": str(package),
            f"{base}/cpu/cpu{cpu}/topology/core_id": str(core),
            f"{base}/cpu/cpu{cpu}/cache/index0/level": "1",
            f"{base}/cpu/cpu{cpu}/cache/index0/shared_cpu_list": f"{cpu % 4},{cpu % 4 + 4}",
            f"{base}/cpu/cpu{cpu}/cache/index3/level": "3",
            f"{base}/cpu/cpu{cpu}/cache/index3/shared_cpu_list": "0-1,4-5" if package == 0 else "2-3,6-7",
        })  # fmt: skip
    write(root, **{f"{base}/node/online": "0-1"})
    for bank, cpus in enumerate(("0-1,4-5", "2-3,6-7")):
        write(root, **{
            f"{base}/node/node{bank}/cpulist": cpus,
            f"{base}/node/node{bank}/distance": "10 21" if bank == 0 else "21 10",
            f"{base}/node/node{bank}/meminfo": f"Node {bank} MemTotal:       {(bank + 1) * 1024} kB\nNode {bank} MemFree: 5 kB",
        })  # fmt: skip
    return root


def test_sockets_threads_caches_and_banks(tmp_path: Path) -> None:
    topology = read_topology(str(two_banks(tmp_path)), range(8))
    assert [(cpu.number, cpu.core, cpu.cache, cpu.bank) for cpu in topology.cpus] == [
        (0, 0, 0, 0), (1, 1, 0, 0), (2, 2, 1, 1), (3, 3, 1, 1), (4, 0, 0, 0), (5, 1, 0, 0), (6, 2, 1, 1), (7, 3, 1, 1),
    ]  # fmt: skip
    assert [(bank.number, bank.memory_bytes, dict(bank.distances)) for bank in topology.banks] == [
        (0, 2**20, {0: 10, 1: 21}),
        (1, 2 * 2**20, {0: 21, 1: 10}),
    ]


def test_only_what_we_may_run_on(tmp_path: Path) -> None:
    topology = read_topology(str(two_banks(tmp_path)), [2, 6])
    assert [(cpu.number, cpu.core, cpu.bank) for cpu in topology.cpus] == [(2, 0, 1), (6, 0, 1)]


def test_a_machine_that_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, **{"proc/meminfo": "MemTotal:  2048 kB"})
    topology = read_topology(str(tmp_path / "sys"), [0, 1])
    assert [(cpu.core, cpu.cache, cpu.bank) for cpu in topology.cpus] == [(0, 0, 0), (1, 0, 0)]
    assert topology.banks[0].memory_bytes == 2 * 2**20


def test_this_machine() -> None:
    topology = read_topology()
    assert {cpu.number for cpu in topology.cpus} == os.sched_getaffinity(0)
    assert sum(bank.memory_bytes for bank in topology.banks) > 2**28


@pytest.mark.parametrize(("text", "found"), [("0-2,7", (0, 1, 2, 7)), ("", ()), ("3", (3,)), ("x,1", (1,))])
def test_lists_of_the_kernel(text: str, found: tuple[int, ...]) -> None:
    assert numbers(text) == found
