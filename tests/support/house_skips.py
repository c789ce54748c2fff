"""Which tests may be skipped in continuous integration, and why."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

__all__ = ["AllowedSkip", "allowed", "read_allowed_skips"]


@dataclass(frozen=True, slots=True)
class AllowedSkip:
    """One line ``nodeid-glob  # reason``."""

    pattern: str
    reason: str

    def covers(self, nodeid: str) -> bool:
        # A node id's own brackets (parameters) are not a character class.
        return nodeid == self.pattern or fnmatch.fnmatchcase(nodeid, self.pattern.replace("[", "[[]"))


def read_allowed_skips(path: Path) -> tuple[AllowedSkip, ...]:
    """Every line of ``path``, in order; ``ValueError`` for one without a reason."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pattern, mark, reason = line.partition("  #")
        if not mark or not reason.strip():
            raise ValueError(f"{path}:{number}: expected 'nodeid-glob  # reason', found {line!r}")
        found.append(AllowedSkip(pattern.strip(), reason.strip()))
    return tuple(found)


def allowed(nodeid: str, skips: tuple[AllowedSkip, ...]) -> bool:
    return any(skip.covers(nodeid) for skip in skips)
