"""Quantities as the manifest writes them, and as messages print them.

Everything is held in base units: bytes, seconds, bytes per second, bits per second, cores.
"""

from __future__ import annotations

import math
import re

from msgspec import Struct

_BYTES = {
    "": 1, "B": 1,
    "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip
_BITS = {"bit": 1, "kbit": 10**3, "Kbit": 10**3, "Mbit": 10**6, "Gbit": 10**9}
_SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_LARGEST = 2.0**63  # amounts travel as 64-bit integers


def _split(text: str, units: dict[str, int] | dict[str, float], expected: str) -> float:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        raise ValueError(f"expected {expected}, got {text!r}")
    amount = float(match[1]) * units[match[2]]
    if not math.isfinite(amount) or amount >= _LARGEST:
        raise ValueError(f"expected {expected}, got an amount that is too large")
    return amount


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


class QuantityKind(Struct, frozen=True):
    """A kind of quantity as text: what is expected, which units it knows, and the pattern that its texts match."""

    expected: str
    units: tuple[str, ...]
    suffix: str = ""

    @property
    def pattern(self) -> str:
        """A regular expression, for Python and JSON Schema alike, for the texts that the parser of this kind takes."""
        names = "|".join(unit for unit in self.units if unit)
        optional = "?" if "" in self.units else ""
        zero = "" if "" in self.units or self.suffix else r"|\s*0\s*"
        return rf"^(\s*[0-9]+(\.[0-9]+)?\s*({names}){optional}\s*{self.suffix}\s*{zero})$"

    def nearest(self, text: str) -> str:
        """The text with its unit corrected to the nearest one of this kind; empty when nothing is near."""
        match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*(/\s*[A-Za-z]*)?\s*", text)
        if match is None:
            return ""
        for unit in self.units:
            if unit == match[2]:
                return f"{match[1]}{unit}{self.suffix}"
        folded = {unit.casefold(): unit for unit in self.units if unit}
        import difflib  # of no use to a keeper until somebody errs

        near = difflib.get_close_matches(match[2].casefold(), folded, n=1, cutoff=0.6)
        return f"{match[1]}{folded[near[0]]}{self.suffix}" if near else ""


MEMORY = QuantityKind('an amount of memory such as "64MiB" or "2GB"', tuple(_BYTES))
DURATION = QuantityKind('a duration such as "20ms", "5s" or "2m"', tuple(_SECONDS))
BYTE_RATE = QuantityKind('a rate such as "20MiB/s"', tuple(_BYTES), "/s")
BIT_RATE = QuantityKind('a rate such as "10Mbit/s"', tuple(_BITS), "/s")


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
