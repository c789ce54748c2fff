"""Counting: what shards say is bounded, never falls, and outlives them; what clients choose is no label."""

from __future__ import annotations

import math

from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.monitoring import UNMATCHED, CallCounts, Family, GatewayMonitor, NodeMonitor, NodeNumbers, ShardNumbers

WEB = ComponentName("web")
ONE, TWO = ShardId("web-1"), ShardId("web-2")


def node() -> NodeMonitor:
    return NodeMonitor("arena", "0.1", (WEB,), 0.0)


def told(monitor: NodeMonitor, *shards: ShardNumbers) -> dict[tuple[str, ...], float]:
    return flat(monitor.families(NodeNumbers(shards, 0, 0, True, None, Resources(), Resources())))


def flat(families: tuple[Family, ...]) -> dict[tuple[str, ...], float]:
    return {
        (family.name.removeprefix("shardwright_") + sample.suffix, *(value for _, value in sample.labels)): sample.value
        for family in families
        for sample in family.samples
    }


def shard(name: ShardId, usage: Usage | None = None) -> ShardNumbers:
    return ShardNumbers(name, WEB, "ready", False, Limits(), usage)


def test_calls_of_shards_add_up_and_outlive_them() -> None:
    monitor = node()
    monitor.heard(ONE, WEB, CallCounts(received=10, made=1))
    monitor.heard(TWO, WEB, CallCounts(received=5))
    monitor.heard(ONE, WEB, CallCounts(received=12, made=1))
    monitor.forget(ONE, 1.0)
    monitor.heard(ShardId("web-3"), WEB, CallCounts(received=1))
    found = told(monitor)
    assert found["calls_received_total", "web"] == 18
    assert found["calls_made_total", "web"] == 1


def test_a_shard_that_lies_spoils_nothing_but_its_own_numbers() -> None:
    monitor = node()
    monitor.heard(ONE, WEB, CallCounts(received=10, refused={"SW412": 4}, running=3))
    lie = CallCounts(-5, -(2**70), {"SW412": -1, "nonsense": 3, "x" * 500: 2}, {"\n": 2**80}, -9, 2**90, math.nan)
    monitor.heard(ONE, WEB, lie)
    found = told(monitor, shard(ONE))
    assert found["calls_received_total", "web"] == 10
    assert found["calls_made_total", "web"] == 0
    assert found["calls_refused_total", "SW412", "web"] == 4
    assert found["calls_refused_total", "other", "web"] == 3
    assert found["calls_failed_total", "other", "web"] == 2**53
    assert found["calls_running", "web"] == 0 and found["calls_queued", "web"] == 2**53
    codes = {labels[1] for labels in found if labels[0].startswith("calls_") and len(labels) == 3}
    assert codes == {"SW412", "other"}
    monitor.forget(ONE, 2.0)
    assert told(monitor).get(("cpu_usage_seconds_total", "web"), 0) == 0


def test_processor_time_is_counted_once_and_to_the_end() -> None:
    monitor = node()
    told(monitor, shard(ONE, Usage(1.0, 1)))
    found = told(monitor, shard(ONE, Usage(1.5, 1)), shard(TWO, Usage(0.25, 1)))
    assert found["cpu_usage_seconds_total", "web"] == 1.75
    monitor.heard(ONE, WEB, CallCounts(cpu_s=1.75))  # its last words
    monitor.forget(ONE, 60.0)
    assert told(monitor)["cpu_usage_seconds_total", "web"] == 2.0
    monitor.heard(TWO, WEB, CallCounts(cpu_s=1e9))
    monitor.forget(TWO, 3.0)  # it cannot have used more than it lived
    assert told(monitor)["cpu_usage_seconds_total", "web"] == 2.0 + 2.75


def test_what_clients_choose_is_no_label() -> None:
    monitor = GatewayMonitor(["/items/{item}"])
    for number in range(500):
        monitor.request(f"/items/{number}", f"METHOD{number}").ended(number)
        monitor.websocket(f"/{number}").ended(number * 10)
    found = flat(monitor.families())
    requests = [labels for labels in found if labels[0] == "gateway_requests_total"]
    assert {labels[2] for labels in requests} == {UNMATCHED} and {labels[1] for labels in requests} == {"other"}
    assert sum(found[labels] for labels in requests) == 500
    assert len({labels[1] for labels in found if labels[0] == "gateway_websockets_total"}) < 20


def test_a_meter_counts_once_and_what_is_in_flight_comes_down() -> None:
    now = [0.0]
    monitor = GatewayMonitor(["/"], lambda: now[0])
    meter = monitor.request("/", "GET")
    socket = monitor.websocket("/")
    found = flat(monitor.families())
    assert found["gateway_requests_in_flight", "/"] == 1 and found["gateway_websockets_open", "/"] == 1
    now[0] = 0.02
    for _ in range(2):
        meter.ended(None)
        socket.ended(4001)
    found = flat(monitor.families(node_up=False))
    assert found["gateway_requests_in_flight", "/"] == 0 and found["gateway_websockets_open", "/"] == 0
    assert found["gateway_requests_total", "GET", "/", "gone"] == 1
    assert found["gateway_websockets_total", "private", "/"] == 1
    assert found["gateway_request_duration_seconds_bucket", "GET", "/", "0.01"] == 0
    assert found["gateway_request_duration_seconds_bucket", "GET", "/", "0.025"] == 1
    assert found["gateway_node_up",] == 0
