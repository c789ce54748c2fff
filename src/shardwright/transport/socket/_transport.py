"""SocketTransport: pairs of connected Unix stream sockets, one descriptor per endpoint."""

from __future__ import annotations

import contextlib
import os

# Taken now: user code that replaces socket.socket later must not change our channels.
from socket import AF_UNIX, SO_DOMAIN, SO_TYPE, SOCK_STREAM, SOL_SOCKET, socket, socketpair

from shardwright.contracts.transport import Transport
from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport._lane import DescriptorLane, lane_pair
from shardwright.transport.socket._channel import SocketChannel

DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20


class SocketTransport(Transport):
    """Makes channels over ``socketpair(AF_UNIX, SOCK_STREAM)``.

    ``max_message_bytes`` bounds what ``send`` accepts and what ``receive`` believes (at most 2**32 - 1).
    With ``lanes``, endpoints have a second descriptor, and channels a lane for descriptors beside their messages (see
    ``transport._lane``); both sides must agree on it. Holds no state besides: safe to share between threads and across forks.
    """

    name = "socket"

    def __init__(self, *, max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES, lanes: bool = False) -> None:
        if not 0 <= max_message_bytes < 2**32:
            raise ValueError(f"max_message_bytes must be from 0 to 2**32 - 1, got {max_message_bytes}")
        self.max_message_bytes = max_message_bytes
        self.lanes = lanes

    def __repr__(self) -> str:
        return f"SocketTransport(max_message_bytes={self.max_message_bytes}{', lanes=True' if self.lanes else ''})"

    def pair(self) -> tuple[Endpoint, Endpoint]:
        """Two connected endpoints of one close-on-exec descriptor each. Raises OSError when descriptors ran out."""
        lanes: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
        if self.lanes:
            one, other = lane_pair()
            lanes = (one,), (other,)
        try:
            first, second = socketpair(AF_UNIX, SOCK_STREAM)
        except OSError:
            for lane in lanes:
                self.dispose(Endpoint(self.name, lane))
            raise
        return Endpoint(self.name, (first.detach(), *lanes[0])), Endpoint(self.name, (second.detach(), *lanes[1]))

    def open(self, endpoint: Endpoint) -> SocketChannel:
        """The channel of an endpoint. Raises ChannelClosed when the descriptor is no Unix stream socket."""
        if endpoint.transport != self.name or len(endpoint.descriptors) != 1 + self.lanes:
            self.dispose(endpoint)
            raise ChannelClosed(
                f"not an endpoint of the socket transport: {endpoint!r}",
                remedy="open each endpoint with the transport that it names",
            )
        descriptor, *beside = endpoint.descriptors
        try:
            for each in endpoint.descriptors:
                os.set_inheritable(each, False)  # it may have come by SCM_RIGHTS or from a parent
            connection = socket(fileno=descriptor)
        except (OSError, ValueError) as error:
            self.dispose(endpoint)
            raise ChannelClosed(f"descriptor {descriptor} cannot be opened as a channel: {error}") from None
        domain, kind = (connection.getsockopt(SOL_SOCKET, option) for option in (SO_DOMAIN, SO_TYPE))
        lane = None
        try:
            if (domain, kind) != (AF_UNIX, SOCK_STREAM):
                raise ChannelClosed(f"descriptor {descriptor} is not a Unix stream socket")
            if beside:
                lane = DescriptorLane(beside.pop())
        except (OSError, ChannelClosed) as error:
            connection.close()
            self.dispose(Endpoint(self.name, tuple(beside)))
            if isinstance(error, ChannelClosed):
                raise
            raise ChannelClosed(f"the lane of descriptor {descriptor} cannot be opened: {error}") from None
        return SocketChannel(connection, max_message_bytes=self.max_message_bytes, lane=lane)

    def dispose(self, endpoint: Endpoint) -> None:
        for descriptor in endpoint.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
