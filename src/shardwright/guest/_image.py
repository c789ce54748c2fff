"""Which memory of a template may become the contents of a file (``_pages.c`` says what for), and a shard's rest.

Only memory whose owner is known is taken: Python's own arenas, the C library's heap, the data of the interpreter. An allocator
of the application's (jemalloc, say) may rely on ``madvise`` to give zeros, and would be given the file's bytes; what the C
library maps for one large block may be grown in place. Both stay as they are.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import struct
import sys
import sysconfig
import time
import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _extension() -> Any:
    try:
        return importlib.import_module("shardwright.guest._pages")
    except ImportError:  # it was installed without a compiler
        return None


pages = _extension()
TRIM_SIGNAL = int(signal.SIGRTMIN) + 12 if hasattr(signal, "SIGRTMIN") else 0
REST_S = 0.5  # without a call, after which a shard that was called gives back what it can
LOOK_S = 5.0  # between two looks whether it was called since
_HURRY_S = 0.05
_LOOKS = 40
_TRIES = 5
_PAGE = 4096
_POOL = 16384  # of Python's arenas, since 3.10
_ARENA = 2**20
_CLASSES = 32  # of sizes
_KNOWN = ((3, 11), (3, 12), (3, 13))
_SMALL = (dict, types.FunctionType)  # always small enough for an arena, whatever they hold


@dataclass(frozen=True, slots=True)
class _Mapping:
    begin: int
    end: int
    writable: bool
    offset: int
    name: str


def permitted(*, plain_allocator: bool) -> str:
    """Why there can be no image here; empty when there can. ``plain_allocator``: Python's is as it is by default."""
    if pages is None:
        return "its C part was not built"
    if (
        sys.implementation.name != "cpython"
        or sys.version_info[:2] not in _KNOWN
        or sysconfig.get_config_var("Py_GIL_DISABLED")
        or sysconfig.get_config_var("Py_DEBUG")
        or sys.byteorder != "little"
        or os.sysconf("SC_PAGE_SIZE") != _PAGE
    ):
        return "this interpreter's memory is not known"
    return "" if plain_allocator else "Python's allocator was changed"


def ranges() -> list[tuple[int, int]]:
    """Where such memory lies in this process, in order. Raises OSError. To be called before ``gc.freeze``."""
    mappings = _mappings()
    found = [*_arenas(mappings), *_interpreter(mappings)]
    if os.path.basename(pages.allocator()) == "libc.so.6":
        found += [(each.begin, each.end) for each in mappings if each.name == "[heap]" and each.writable]
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def _mappings() -> list[_Mapping]:
    found = []
    for line in Path("/proc/self/maps").read_text(errors="surrogateescape").splitlines():
        place, mode, offset, _, _, *name = line.split(None, 5)
        begin, _, end = place.partition("-")
        found.append(_Mapping(int(begin, 16), int(end, 16), mode == "rw-p", int(offset, 16), name[0] if name else ""))
    return found


def _arenas(mappings: Iterable[_Mapping]) -> list[tuple[int, int]]:
    """From the first to the last pool of each arena that holds a small object; each pool says which arena it is of."""
    anonymous = [each for each in mappings if each.writable and not each.name]
    pools = sorted({id(each) & -_POOL for each in gc.get_objects() if type(each) in _SMALL})
    spans: dict[int, tuple[int, int]] = {}
    place = 0
    for pool in pools:
        while place < len(anonymous) and anonymous[place].end <= pool:
            place += 1
        if place == len(anonymous) or pool < anonymous[place].begin or pool + _POOL > anonymous[place].end:
            continue
        arena = pages.peek(pool + 32)
        if pages.peek(pool + 36) >= _CLASSES:
            return []  # that is no pool: nothing that was found can be trusted
        first, _ = spans.get(arena, (pool, pool))
        spans[arena] = (first, pool + _POOL)
    if any(end - begin > _ARENA for begin, end in spans.values()):
        return []
    return list(spans.values())


def _interpreter(mappings: Iterable[_Mapping]) -> list[tuple[int, int]]:
    """What the interpreter's own file has for its data, as far as it may be written."""
    mappings = list(mappings)
    home = next((each for each in mappings if each.begin <= id(None) < each.end and each.name.startswith("/")), None)
    if home is None:
        return []
    first = next((each for each in mappings if each.name == home.name and each.offset == 0), None)
    try:
        with open(home.name, "rb") as file:
            head = file.read(64)
            (table,), (size, count) = struct.unpack_from("<Q", head, 32), struct.unpack_from("<HH", head, 54)
            file.seek(table)
            segments = [struct.unpack_from("<IIQQQQQQ", file.read(size)) for _ in range(count)]
    except (OSError, struct.error):
        return []
    loaded = [each for each in segments if each[0] == 1]
    if head[:6] != b"\x7fELF\x02\x01" or first is None or not loaded:
        return []
    bias = first.begin - loaded[0][3] // _PAGE * _PAGE
    found = []
    for _, flags, _, address, _, _, memory, _ in loaded:
        begin, end = (bias + address) // _PAGE * _PAGE, -(-(bias + address + memory) // _PAGE) * _PAGE
        for each in mappings if flags & 2 else ():
            if each.writable and each.begin < end and begin < each.end:
                found.append((max(begin, each.begin), min(end, each.end)))
    return found


class Rest:
    """When a shard is at rest, and what it does then: once, until it was called again.

    With ``hurry`` it does so soon, and in the end also if nobody called it.
    """

    def __init__(self, calls: Callable[[], int], idle_since: Callable[[], float | None]) -> None:
        self._calls = calls
        self._idle_since = idle_since
        self._seen = 0
        self._looks = self._tries = 0
        self.act: Callable[[], bool] | None = None
        self.hurry = False

    def wait_s(self) -> float | None:
        """For how long to wait for something else to do, before ``look``; None: for ever."""
        if self.act is None:
            return None
        if self.hurry:
            return _HURRY_S
        return REST_S if self._calls() != self._seen else LOOK_S

    def look(self) -> None:
        """Nothing else was to do for so long."""
        calls, since = self._calls(), self._idle_since()
        self._looks += 1
        if self.act is None or since is None:
            return
        due = calls != self._seen and time.monotonic() - since >= (_HURRY_S if self.hurry else REST_S)
        if due or (self.hurry and self._looks >= _LOOKS):
            sys._clear_type_cache()  # it holds names, by what was looked up last: their counts differ without a meaning
            if self.act() or self._tries >= _TRIES:
                self._seen, self._tries = calls, 0
            else:  # a thread may have had no processor just then
                self._tries += 1


class Trimming:
    """Gives back the pages that equal the template's image; what it came to."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self.own = self.dropped = 0
        self._told = ""

    def __call__(self) -> bool:
        """Whether it could."""
        self.own, self.dropped, why = pages.trim(TRIM_SIGNAL)
        if why and why != self._told:
            self._told = why
            self._note(f"its memory is not trimmed: {why}")
        return not why
