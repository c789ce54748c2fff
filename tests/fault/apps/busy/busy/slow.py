"""Naps, one at a time."""

import time

_napped: list[str] = []


def nap(seconds: float, name: str = "", load: bytes = b"") -> int:
    time.sleep(seconds)
    _napped.append(name)
    return len(load)


def napped() -> list[str]:
    return list(_napped)
