"""Counts the calls of each session, one ledger for each name."""

import os

_counts: dict[tuple[str, str], int] = {}


def bump(name: str, session: str) -> tuple[str, int]:
    _counts[name, session] = _counts.get((name, session), 0) + 1
    return str(os.getpid()), _counts[name, session]
