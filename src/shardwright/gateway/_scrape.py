"""What ``/metrics`` and ``/_shardwright/ready`` answer: the node's numbers and state, asked for, with the gateway's own."""

from __future__ import annotations

import asyncio

from shardwright.errors import ShardwrightError
from shardwright.gateway._backend import Backend, NodeView
from shardwright.monitoring import Exposition, GatewayMonitor, exposition

GONE = NodeView(False, False, ("the node does not answer",))


class Scrape:
    """Asks the node; a node that does not answer hides none of the gateway's own numbers."""

    def __init__(self, backend: Backend, monitor: GatewayMonitor) -> None:
        self._backend = backend
        self._monitor = monitor

    async def metrics(self, accept: str = "") -> Exposition:
        """All numbers, in the format that the Accept header asks for."""
        try:
            node = await self._backend.node(numbers=True)
        except ShardwrightError:
            node = GONE
        mine = self._monitor.families(node_up=node is not GONE)
        # a thread: the library is read at its first use, and the loop serves others
        return await asyncio.to_thread(lambda: exposition(node.families, mine, accept=accept))

    async def readiness(self) -> tuple[bool, tuple[str, ...]]:
        """Whether requests can be served, and what lacks."""
        try:
            node = await self._backend.node()
        except ShardwrightError:
            node = GONE
        return node.ready, node.reasons
