"""Quantities as text: what their patterns promise, their parsers keep."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from shardwright.model import units
from shardwright.model.units import BIT_RATE, BYTE_RATE, DURATION, MEMORY, QuantityKind

KINDS: list[tuple[QuantityKind, Callable[[str], float], dict[str, float]]] = [
    (MEMORY, units.parse_bytes, {"64MiB": 2**26, "1.5 GB": 1.5e9, "900": 900, " 7 B ": 7, "0": 0}),
    (DURATION, units.parse_seconds, {"20ms": 0.02, "0": 0, " 0 ": 0, "2m": 120, "1.5h": 5400, "3us": 3e-6}),
    (BYTE_RATE, units.parse_byte_rate, {"20MiB/s": 20 * 2**20, "1 kB /s": 1000, "5/s": 5}),
    (BIT_RATE, units.parse_bit_rate, {"10Mbit/s": 10**7, "1.5 Gbit/s ": 1.5e9}),
]
WRONG = [
    "",
    "x",
    "-1s",
    "1e3",
    "5",
    "0",
    "1.MiB",
    ".5s",
    "1mib",
    "1 sec",
    "1MiB/m",
    "1bit",
    "\u0664s",
    "1s\n2s",
    "1/s",
    "s",
]


@pytest.mark.parametrize(("kind", "parse", "texts"), KINDS)
def test_pattern_and_parser_agree(kind: QuantityKind, parse: Callable[[str], float], texts: dict[str, float]) -> None:
    for text, amount in texts.items():
        assert re.search(kind.pattern, text), text
        assert parse(text) == pytest.approx(amount)
    for text in WRONG:
        try:
            parse(text)
            fits = True
        except ValueError as error:
            fits = False
            assert kind.expected in str(error)
        assert bool(re.search(kind.pattern, text)) == fits, text


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (MEMORY, "64mib", "64MiB"),
        (MEMORY, "2 Gb", "2GB"),
        (DURATION, "5S", "5s"),
        (BYTE_RATE, "5MiB", "5MiB/s"),
        (BIT_RATE, "5MBit/s", "5Mbit/s"),
        (BIT_RATE, "5", ""),
        (MEMORY, "lots", ""),
    ],
)
def test_the_nearest_text(kind: QuantityKind, wrong: str, right: str) -> None:
    assert kind.nearest(wrong) == right


@pytest.mark.parametrize("text", ["9" * 400, "9" * 30 + "TiB", "8388608TiB"])
def test_amounts_beyond_64_bits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="too large"):
        units.parse_bytes(text)
