"""The way in from outside: HTTP and WebSocket requests become calls of shards. A shard of its own, least privileged."""

from shardwright.gateway._backend import (
    OWN_SESSION,
    Backend,
    Exchange,
    GatewaySettings,
    NodeView,
    Raised,
    RouteTarget,
    SessionRefused,
)
from shardwright.gateway._thread import GatewayThread

__all__ = [
    "OWN_SESSION",
    "Backend",
    "Exchange",
    "GatewaySettings",
    "GatewayThread",
    "NodeView",
    "Raised",
    "RouteTarget",
    "SessionRefused",
]
