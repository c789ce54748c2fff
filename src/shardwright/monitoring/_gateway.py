"""The gateway's own numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable

from shardwright.monitoring._families import Family, families
from shardwright.telemetry import Metrics, Series

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
UNMATCHED = "unmatched"
"""The route of requests that no route of the manifest takes."""


class GatewayMonitor:
    """Counts what the gateway does. ``routes`` are the patterns of the manifest: nothing else becomes a label.

    For one thread (the gateway's loop) at a time; ``monotonic_s`` tells the time.
    """

    def __init__(self, routes: Iterable[str], monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._metrics = Metrics()
        self._routes = frozenset(routes)
        self._monotonic_s = monotonic_s
        self._in_flight: Counter[str] = Counter(dict.fromkeys((*self._routes, UNMATCHED), 0))
        self._websockets: Counter[str] = Counter()
        self._series: dict[tuple[str, str, str], tuple[Series, Series]] = {}
        self.connections_open = 0
        self.queued: Counter[str] = Counter()  # admitted requests that wait, by component

    def __repr__(self) -> str:
        return f"<GatewayMonitor of {len(self._routes)} routes, {self._in_flight.total()} requests in flight>"

    def route(self, pattern: str | None) -> str:
        """The label of a request that this pattern took; None: no pattern did."""
        return pattern if pattern is not None and pattern in self._routes else UNMATCHED

    def request(self, pattern: str | None, method: str) -> RequestMeter:
        """A request begins; tell its meter how it ended."""
        route = self.route(pattern)
        self._in_flight[route] += 1
        return RequestMeter(self, route, method if method in METHODS else "other", self._monotonic_s())

    def _series_of(self, route: str, method: str, status: str) -> tuple[Series, Series]:
        """Where a request is counted, and where its time is entered. Kept: there are few, and each request asks."""
        known = self._series.get((route, method, status))
        if known is None:
            timed = (("method", method), ("route", route))
            known = self._series[route, method, status] = (
                ("shardwright_gateway_requests", (*timed, ("status", status))),
                ("shardwright_gateway_request_duration_seconds", timed),
            )
        return known

    def websocket(self, pattern: str | None) -> WebSocketMeter:
        """A WebSocket was accepted; tell its meter how it ended."""
        route = self.route(pattern)
        self._websockets[route] += 1
        return WebSocketMeter(self, route)

    def shed(self, component: str, reason: str) -> None:
        """A request was refused before it reached a shard. ``component`` and ``reason`` are words of ours."""
        self._metrics.count("shardwright_gateway_shed", component=component, reason=reason)

    def families(self, *, node_up: bool = True) -> tuple[Family, ...]:
        """The numbers as they are now."""
        now = Metrics()
        for route, count in self._in_flight.items():
            now.set("shardwright_gateway_requests_in_flight", count, route=route)
        for route, count in self._websockets.items():
            now.set("shardwright_gateway_websockets_open", count, route=route)
        for component, count in self.queued.items():
            now.set("shardwright_gateway_queued", count, component=component)
        now.set("shardwright_gateway_connections_open", self.connections_open)
        now.set("shardwright_gateway_node_up", int(node_up))
        return families(self._metrics, now)


class RequestMeter:
    """One request that is being answered."""

    __slots__ = ("_begun_s", "_method", "_monitor", "_over", "_route")

    def __init__(self, monitor: GatewayMonitor, route: str, method: str, begun_s: float) -> None:
        self._monitor = monitor
        self._route = route
        self._method = method
        self._begun_s = begun_s
        self._over = False

    def ended(self, status: int | None) -> None:
        """It was answered with ``status``; None when the client left before. Idempotent."""
        if self._over:
            return
        self._over = True
        monitor = self._monitor
        monitor._in_flight[self._route] -= 1
        shown = "gone" if status is None else str(status) if 100 <= status <= 599 else "invalid"
        counted, timed = monitor._series_of(self._route, self._method, shown)
        monitor._metrics.count_series(counted)
        monitor._metrics.observe_series(timed, monitor._monotonic_s() - self._begun_s)


class WebSocketMeter:
    """One open WebSocket."""

    __slots__ = ("_monitor", "_over", "_route")

    def __init__(self, monitor: GatewayMonitor, route: str) -> None:
        self._monitor = monitor
        self._route = route
        self._over = False

    def ended(self, code: int | None) -> None:
        """It was closed with ``code``; None when the connection broke. Idempotent."""
        if self._over:
            return
        self._over = True
        monitor = self._monitor
        monitor._websockets[self._route] -= 1
        # applications and clients choose among 3000 to 4999: one word for each of the two ranges
        if code is None:
            shown = "gone"
        elif 1000 <= code <= 1015:
            shown = str(code)
        else:
            shown = "registered" if 3000 <= code <= 3999 else "private" if 4000 <= code <= 4999 else "invalid"
        monitor._metrics.count("shardwright_gateway_websockets", route=self._route, code=shown)
