"""Channels over Unix stream sockets: they work in every sandbox that a descriptor can be handed into."""

from shardwright.transport.socket._channel import SocketChannel
from shardwright.transport.socket._transport import SocketTransport

__all__ = ["SocketChannel", "SocketTransport"]
