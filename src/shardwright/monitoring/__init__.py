"""What a node and its gateway tell of themselves in numbers, and the text that scrapers read."""

from shardwright.monitoring._catalogue import CATALOGUE, Instrument, Kind
from shardwright.monitoring._exposition import Exposition, exposition
from shardwright.monitoring._families import Family, Sample, decode, encode, families
from shardwright.monitoring._gateway import UNMATCHED, GatewayMonitor, RequestMeter, WebSocketMeter
from shardwright.monitoring._histories import Histories, History, keep_json, kept_json
from shardwright.monitoring._node import CallCounts, NodeMonitor, NodeNumbers, ShardNumbers
from shardwright.monitoring._observed import BUSY, Observed, Observer, Stalls, pressure

__all__ = [
    "BUSY",
    "CATALOGUE",
    "UNMATCHED",
    "CallCounts",
    "Exposition",
    "Family",
    "GatewayMonitor",
    "Histories",
    "History",
    "Instrument",
    "Kind",
    "NodeMonitor",
    "NodeNumbers",
    "Observed",
    "Observer",
    "RequestMeter",
    "Sample",
    "ShardNumbers",
    "Stalls",
    "WebSocketMeter",
    "decode",
    "encode",
    "exposition",
    "families",
    "keep_json",
    "kept_json",
    "pressure",
]
