"""Problems: collected one by one, rendered together, raised once."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from shardwright.errors import ManifestError
from shardwright.manifest._places import KeyPath

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file; ``order`` sorts files (the manifest before its overlay). Line 0 means the file as a whole."""

    order: int
    file: str
    line: int
    raw: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(Struct, frozen=True):
    """``place: key: what; expected ...; did you mean 'nearest'?``."""

    place: Place
    path: KeyPath
    what: str
    expected: str = ""
    nearest: str = ""

    def __str__(self) -> str:
        key = f"{render_path(self.path)}: " if self.path else ""
        expected = f"; expected {self.expected}" if self.expected else ""
        nearest = f"; did you mean '{self.nearest}'?" if self.nearest else ""
        return f"{self.place}: {key}{self.what}{expected}{nearest}"


class Report:
    """Collects problems. It also knows which keys are already faulty, so that one mistake is told once."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._faulty: set[KeyPath] = set()
        self._around: set[KeyPath] = set()  # every faulty key and every table around one

    def add(self, problem: Problem) -> None:
        self._problems.append(problem)
        if problem.path:
            self._faulty.add(problem.path)
            self._around.update(problem.path[:length] for length in range(1, len(problem.path) + 1))

    def faulty(self, *paths: KeyPath) -> bool:
        """Whether a problem was found at, inside or around one of these keys."""
        return any(
            path in self._around or any(path[:length] in self._faulty for length in range(1, len(path)))
            for path in paths
        )

    def raise_if_any(self, manifest: str) -> None:
        """Raise one ManifestError with every problem in file order; do nothing when there is none."""
        if not self._problems:
            return
        ordered = sorted(self._problems, key=lambda problem: problem.place)  # stable: found order within a line
        count = "1 problem" if len(ordered) == 1 else f"{len(ordered)} problems"
        raise ManifestError(
            f"the manifest {manifest} cannot be used: {count}",
            problems=tuple(dict.fromkeys(str(problem) for problem in ordered)),
        )


def render_path(path: KeyPath) -> str:
    """``("routes", 0, "path")`` as ``routes[0].path``; keys that are not bare are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            bare = part if _BARE_KEY.fullmatch(part) else json.dumps(part, ensure_ascii=False)
            text += f".{bare}" if text else bare
    return text


def nearest(wrong: str, valid: Iterable[str]) -> str:
    """The valid name that looks most like the wrong one; empty when none is near."""
    names = {name.casefold(): name for name in valid}
    near = difflib.get_close_matches(wrong[:200].casefold(), names, n=1, cutoff=0.6)
    return names[near[0]] if near else ""


def one_of(names: Iterable[str]) -> str:
    """``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
