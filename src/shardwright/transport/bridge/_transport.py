"""BridgedTransport: channels one end of which lies in a virtual machine.

Both ends are endpoints of ``socket``: the node hands them out as any others, and for the one that goes inside, the bridge at
the sandbox's wall takes its place (``_bridge``). So shards know nothing of it. The name says what carries the bytes between.
"""

from __future__ import annotations

from shardwright.contracts.transport import Transport
from shardwright.model.endpoint import Endpoint
from shardwright.transport.socket import SocketChannel, SocketTransport
from shardwright.transport.socket._transport import DEFAULT_MAX_MESSAGE_BYTES

BRIDGED = ("vsock", "virtio-serial")


class BridgedTransport(Transport):
    """``name`` is one of ``BRIDGED``. Raises ValueError for another. ``max_message_bytes`` as of ``socket``."""

    beneath = SocketTransport.name
    """What its ends are, on this side of a wall."""

    def __init__(self, name: str, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES) -> None:
        if name not in BRIDGED:
            raise ValueError(f"bridges go over {' or '.join(BRIDGED)}, not {name!r}")
        self.name = name
        self._sockets = SocketTransport(max_message_bytes=max_message_bytes)

    def __repr__(self) -> str:
        return f"BridgedTransport({self.name!r})"

    @property
    def max_message_bytes(self) -> int:
        return self._sockets.max_message_bytes

    def pair(self) -> tuple[Endpoint, Endpoint]:
        return self._sockets.pair()

    def open(self, endpoint: Endpoint) -> SocketChannel:
        return self._sockets.open(endpoint)

    def dispose(self, endpoint: Endpoint) -> None:
        self._sockets.dispose(endpoint)
