"""Counts the calls of each session."""

import os

_counts: dict[str, int] = {}


def bump(session: str) -> tuple[str, int]:
    _counts[session] = _counts.get(session, 0) + 1
    return str(os.getpid()), _counts[session]


def process() -> int:
    return os.getpid()
