"""Which shared libraries of the system a program and its extensions need (ELF, System V ABI: DT_NEEDED and PT_INTERP)."""

from __future__ import annotations

import os
import platform
import struct
from collections.abc import Iterable

_FOLDERS = (
    *(f"/{top}/{platform.machine()}-linux-gnu" for top in ("lib", "usr/lib", "usr/local/lib")),
    *("/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"),
)
_ALSO = ("libgcc_s.so.1", "libnss_dns.so.2", "libnss_files.so.2")  # opened by name, when they are wanted
_INTERPRETER, _LOAD, _DYNAMIC = 3, 1, 2
_NEEDED, _STRINGS, _PATH, _LATER_PATH = 1, 5, 15, 29


def needed(files: Iterable[str]) -> tuple[str, ...]:
    """Paths, as the loader finds them, of all libraries that these files need, and that are none of them."""
    given = tuple(files)
    found: dict[str, None] = {}
    todo = [*given, *(path for name in _ALSO if (path := _library(name)))]
    seen: set[str] = set()
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        found[path] = None
        interpreter, names, folders = _read(path)
        todo += [interpreter] if interpreter else []
        todo += [library for name in names if (library := _library(name, folders))]
    for path in given:
        found.pop(path, None)
    return tuple(found)


def _library(name: str, folders: Iterable[str] = ()) -> str:
    return next(
        (path for folder in (*folders, *_FOLDERS) if os.path.exists(path := os.path.normpath(f"{folder}/{name}"))), ""
    )


def _read(path: str) -> tuple[str, list[str], list[str]]:
    """Of a 64-bit little-endian file its loader, the libraries it names, where it has them looked for; nothing of any other."""
    try:
        with open(path, "rb") as file:
            head = file.read(64)
            if head[:6] != b"\x7fELF\x02\x01":
                return "", [], []
            offset, size, count = struct.unpack_from("<32xQ14xHH", head)
            file.seek(offset)
            headers: list[tuple[int, ...]] = [struct.unpack("<IIQQQQQQ", file.read(size)[:56]) for _ in range(count)]

            def at(address: int) -> int:
                """Where in the file that address of memory is loaded from."""
                return next(h[2] + address - h[3] for h in headers if h[0] == _LOAD and h[3] <= address < h[3] + h[5])

            def piece(where: int, length: int) -> bytes:
                file.seek(where)
                return file.read(length)

            interpreter = next((piece(h[2], h[5]).rstrip(b"\0").decode() for h in headers if h[0] == _INTERPRETER), "")
            dynamic = next((piece(h[2], h[5]) for h in headers if h[0] == _DYNAMIC), b"")
            entries = list(struct.iter_unpack("<QQ", dynamic[: len(dynamic) // 16 * 16]))
            strings = next((at(value) for tag, value in entries if tag == _STRINGS), 0)

            def texts(*tags: int) -> list[str]:
                return [piece(strings + value, 512).split(b"\0")[0].decode() for tag, value in entries if tag in tags]

            here = os.path.dirname(os.path.realpath(path))
            folders = [
                each.replace("${ORIGIN}", here).replace("$ORIGIN", here)
                for text in texts(_PATH, _LATER_PATH)
                for each in text.split(":")
                if each
            ]
            return interpreter, texts(_NEEDED), folders
    except (OSError, struct.error, StopIteration, UnicodeDecodeError):
        return "", [], []
