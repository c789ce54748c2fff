"""The manifest as files: read, parsed, overlaid, filled from the environment; every value with its place."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from msgspec import Struct

from shardwright.manifest._places import KeyPath, check_keys, scan
from shardwright.manifest._report import Place, Problem, Report, nearest

FILE_NAME = "shardwright.toml"
VARIABLE = r"\$\{[A-Za-z_][A-Za-z0-9_]*\}"
_LARGEST_BYTES = 2**20
MOST_PARTS = 100  # of a dotted key, and tables and arrays within each other
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}\n]*)(\})?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_AT_LINE = re.compile(r"\s*\(at line (\d+), column (\d+)\)")
_NOWHERE = Place(0, "", 0)


class Filled(str):
    """A string that came partly from the environment. Messages show ``template``: the value may be a secret."""

    __slots__ = ("template",)
    template: str


class Document(Struct, frozen=True):
    """A tree of plain TOML values and the place of every key in it."""

    tree: dict[str, Any]
    places: dict[KeyPath, Place]

    def place(self, path: KeyPath) -> Place:
        """Where that key was written, or the nearest enclosing one."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, _NOWHERE)

    def value(self, path: KeyPath) -> object:
        """The value of that key; None when it was not written."""
        value: Any = self.tree
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int):
                value = value[part] if part < len(value) else None
            else:
                return None
        return value

    def overlaid(self, top: Document) -> Document:
        """Tables merged deeply; everything else, arrays of tables too, replaced by what ``top`` says."""
        places = dict(self.places)
        tree = _merge(self.tree, top.tree, (), places, top.places)
        return Document(tree, places)


def _merge(
    base: dict[str, Any],
    top: dict[str, Any],
    path: KeyPath,
    places: dict[KeyPath, Place],
    top_places: dict[KeyPath, Place],
) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        here = (*path, key)
        mine = base.get(key)
        if isinstance(mine, dict) and isinstance(value, dict):
            merged[key] = _merge(mine, value, here, places, top_places)
            continue
        merged[key] = value
        for old in [old for old in places if old[: len(here)] == here]:
            del places[old]
        places.update((new, place) for new, place in top_places.items() if new[: len(here)] == here)
    return merged


def find(path: str | Path, profile: str | None, report: Report) -> list[Path]:
    """The files of a manifest: itself, and the overlay of the profile. ``path`` is its folder or the file."""
    file = Path(path)
    if _is_folder(file):
        file = file / FILE_NAME
    if profile is None:
        return [file]
    if not _PROFILE.fullmatch(profile):
        whole = Place(1, str(file), 0)
        report.add(Problem(whole, (), f"profile {profile!r} is no name", "letters, digits, '-' and '_'"))
        return [file]
    return [file, file.with_name(f"{file.stem}.{profile}.toml")]


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # answers False, where Path raises, to a path it may not look at


def read(file: Path, order: int, report: Report) -> Document | None:
    """The document in one file; None, with the problems reported, when it cannot be read or parsed."""
    text = _read_text(file, order, report)
    if text is None:
        return None
    try:
        check_keys(text, MOST_PARTS)
        tree = tomllib.loads(text)
        if _deeper(tree, MOST_PARTS):
            raise RecursionError
        spots = scan(text)
    except tomllib.TOMLDecodeError as error:
        report.add(_syntax_problem(str(error), file, order, text))
        return None
    except (RecursionError, ValueError) as error:
        # ValueError: a decimal number of more digits than Python converts
        what = "nested too deeply" if isinstance(error, RecursionError) else f"malformed TOML: {error}"
        report.add(Problem(Place(order, str(file), 0), (), what))
        return None
    places = {path: Place(order, str(file), spot.line, spot.raw) for path, spot in spots.items()}
    return Document(tree, places)


def _deeper(tree: object, most: int) -> bool:
    """Whether more than ``most`` tables and arrays lie within each other there."""
    layer = [tree]
    for _ in range(most + 1):
        inner = (
            value
            for each in layer
            for value in (each.values() if isinstance(each, dict) else cast("list[object]", each))
        )
        layer = [value for value in inner if isinstance(value, (dict, list))]
        if not layer:
            return False
    return True


def _read_text(file: Path, order: int, report: Report) -> str | None:
    def give_up(what: str, expected: str = "", line: int = 0, near: str = "") -> None:
        report.add(Problem(Place(order, str(file), line), (), what, expected, near))

    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            give_up("not a regular file", f"a folder with a {FILE_NAME}, or such a file")
            return None
        if status.st_size > _LARGEST_BYTES:
            give_up(f"{status.st_size} bytes are too many", f"at most {_LARGEST_BYTES}")
            return None
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if order:
            siblings = (sibling.name for sibling in file.parent.glob("*.*.toml"))
            give_up("no such file", "the overlay of the profile that was asked for", near=nearest(file.name, siblings))
        elif file.name == FILE_NAME and _is_folder(file.parent):
            give_up("no such file", f"a manifest; `shardwright init {file.parent}` writes one")
        else:
            give_up("no such file or folder", f"a folder with a {FILE_NAME}, or such a file")
        return None
    except OSError as error:
        give_up(f"cannot be read: {error.strerror or error}", "a readable file")
        return None
    except ValueError as error:  # a NUL in the path
        give_up(f"cannot be read: {error}", "a path")
        return None
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        give_up(f"not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}", "text in UTF-8", line)
        return None


def _syntax_problem(message: str, file: Path, order: int, text: str) -> Problem:
    """``tomllib`` puts the place at the end of its message, as "(at line 3, column 7)" or "(at end of document)"."""
    match = _AT_LINE.search(message)
    if match is None:
        line, what = text.count("\n") + (not text.endswith("\n")), message
    else:
        line, what = int(match[1]), f"{message[: match.start()]} at column {match[2]}"
    return Problem(Place(order, str(file), max(line, 1)), (), f"malformed TOML: {what}")


def fill(document: Document, environment: Mapping[str, str], report: Report) -> Document:
    """``${NAME}`` in string values replaced from the environment; ``$${`` stands for ``${``."""

    def visit(value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: visit(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [visit(inner, (*path, index)) for index, inner in enumerate(value)]
        if isinstance(value, str) and "${" in value:
            return _fill_text(value, path, document.place(path), environment, report)
        return value

    return Document(visit(document.tree, ()), document.places)


def _fill_text(text: str, path: KeyPath, place: Place, environment: Mapping[str, str], report: Report) -> str:
    replaced = False

    def replace(match: re.Match[str]) -> str:
        nonlocal replaced
        if match[0] == "$${":
            return "${"
        where = Place(place.order, place.file, place.line + _lines_before(match[0], place.raw))
        if match[2] is None or not _NAME.fullmatch(match[1]):
            report.add(Problem(where, path, f"{match[0]!r} is no variable", "${NAME}, or $${ for a plain ${"))
        elif match[1] not in environment:
            expected = f"{match[1]} in the environment, or $${{ for a plain ${{"
            report.add(Problem(where, path, f"the environment has no variable {match[1]}", expected))
        else:
            replaced = True
            return environment[match[1]]
        return match[0]

    result = _REFERENCE.sub(replace, text)
    if not replaced:
        return result
    filled = Filled(result)
    filled.template = text
    return filled


def _lines_before(reference: str, raw: str) -> int:
    """Lines between the beginning of a string as written and its first use of this reference."""
    for match in _REFERENCE.finditer(raw):
        if match[0] == reference:
            return raw.count("\n", 0, match.start())
    return 0
