"""What scrapers read: the format that they ask for, names by convention, labels that cannot grow."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from shardwright.errors import InternalError, ProtocolViolation
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.monitoring import (
    CATALOGUE,
    CallCounts,
    Family,
    GatewayMonitor,
    Kind,
    NodeMonitor,
    NodeNumbers,
    ShardNumbers,
    decode,
    encode,
    exposition,
    families,
)
from shardwright.monitoring._exposition import OPENMETRICS, PLAIN
from shardwright.telemetry import Metrics

WEB, AUTH = ComponentName("web"), ComponentName("auth")


def node_families() -> tuple[Family, ...]:
    monitor = NodeMonitor("arena", "0.1", (WEB, AUTH), 1000.0)
    monitor.recorded("launch", WEB, {})
    monitor.recorded("ready", WEB, {"start_s": 0.003})
    monitor.recorded("failure", AUTH, {})
    monitor.recorded("loss", WEB, {"cause": "out_of_memory"})
    monitor.composed("granted", 0.0004)
    monitor.leased(WEB, "warm")
    monitor.heard(ShardId("web-1"), WEB, CallCounts(5, 2, {"SW412": 1}, {"SW411": 2}, 1, 0))
    limits = Limits(
        Resources(cpu=0.5, memory_bytes=1 << 20, io_bytes_s=9, network_bits_s=7, gpu=0.5, gpu_memory_bytes=3),
        Resources(cpu=1.0, memory_bytes=2 << 20),
    )
    shard = ShardNumbers(ShardId("web-1"), WEB, "ready", True, limits, Usage(1.5, 4096, 3, 0.25))
    return monitor.families(
        NodeNumbers((shard,), 1, 0, True, True, Resources(cpu=2, memory_bytes=1 << 30), Resources(cpu=0.5))
    )


def gateway_families() -> tuple[Family, ...]:
    monitor = GatewayMonitor(["/api/items/{item}", "/"])
    monitor.request("/api/items/{item}", "GET").ended(200)
    monitor.request(None, "BREW").ended(404)
    monitor.websocket("/").ended(1000)
    monitor.shed("web", "deadline")
    monitor.queued["web"] += 1
    return monitor.families()


def values(text: str) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{k}={v}}}" for k, v in sorted(sample.labels.items())): sample.value
        for family in parse_plain(text)
        for sample in family.samples
    }


def test_the_format_is_the_one_that_was_asked_for() -> None:
    asked = {
        "": PLAIN,
        "*/*": PLAIN,
        "text/plain": PLAIN,
        "application/openmetrics-text;version=1.0.0,text/plain;q=0.5": OPENMETRICS,
        "application/openmetrics-text; version=rubbish": OPENMETRICS,
        "application/openmetrics-text;q=0.2, text/plain;q=0.9": PLAIN,
        "application/openmetrics-text;q=0": PLAIN,
        "application/openmetrics-text;q=high": PLAIN,
        ";;;,,=,\x00é": PLAIN,
    }
    found = node_families()
    assert {accept: exposition(found, accept=accept).content_type for accept in asked} == asked


def test_both_formats_parse_and_say_the_same() -> None:
    groups = node_families(), gateway_families()
    plain = list(parse_plain(exposition(*groups).body.decode()))
    strict = list(parse_openmetrics(exposition(*groups, accept="application/openmetrics-text").body.decode()))
    assert {(s.name, tuple(sorted(s.labels.items())), s.value) for family in plain for s in family.samples} == {
        (s.name, tuple(sorted(s.labels.items())), s.value) for family in strict for s in family.samples
    }
    assert {family.name for family in strict} == {family.name for group in groups for family in group}


def test_the_numbers_of_a_node() -> None:
    found = values(exposition(node_families()).body.decode())
    told = {
        "shardwright_shards{component=web}{status=ready}": 1,
        "shardwright_shards{component=auth}{status=ready}": 0,
        "shardwright_pool_shards{component=web}": 1,
        "shardwright_launches_total{component=web}": 1,
        "shardwright_launches_total{component=auth}": 0,
        "shardwright_start_failures_total{component=auth}": 1,
        "shardwright_exits_total{cause=out_of_memory}{component=web}": 1,
        "shardwright_exits_total{cause=stopped}{component=web}": 0,
        "shardwright_start_duration_seconds_count{component=web}": 1,
        "shardwright_start_duration_seconds_bucket{component=web}{le=0.0025}": 0,
        "shardwright_start_duration_seconds_bucket{component=web}{le=0.005}": 1,
        "shardwright_compositions_total{result=granted}": 1,
        "shardwright_leases_total{component=web}{source=warm}": 1,
        "shardwright_calls_received_total{component=web}": 5,
        "shardwright_calls_refused_total{code=SW412}{component=web}": 1,
        "shardwright_calls_failed_total{code=SW411}{component=web}": 2,
        "shardwright_cpu_guaranteed_cores{component=web}": 0.5,
        "shardwright_memory_ceiling_bytes{component=web}": 2 << 20,
        "shardwright_gpu_guaranteed_ratio{component=web}": 0.5,
        "shardwright_cpu_usage_seconds_total{component=web}": 1.5,
        "shardwright_memory_usage_bytes{component=web}": 4096,
        "shardwright_node_cpu_capacity_cores": 2,
        "shardwright_node_ready": 1,
        "shardwright_keeper_up": 1,
        "shardwright_sessions": 1,
    }
    assert {name: found.get(name) for name in told} == told


def test_names_keep_to_the_conventions() -> None:
    units = {"seconds", "bytes", "cores", "ratio", "bytes_per_second", "bits_per_second"}
    reserved = ("_total", "_count", "_sum", "_bucket", "_created")
    bad = []
    for instrument in CATALOGUE.values():
        name = instrument.name
        if not name.startswith("shardwright_") or name != name.lower() or "__" in name:
            bad.append(f"{name}: a prefix and snake case")
        if name.endswith(reserved):
            bad.append(f"{name}: the exposition adds that")
        if instrument.unit and (instrument.unit not in units or not name.endswith(f"_{instrument.unit}")):
            bad.append(f"{name}: ends in its base unit, {instrument.unit}")
        if any(name.endswith(f"_{short}") for short in ("ms", "us", "mib", "kb", "s", "percent")):
            bad.append(f"{name}: base units, written out")
        if instrument.kind is Kind.HISTOGRAM and instrument.unit != "seconds":
            bad.append(f"{name}: a histogram of what?")
        if any(kind in name.split("_") for kind in ("counter", "gauge", "histogram")):
            bad.append(f"{name}: names no kind")
        if not instrument.meaning.endswith("."):
            bad.append(f"{name}: says what it means")
        if set(instrument.labels) & {"session", "shard", "path", "user", "le", "quantile"}:
            bad.append(f"{name}: labels that are bounded")
    assert not bad


def test_every_line_of_the_text_belongs_to_a_family_that_is_described() -> None:
    text = exposition(node_families(), gateway_families()).body.decode()
    lines = text.splitlines()
    described = {line.split()[2] for line in lines if line.startswith("# HELP ")}
    typed = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE ")}
    assert described == typed.keys()
    for line in lines:
        if not line.startswith("#"):
            name = line.split("{")[0].split()[0]
            owner = next((n for n in (name, name.rpartition("_")[0]) if n in typed), None)
            assert owner is not None, line
            assert (typed[owner] == "counter") == name.endswith("_total"), line
    assert text.endswith("\n") and len(lines) == len(set(lines))


def test_a_family_that_two_have_is_told_once() -> None:
    found = node_families()
    assert exposition(found, found).body == exposition(found).body


def test_numbers_travel_as_plain_data() -> None:
    found = node_families()
    assert decode(encode(found)) == found
    for rubbish in (b"", b"\xc1", b"\x93\x01\x02\x03", encode(found)[:-3]):
        with pytest.raises(ProtocolViolation):
            decode(rubbish)


def test_what_the_catalogue_does_not_know_is_a_defect() -> None:
    for labels in ({}, {"component": "web", "path": "/x"}):
        metrics = Metrics()
        metrics.count("shardwright_launches", **labels)
        with pytest.raises(InternalError):
            families(metrics)
    with pytest.raises(InternalError):
        exposition((Family("shardwright_surprise", ()),))
    twice = Metrics()
    twice.set("shardwright_sessions", 1)
    with pytest.raises(InternalError):
        families(twice, twice)
