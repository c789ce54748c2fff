"""Every number that Shardwright tells, in one list: its name, its kind, its labels and what it means.

Names follow the conventions of Prometheus: a prefix, base units (seconds, bytes, cores), ``_total`` for what only grows.
Labels are names of the manifest, codes and words of ours: never a path, a session, a shard or anything that a client or
a shard may choose, so that the number of series is bounded by the manifest.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Instrument(Struct, frozen=True):
    """One family of numbers. ``name`` is without ``_total``, which the exposition adds to counters."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def shown_name(self) -> str:
        """The name as queries spell it."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


def _counter(name: str, meaning: str, *labels: str, unit: str = "") -> Instrument:
    return Instrument(f"shardwright_{name}", Kind.COUNTER, meaning, labels, unit)


def _gauge(name: str, meaning: str, *labels: str, unit: str = "") -> Instrument:
    return Instrument(f"shardwright_{name}", Kind.GAUGE, meaning, labels, unit)


def _histogram(name: str, meaning: str, *labels: str) -> Instrument:
    return Instrument(f"shardwright_{name}", Kind.HISTOGRAM, meaning, labels, "seconds")


RESOURCES: tuple[tuple[str, str, str], ...] = (
    # field of Resources, middle of the name, unit
    ("cpu", "cpu", "cores"),
    ("memory_bytes", "memory", "bytes"),
    ("io_bytes_s", "io", "bytes_per_second"),
    ("network_bits_s", "network", "bits_per_second"),
    ("gpu", "gpu", "ratio"),
    ("gpu_memory_bytes", "gpu_memory", "bytes"),
)
"""How each resource is named and counted."""


def _of_resources() -> tuple[Instrument, ...]:
    found: list[Instrument] = []
    for _, name, unit in RESOURCES:
        words = name.replace("_", " ").replace("gpu", "GPU").replace("cpu", "CPU").replace("io", "I/O")
        found += [
            _gauge(
                f"{name}_guaranteed_{unit}", f"{words}: guarantees of the shards that exist.", "component", unit=unit
            ),
            _gauge(f"{name}_ceiling_{unit}", f"{words}: ceilings of the shards that exist.", "component", unit=unit),
            _gauge(f"node_{name}_capacity_{unit}", f"{words}: what may be guaranteed to shards.", unit=unit),
            _gauge(f"node_{name}_reserved_{unit}", f"{words}: guarantees of all shards that exist.", unit=unit),
        ]
    return tuple(found)


NODE: tuple[Instrument, ...] = (
    _gauge("node_info", "The node: its application, version and Python. Always 1.", "app", "version", "python"),
    _gauge("node_start_time_seconds", "When the node started, in seconds since the epoch.", unit="seconds"),
    _gauge("node_ready", "1 when every component that should have a ready shard has one."),
    _gauge("keeper_up", "1 while the keeper of the shards answers; absent where everything is in one process."),
    _gauge("shards", "Shards that exist, by what they are doing.", "component", "status"),
    _gauge("pool_shards", "Shards that are ready and serve nobody.", "component"),
    *_of_resources(),
    _counter("cpu_usage_seconds", "CPU time that shards took.", "component", unit="seconds"),
    _counter("cpu_throttled_seconds", "Time for which shards were held at their ceiling of CPU.", "component",
             unit="seconds"),
    _gauge("memory_usage_bytes", "Memory that shards take now.", "component", unit="bytes"),
    _gauge("threads", "Threads of shards now.", "component"),
    _gauge("sessions", "Sessions that live."),
    _counter("compositions", "Requests for shards, by how they ended: granted, refused, lost, cancelled.", "result"),
    _histogram("composition_duration_seconds", "From the request for shards to the whole composition.", "result"),
    _gauge("composition_queue_length", "Requests for shards that wait for room."),
    _counter("leases", "Shards leased: a ready one (warm), one that starts already (starting), a new one (cold).",
             "component", "source"),
    _counter("launches", "Shards that were to be started.", "component"),
    _counter("start_failures", "Shards that did not become ready.", "component"),
    _histogram("start_duration_seconds", "From the decision to launch a shard until it is ready.", "component"),
    _counter("exits", "Shards that ended: stopped, or lost by exit, signal, out_of_memory, unknown.", "component",
             "cause"),
    _counter("calls_received", "Calls that shards began to run.", "component"),
    _counter("calls_made", "Calls that shards sent to others.", "component"),
    _counter("calls_refused", "Calls that shards did not begin, by the code of the error.", "component", "code"),
    _counter("calls_failed", "Calls that ended in an error of Shardwright for the caller, by its code.", "component",
             "code"),
    _gauge("calls_running", "Calls that run or wait in shards now.", "component"),
    _gauge("calls_queued", "Calls that wait for their turn in shards now.", "component"),
    _counter("decisions", "Entries of the journal by kind.", "kind"),
)  # fmt: skip

GATEWAY: tuple[Instrument, ...] = (
    _counter("gateway_requests", "Requests answered, by the route's pattern and the status.", "route", "method",
             "status"),
    _histogram("gateway_request_duration_seconds", "From a request's headers to the end of its answer.", "route",
               "method"),
    _gauge("gateway_requests_in_flight", "Requests that are being answered now.", "route"),
    _counter("gateway_websockets", "WebSocket connections ended, by route and close code.", "route", "code"),
    _gauge("gateway_websockets_open", "WebSocket connections that are open now.", "route"),
    _counter("gateway_shed", "Requests that were refused before they reached a shard, by reason.", "component",
             "reason"),
    _gauge("gateway_queued", "Requests admitted that wait for their component now.", "component"),
    _gauge("gateway_connections_open", "Connections of clients that are open now."),
    _gauge("gateway_node_up", "1 when the node answered the gateway for this exposition."),
)  # fmt: skip

CATALOGUE: dict[str, Instrument] = {instrument.name: instrument for instrument in (*NODE, *GATEWAY)}
