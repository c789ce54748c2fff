"""Finds and parses the source files of an application. Reads files; never imports them."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.machinery
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from shardwright._syntax import parsed
from shardwright.errors import PlanError

_MOST_PACKAGES = 50  # a root with more packages than that is a library folder: too much to look through for a hint
_EXTENSIONS = tuple(importlib.machinery.EXTENSION_SUFFIXES)


class SourceModule(Struct, frozen=True):
    """A parsed module. ``relative`` is its path below the import root, or absolute when it lies elsewhere."""

    name: str
    path: str
    relative: str
    is_package: bool
    text: str
    tree: ast.Module
    sha256: str

    @property
    def package(self) -> str:
        """The package that relative imports start from."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    def absolute(self, module: str | None, level: int) -> str:
        """The absolute name behind ``from <level dots><module> import``."""
        if level == 0:
            return module or ""
        base = self.package
        for _ in range(level - 1):
            base = base.rpartition(".")[0]
        return f"{base}.{module}" if module and base else (module or base)


class Place(Struct, frozen=True):
    """Where a module's source would be. ``path`` is empty for a namespace package, and for a module without source."""

    path: str
    is_package: bool
    folders: tuple[str, ...] = ()
    has_source: bool = True


class SourceTree:
    """The modules below an import root (and, for components that are installed packages, on ``search_path``)."""

    def __init__(self, root: str, search_path: tuple[str, ...] = ()) -> None:
        self.root = Path(root)
        self._search_path = search_path
        self._places: dict[str, Place | None] = {}
        self._modules: dict[str, SourceModule] = {}
        self._outside: set[str] = set()  # installed packages that are part of the application

    def __repr__(self) -> str:
        return f"<SourceTree {str(self.root)!r}: {len(self._modules)} modules>"

    @property
    def loaded(self) -> dict[str, SourceModule]:
        return self._modules

    def locate(self, name: str) -> Place | None:
        """Where the module is, or ``None`` when it is not part of the application."""
        if name not in self._places:
            self._places[name] = self._locate(name)
        return self._places[name]

    def _locate(self, name: str) -> Place | None:
        parent, _, last = name.rpartition(".")
        if not last.isidentifier():
            return None
        if not parent:
            place = _in_folders((str(self.root),), last)
            if place is None and name in self._outside:
                place = _in_folders(self._search_path, last)
            return place
        above = self.locate(parent)
        return _in_folders(above.folders, last) if above is not None and above.is_package else None

    def adopt(self, name: str) -> Place | None:
        """Like `locate`; an installed package that is not below the root becomes part of the application."""
        place = self.locate(name)
        top = name.partition(".")[0]
        if place is None and self.locate(top) is None:
            self._outside.add(top)
            self._places = {key: found for key, found in self._places.items() if key.partition(".")[0] != top}
            place = self.locate(name)
        return place

    def load(self, name: str) -> SourceModule | None:
        """The parsed module; ``None`` when it is not of the application or has no source. PlanError: bad syntax."""
        module = self._modules.get(name)
        if module is not None:
            return module
        place = self.locate(name)
        if place is None or not place.path or not place.has_source:
            return None
        module = self._parse(name, place)
        self._modules[name] = module
        return module

    def _parse(self, name: str, place: Place) -> SourceModule:
        path = Path(place.path)
        relative = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise PlanError(f"{relative}: cannot be read: {error.strerror}", code="SW202") from error
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
            text = io.TextIOWrapper(io.BytesIO(raw), encoding, newline=None).read().removeprefix("\ufeff")
            tree = parsed(text, filename=relative)
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None) or 1
            what = getattr(error, "msg", None) or str(error)
            raise PlanError(
                f"{relative}:{line}: {what}",
                code="SW202",
                remedy="correct the syntax, or leave the file out of the application",
            ) from error
        digest = hashlib.sha256(raw).hexdigest()
        return SourceModule(name, str(path), relative, place.is_package, text, tree, digest)

    def beneath(self, name: str) -> Iterator[str]:
        """The names of all modules in a package, depth first, sorted; sub-folders without ``__init__`` are left out."""
        place = self.locate(name)
        if place is None or not place.is_package:
            return
        found: set[str] = set()
        for folder in place.folders:
            for item in Path(folder).iterdir():
                if item.is_dir():
                    if item.name.isidentifier() and (item / "__init__.py").is_file():
                        found.add(item.name)
                elif item.suffix == ".py" and item.stem.isidentifier() and item.stem != "__init__":
                    found.add(item.stem)
        for child in sorted(found):
            full = f"{name}.{child}"
            yield full
            yield from self.beneath(full)

    def nearest(self, name: str) -> str:
        """The existing module with the most similar name; empty when none is near."""
        names: set[str] = set()
        for item in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if (item.suffix == ".py" and item.stem.isidentifier()) or (
                item.is_dir() and item.name.isidentifier() and any(item.glob("*.py"))
            ):
                names.add(item.stem)
        for known in sorted(names)[:_MOST_PACKAGES]:
            names.update(self.beneath(known))
        last = name.rpartition(".")[2]
        same = sorted((known for known in names if known.rpartition(".")[2] == last), key=len)
        return same[0] if same else nearest(name, names)


def nearest(name: str, candidates: set[str] | list[str] | tuple[str, ...]) -> str:
    """The most similar candidate, or the empty string."""
    close = difflib.get_close_matches(name, sorted(candidates), 1, 0.6)
    if close:
        return close[0]
    folded = {candidate.lower(): candidate for candidate in sorted(candidates)}
    close = difflib.get_close_matches(name.lower(), list(folded), 1, 0.5)
    return folded[close[0]] if close else ""


def _in_folders(folders: tuple[str, ...], last: str) -> Place | None:
    namespace: list[str] = []
    for folder in folders:
        base = Path(folder)
        package = base / last
        if (package / "__init__.py").is_file():
            return Place(str(package / "__init__.py"), True, (str(package),))
        if (base / f"{last}.py").is_file():
            return Place(str(base / f"{last}.py"), False)
        if any((base / f"{last}{suffix}").is_file() for suffix in (*_EXTENSIONS, ".pyc")):
            return Place("", False, (), has_source=False)
        if package.is_dir() and not last.startswith("__"):
            namespace.append(str(package))
    return Place("", True, tuple(namespace)) if namespace else None
