"""Files of a control group with kept descriptors, and changes to them that are made whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable

import msgspec

from shardwright.errors import SandboxError

_PAGE = os.sysconf("SC_PAGE_SIZE")
_READ_BYTES = 8192
# The kernel hands out whole lines, as many as fit into a page: after so little there is no more, for no line is that long.
_WHOLE_BYTES = 2048


class ControlFiles:
    """The files of one folder of a hierarchy. Descriptors are opened at first use and kept: a write then takes 1 µs.

    Written with ``os`` and not through a file object, whose buffer hides the error of a refused write.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._readers: dict[str, int] = {}
        self._writers: dict[str, int] = {}
        self._lacking: set[str] = set()

    def __repr__(self) -> str:
        return f"ControlFiles({self.folder!r})"

    def has(self, name: str) -> bool:
        """Whether there is such a file. What a kernel lacks it does not gain."""
        if name in self._readers or name in self._writers:
            return True
        if name not in self._lacking and os.path.exists(f"{self.folder}/{name}"):
            return True
        self._lacking.add(name)
        return False

    def read(self, name: str) -> str:
        """The whole file. Raises OSError."""
        descriptor = self._reader(name)
        text = chunk = os.pread(descriptor, 65536, 0)
        while len(chunk) > _WHOLE_BYTES:
            chunk = os.pread(descriptor, 65536, len(text))
            text += chunk
        return text.decode("ascii", "replace")

    def number(self, name: str, key: str | None = None) -> int:
        """A file of one number, or the number that follows ``key`` in a table, 0 where it has none. For what is read often:
        one call, nothing else of the table is looked at. Raises OSError, and ValueError where there is no number.
        """
        text = os.pread(self._reader(name), _READ_BYTES, 0)
        if key is None:
            return int(text)
        wanted = key.encode("ascii") + b" "
        begin = 0 if text.startswith(wanted) else text.find(b"\n" + wanted) + 1
        end = text.find(b"\n", begin)
        if end < 0 or not text.startswith(wanted, begin):
            return self.table(name).get(key, 0)  # beyond what was read, or nowhere
        return int(text[begin + len(wanted) : end])

    def _reader(self, name: str) -> int:
        descriptor = self._readers.get(name)
        if descriptor is None:
            descriptor = self._readers[name] = os.open(f"{self.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        return descriptor

    def value(self, name: str) -> str:
        """The first line of the file, which is short. Raises OSError."""
        return os.pread(self._reader(name), 256, 0).partition(b"\n")[0].decode("ascii", "replace").strip()

    def table(self, name: str) -> dict[str, int]:
        """A file of lines "key number"; a file that is not there is empty."""
        try:
            text = self.read(name)
        except OSError:
            return {}
        pairs = (line.split() for line in text.splitlines())
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].lstrip("-").isdecimal()}

    def writer(self, name: str) -> int:
        """The kept descriptor to write that file. Raises OSError."""
        descriptor = self._writers.get(name)
        if descriptor is None:
            descriptor = self._writers[name] = os.open(f"{self.folder}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        return descriptor

    def write(self, name: str, value: str) -> None:
        """Raises OSError when the kernel refuses."""
        os.pwrite(self.writer(name), value.encode("ascii") + b"\n", 0)

    def close(self) -> None:
        for descriptor in (*self._readers.values(), *self._writers.values()):
            os.close(descriptor)
        self._readers.clear()
        self._writers.clear()


class Step(msgspec.Struct, frozen=True):
    """One write. ``what`` names it for people; ``rounded`` values may read back lower by less than a page."""

    files: ControlFiles
    name: str
    value: str
    what: str
    rounded: bool = False


def apply(steps: Iterable[Step]) -> dict[str, str]:
    """Make all changes, each read back, or none: on a refusal those made before are undone, last first.

    Returns what reads back, by the name of the file. Raises SandboxError that names the change that was refused, and why.
    """
    undo: list[Step] = []
    found: dict[str, str] = {}
    for step in steps:
        files, name = step.files, step.name
        try:
            old = files.value(name)
            if _same(old, step):
                found[name] = old
                continue
            undo.append(Step(files, name, old, step.what))
            files.write(name, step.value)
            read_back = found[name] = files.value(name)
        except OSError as error:
            _undo(undo)
            raise _refusal(step, error) from error
        if not _same(read_back, step):
            _undo(undo)
            raise SandboxError(
                f"the kernel did not take over {step.what}: wrote {step.value!r} to {step.files.folder}/{step.name}, "
                f"it reads {read_back!r}",
                remedy="ask for an amount that the kernel can hold",
            )
    return found


def _undo(steps: list[Step]) -> None:
    for step in reversed(steps):
        try:
            step.files.write(step.name, step.value)
        except OSError:
            continue  # the refusal that is being reported matters more


def _same(read_back: str, step: Step) -> bool:
    if read_back == step.value:
        return True
    if step.value == "-1" and step.rounded:  # version 1 shows "no limit" as the largest number of pages
        return read_back.isdecimal() and int(read_back) >= 1 << 60
    if step.rounded and read_back.isdecimal() and step.value.isdecimal():
        return 0 <= int(step.value) - int(read_back) < _PAGE
    return False


def _refusal(step: Step, error: OSError) -> SandboxError:
    if error.errno == errno.EBUSY:
        return SandboxError(
            f"cannot lower {step.what} to {step.value}: more than that is in use now",
            remedy="choose a higher amount, or let the shard release memory first",
        )
    if error.errno == errno.ENOENT:
        return SandboxError(f"cannot set {step.what}: {step.files.folder}/{step.name} is not there")
    return SandboxError(
        f"cannot set {step.what} to {step.value} in {step.files.folder}: {os.strerror(error.errno or 0)}",
        remedy="see the limits of the control groups above it" if error.errno == errno.EINVAL else "",
    )


def device_numbers(paths: Iterable[str]) -> list[tuple[int, int]]:
    """Major and minor number of each character device; others are left out."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = os.stat(path)
            if stat.S_ISCHR(status.st_mode):
                found.append((os.major(status.st_rdev), os.minor(status.st_rdev)))
    return found
