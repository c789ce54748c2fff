"""The rate of block I/O of a control group: the same for each disk of the machine, for reading and for writing.

On version 1 the kernel counts what a process reads and writes itself: direct I/O, and reads through the cache. What was written
into the cache is written out by the kernel, on nobody's account; version 2 knows whose pages those are.
"""

from __future__ import annotations

import os

from shardwright.errors import SandboxError
from shardwright.sandbox._linux._files import ControlFiles
from shardwright.sandbox._linux._procfs import read_text

V1_FILES = ("blkio.throttle.read_bps_device", "blkio.throttle.write_bps_device")
V2_FILE = "io.max"
_NO_DISKS = ("loop", "ram", "zram", "fd", "sr")


def disks(sys_root: str = "/sys") -> tuple[str, ...]:
    """The machine's whole disks, as ``major:minor``."""
    try:
        names = sorted(os.listdir(f"{sys_root}/block"))
    except OSError:
        return ()
    found = []
    for name in names:
        number = (read_text(f"{sys_root}/block/{name}/dev") or "").strip()
        size = (read_text(f"{sys_root}/block/{name}/size") or "0").strip()
        if number and size not in ("", "0") and not name.startswith(_NO_DISKS):
            found.append(number)
    return tuple(found)


def read_rate(files: ControlFiles) -> int | None:
    """Bytes per second, the least of all disks; None without a limit. Raises OSError."""
    rates: list[int] = []
    if files.has(V2_FILE):
        for line in files.read(V2_FILE).splitlines():
            pairs = (word.partition("=") for word in line.split()[1:])
            rates += [int(value) for key, _, value in pairs if key in ("rbps", "wbps") and value != "max"]
    else:
        for name in V1_FILES:
            rates += [int(line.split()[1]) for line in files.read(name).splitlines() if len(line.split()) == 2]
    return min(rates, default=None)


def set_rate(files: ControlFiles, rate: int | None, disks: tuple[str, ...]) -> None:
    """Put that rate in force, or none, and read it back. Raises SandboxError; then the rate is what it was before."""
    before = None
    try:
        before = read_rate(files)
        _write(files, rate, disks)
        found = read_rate(files)
    except OSError as error:
        _undo(files, disks, before)
        raise SandboxError(
            f"cannot set the rate of I/O to {rate} bytes a second in {files.folder}: {error.strerror}"
        ) from error
    if found != rate:
        _undo(files, disks, before)
        raise SandboxError(
            f"the kernel did not take over the rate of I/O: {files.folder} reads {found} bytes a second, not {rate}",
            remedy="ask for an amount that the kernel can hold",
        )


def _write(files: ControlFiles, rate: int | None, disks: tuple[str, ...]) -> None:
    for disk in disks:
        if files.has(V2_FILE):
            value = "max" if rate is None else str(rate)
            files.write(V2_FILE, f"{disk} rbps={value} wbps={value}")
        else:
            for name in V1_FILES:
                files.write(name, f"{disk} {rate or 0}")


def _undo(files: ControlFiles, disks: tuple[str, ...], before: int | None) -> None:
    try:
        _write(files, before, disks)
    except OSError:
        pass  # the refusal that is being reported matters more
