"""The machine's cores, caches and memory banks, read from /sys. hwloc knows more of exotic machines; nothing here needs it."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from shardwright.placement import Bank, Cpu, Topology


def read_topology(sys_root: str = "/sys", allowed: Collection[int] | None = None) -> Topology:
    """What this process may run on (``allowed``, by default its affinity), with the banks that there are.

    What cannot be read is taken for the simplest: every processor a core of its own, one cache, one bank. Never raises OSError.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0)
    base = Path(sys_root) / "devices/system"
    banks = _banks(base / "node")
    of_bank = {cpu: number for number, (cpus, _, _) in banks.items() for cpu in cpus}
    only = next(iter(sorted(banks)), 0)
    cores: dict[tuple[str, str], int] = {}
    caches: dict[str, int] = {}
    cpus = []
    for number in sorted(allowed):
        folder = base / f"cpu/cpu{number}"
        package = _text(folder / "topology/physical_package_id", "0")
        core = cores.setdefault((package, _text(folder / "topology/core_id", f"alone {number}")), len(cores))
        cache = caches.setdefault(_last_cache(folder / "cache") or f"package {package}", len(caches))
        cpus.append(Cpu(number, core, cache, of_bank.get(number, only)))
    if not banks:
        return Topology(tuple(cpus), (Bank(0, _memory(Path(sys_root)), {0: 10}),))
    return Topology(
        tuple(cpus), tuple(Bank(number, size, distances) for number, (_, size, distances) in sorted(banks.items()))
    )


def numbers(text: str) -> tuple[int, ...]:
    """The kernel's lists, such as ``0-3,8``."""
    found: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first.strip().isdecimal():
            found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _banks(folder: Path) -> dict[int, tuple[tuple[int, ...], int, dict[int, int]]]:
    """Number -> processors, bytes, distances."""
    online = numbers(_text(folder / "online", ""))
    found = {}
    for number in online:
        own = folder / f"node{number}"
        total = next((line.split() for line in _text(own / "meminfo", "").splitlines() if "MemTotal:" in line), [])
        size = int(total[-2]) * 1024 if len(total) >= 2 and total[-2].isdecimal() else 0
        far = [int(word) for word in _text(own / "distance", "").split() if word.isdecimal()]
        found[number] = (numbers(_text(own / "cpulist", "")), size, dict(zip(online, far, strict=False)))
    return found


def _last_cache(folder: Path) -> str:
    """Which processors share the last level, as the kernel lists them."""
    best = (0, "")
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    for name in names:
        level = _text(folder / name / "level", "")
        if level.isdecimal() and int(level) > best[0]:
            best = int(level), _text(folder / name / "shared_cpu_list", "")
    return best[1]


def _memory(sys_root: Path) -> int:
    """Where no bank is told of: all there is."""
    for line in _text(sys_root.parent / "proc/meminfo", "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _text(path: Path, otherwise: str) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return otherwise
