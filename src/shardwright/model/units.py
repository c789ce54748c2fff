"""Quantities as the manifest writes them, and as messages print them.

Everything is held in base units: bytes, seconds, bytes per second, bits per second, cores.
"""

from __future__ import annotations

import re

_BYTES = {
    "": 1, "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_BITS = {"bit": 1, "kbit": 10**3, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def _split(text: str, units: dict[str, int] | dict[str, float], expected: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"expected {expected}, got {text!r}")
    return float(match[1]) * units[match[2]]


def parse_bytes(text: str) -> int:
    """``"64MiB"`` -> 67108864. Raises ValueError that says what was expected."""
    return round(_split(text, _BYTES, 'an amount of memory such as "64MiB" or "2GB"'))


def parse_seconds(text: str) -> float:
    """``"20ms"`` -> 0.02. Raises ValueError that says what was expected."""
    if text.strip() == "0":
        return 0.0
    return _split(text, _SECONDS, 'a duration such as "20ms", "5s" or "2m"')


def parse_byte_rate(text: str) -> int:
    """``"20MiB/s"`` -> bytes per second."""
    expected = 'a rate such as "20MiB/s"'
    if not text.strip().endswith("/s"):
        raise ValueError(f"expected {expected}, got {text!r}")
    return round(_split(text.strip()[:-2], _BYTES, expected))


def parse_bit_rate(text: str) -> int:
    """``"10Mbit/s"`` -> bits per second."""
    expected = 'a rate such as "10Mbit/s"'
    if not text.strip().endswith("/s"):
        raise ValueError(f"expected {expected}, got {text!r}")
    return round(_split(text.strip()[:-2], _BITS, expected))


def format_bytes(amount: float) -> str:
    """The shortest honest text: ``64MiB``, ``1.5GiB``, ``900B``."""
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(amount) >= size:
            return f"{amount / size:.4g}{unit}"
    return f"{amount:.0f}B"


def format_seconds(amount_s: float) -> str:
    """``1.2s``, ``20ms``, ``7us``."""
    if amount_s >= 1 or amount_s == 0:
        return f"{amount_s:.3g}s"
    if amount_s >= 1e-3:
        return f"{amount_s * 1e3:.3g}ms"
    return f"{amount_s * 1e6:.3g}us"
