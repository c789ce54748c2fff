"""What the front permits one request, as the manifest says it, and what follows from it."""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.manifest import Gateway

__all__ = ["Limits"]


class Limits(Struct, frozen=True):
    """Sizes in bytes, times in seconds. Those without a key in the manifest have one value for all."""

    head_bytes: int = 64 * 2**10
    body_bytes: int = 64 * 2**20
    head_timeout_s: float = 10.0
    body_timeout_s: float = 30.0
    idle_timeout_s: float = 75.0
    call_timeout_s: float = 30.0
    connections: int = 16384
    drain_s: float = 10.0
    target_bytes: int = 16 * 2**10  # of path and query together
    fields: int = 512  # headers of one request
    query_fields: int = 1000
    pipelined: int = 64  # requests of one connection that wait for an answer
    streams: int = 128  # requests of one HTTP/2 connection at once
    message_bytes: int = 16 * 2**20  # of a WebSocket

    @classmethod
    def of(cls, gateway: Gateway) -> Limits:
        """The limits that the manifest sets."""
        return cls(
            head_bytes=gateway.max_header_bytes,
            body_bytes=gateway.max_body_bytes,
            head_timeout_s=gateway.header_timeout_s,
            body_timeout_s=gateway.body_timeout_s,
            idle_timeout_s=gateway.idle_timeout_s,
            call_timeout_s=gateway.call_timeout_s,
            connections=gateway.max_connections,
            drain_s=gateway.drain_s,
            target_bytes=min(16 * 2**10, gateway.max_header_bytes // 4),
        )
