"""Numbers as plain data: what the node sends to the gateway, and what an exposition is made of."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from shardwright.errors import InternalError, ProtocolViolation
from shardwright.monitoring._catalogue import CATALOGUE, Instrument, Kind
from shardwright.telemetry import Metrics, Series

Labels = tuple[tuple[str, str], ...]


class Sample(Struct, frozen=True):
    """``suffix`` is what the sample's name has beyond its family's: ``_total``, ``_bucket``, ``_sum``, ``_count``."""

    suffix: str
    labels: Labels
    value: float


class Family(Struct, frozen=True):
    """All samples of one instrument of the catalogue."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def instrument(self) -> Instrument:
        """Raises InternalError for a name that the catalogue does not know."""
        try:
            return CATALOGUE[self.name]
        except KeyError:
            raise InternalError(f"no metric is named {self.name!r}") from None


def families(*sources: Metrics) -> tuple[Family, ...]:
    """The numbers of all ``sources``, by family, in the order of the catalogue.

    Raises InternalError where a series is not of the catalogue, has other labels, or comes from two sources.
    """
    samples: dict[str, list[Sample]] = {}
    seen: set[Series] = set()
    for source in sources:
        counted, spread = source.snapshot(), source.distributions()
        if again := seen & (counted.keys() | spread.keys()):
            raise InternalError(f"told twice: {sorted(again)[0]}")
        seen |= counted.keys() | spread.keys()
        for (name, labels), value in counted.items():
            instrument = _instrument(name, labels)
            suffix = "_total" if instrument.kind is Kind.COUNTER else ""
            samples.setdefault(name, []).append(Sample(suffix, labels, float(value)))
        for (name, labels), distribution in spread.items():
            _instrument(name, labels)
            mine = samples.setdefault(name, [])
            bounds = (*(f"{bound:g}" for bound in distribution.bounds), "+Inf")
            for bound, count in zip(bounds, distribution.counts, strict=True):
                mine.append(Sample("_bucket", (*labels, ("le", bound)), float(count)))
            mine.append(Sample("_count", labels, float(distribution.counts[-1])))
            mine.append(Sample("_sum", labels, distribution.total))
    return tuple(Family(name, tuple(samples[name])) for name in CATALOGUE if name in samples)


def _instrument(name: str, labels: Labels) -> Instrument:
    instrument = CATALOGUE.get(name)
    if instrument is None or tuple(sorted(instrument.labels)) != tuple(label for label, _ in labels):
        raise InternalError(f"no metric {name} has the labels {[label for label, _ in labels]}")
    return instrument


_decoder: msgspec.msgpack.Decoder[tuple[Family, ...]] = msgspec.msgpack.Decoder(tuple[Family, ...])


def encode(found: tuple[Family, ...]) -> bytes:
    """For the way from the node to the gateway."""
    return msgspec.msgpack.encode(found)


def decode(data: bytes) -> tuple[Family, ...]:
    """What ``encode`` made. Raises ProtocolViolation."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ProtocolViolation(f"these are no metrics: {error!s:.200}") from None
