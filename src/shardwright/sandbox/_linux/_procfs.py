"""What /proc says about a process. A pid alone names nobody: its start time belongs to it."""

from __future__ import annotations

import os

from msgspec import Struct

from shardwright.model.limits import Usage

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class ProcessStat(Struct, frozen=True):
    """The fields of /proc/PID/stat that are used here."""

    pid: int
    state: str  # "Z" is a process that ended and was not waited for
    parent: int
    group: int
    session: int
    cpu_ticks: int
    threads: int
    start_ticks: int
    resident_pages: int


def read_text(path: str) -> str | None:
    """The whole file, or None when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return None


def process_stat(pid: int, proc_root: str = "/proc") -> ProcessStat | None:
    """The state of a process, or None when there is no such process."""
    text = read_text(f"{proc_root}/{pid}/stat")
    if not text:
        return None
    # the command name stands in parentheses and may hold anything, parentheses and blanks too
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessStat(
        pid=pid,
        state=fields[0],
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        cpu_ticks=int(fields[11]) + int(fields[12]),
        threads=int(fields[17]),
        start_ticks=int(fields[19]),
        resident_pages=int(fields[21]),
    )


def start_ticks(pid: int, proc_root: str = "/proc") -> int | None:
    """When a process began, in clock ticks since the machine's boot; None when there is no such process."""
    stat = process_stat(pid, proc_root)
    return None if stat is None else stat.start_ticks


def process_usage(pid: int) -> Usage | None:
    """What one process takes, its children not counted; memory is what is resident."""
    stat = process_stat(pid)
    if stat is None or stat.state == "Z":
        return None
    return Usage(cpu_s=stat.cpu_ticks / _TICKS_PER_S, memory_bytes=stat.resident_pages * _PAGE, threads=stat.threads)


def children(pid: int) -> tuple[int, ...]:
    """Children of a process, ended ones that nobody waited for included."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return ()
    for task in tasks:
        text = read_text(f"/proc/{pid}/task/{task}/children")
        if text is None:  # a kernel without CONFIG_PROC_CHILDREN
            return tuple(stat.pid for stat in map(process_stat, all_pids()) if stat is not None and stat.parent == pid)
        found.extend(map(int, text.split()))
    return tuple(found)


def all_pids() -> tuple[int, ...]:
    """Every process of this pid namespace."""
    return tuple(int(name) for name in os.listdir("/proc") if name.isdecimal())


def memory_total_bytes(proc_root: str = "/proc") -> int | None:
    """The memory of the machine."""
    for line in (read_text(f"{proc_root}/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        if name == "MemTotal":
            return int(rest.split()[0]) * 1024
    return None
