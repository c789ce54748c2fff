"""The text that scrapers read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from msgspec import Struct

from shardwright.monitoring._families import Family

if TYPE_CHECKING:
    from prometheus_client import Metric

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


class Exposition(Struct, frozen=True):
    """A body and its content type."""

    body: bytes
    content_type: str


class _Collected:
    """A collector of what was collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def exposition(*groups: Iterable[Family], accept: str = "") -> Exposition:
    """All families as text: OpenMetrics 1.0 for a client whose Accept header names it, else Prometheus' own format.

    A family that several groups have is told by the first. Raises InternalError for one that the catalogue does not know.
    """
    # imported here: it takes a tenth of a second, which only those who ask for numbers should pay
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.exposition import generate_latest
    from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

    found: dict[str, Metric] = {}
    for group in groups:
        for family in group:
            instrument = family.instrument
            if family.name in found:
                continue
            metric = Metric(instrument.name, instrument.meaning, instrument.kind, instrument.unit)
            for sample in family.samples:
                metric.add_sample(instrument.name + sample.suffix, dict(sample.labels), sample.value)
            found[family.name] = metric
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(list(found.values())))
    if wants_openmetrics(accept):
        return Exposition(generate_openmetrics(registry), OPENMETRICS)  # type: ignore[no-untyped-call]
    return Exposition(generate_latest(registry), PLAIN)


def wants_openmetrics(accept: str) -> bool:
    """Whether the header prefers OpenMetrics to plain text. What cannot be read of it counts as not said."""
    best = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept[:4096].split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if kind not in best:
            continue
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        best[kind] = max(best[kind], weight)
    return best["application/openmetrics-text"] > 0 and best["application/openmetrics-text"] >= best["text/plain"]
