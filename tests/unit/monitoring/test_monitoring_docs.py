"""What operators read says what there is."""

from __future__ import annotations

from pathlib import Path

from shardwright.monitoring import CATALOGUE

ROOT = Path(__file__).parents[3]


def test_every_number_is_documented_as_it_is() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `shardwright_")}
    told = {
        instrument.shown_name: f"| `{instrument.shown_name}` | {instrument.kind} | "
        f"{', '.join(f'`{label}`' for label in instrument.labels)} | {instrument.meaning} |"
        for instrument in CATALOGUE.values()
    }
    assert rows == told
