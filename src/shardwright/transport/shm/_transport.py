"""RingTransport: pairs of rings in shared memory, one descriptor per endpoint."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from shardwright.contracts.transport import Transport
from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport.shm import _ring
from shardwright.transport.shm._channel import RingChannel

DEFAULT_MAX_MESSAGE_BYTES = 64 * 2**20
DEFAULT_CAPACITY_BYTES = 64 * 2**10
_LARGEST_MESSAGE_BYTES = 2**32 - 65


class RingTransport(Transport):
    """Makes channels over shared memory, each with two rings of ``capacity_bytes`` (a power of two).

    ``max_message_bytes`` bounds what ``send`` accepts and what ``take`` believes. With ``doorbell`` every channel that
    ``open`` makes rings there, see ``shm._channel``; without, each has its own. An endpoint is one socket that keeps its
    part of the memory until it is opened. To ``pair`` needs no doorbell and may be another process's work.
    """

    name = "shm"

    def __init__(
        self,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
        doorbell: _ring.Doorbell[Any] | None = None,
    ) -> None:
        if not 0 <= max_message_bytes <= _LARGEST_MESSAGE_BYTES:
            raise ValueError(f"max_message_bytes must be from 0 to 2**32 - 65, got {max_message_bytes}")
        if not _ring.MIN_CAPACITY <= capacity_bytes <= _ring.MAX_CAPACITY or capacity_bytes & (capacity_bytes - 1):
            raise ValueError(f"capacity_bytes must be a power of two from {_ring.MIN_CAPACITY} to {_ring.MAX_CAPACITY}")
        self.max_message_bytes = max_message_bytes
        self.capacity_bytes = capacity_bytes
        self.doorbell = doorbell

    def __repr__(self) -> str:
        shared = ", doorbell=..." if self.doorbell is not None else ""
        return (
            f"RingTransport(max_message_bytes={self.max_message_bytes}, capacity_bytes={self.capacity_bytes}{shared})"
        )

    def pair(self) -> tuple[Endpoint, Endpoint]:
        """Two connected endpoints of one close-on-exec descriptor each. Raises OSError when descriptors ran out."""
        first, second = _ring.create_pair(self.capacity_bytes)
        return Endpoint(self.name, (first,)), Endpoint(self.name, (second,))

    def open(self, endpoint: Endpoint) -> RingChannel:
        """The channel of an endpoint. Raises ChannelClosed when the descriptor is none, or the system refuses memory,
        descriptors or the thread that hears when peers die."""
        if endpoint.transport != self.name or len(endpoint.descriptors) != 1:
            self.dispose(endpoint)
            raise ChannelClosed(
                f"not an endpoint of the shm transport: {endpoint!r}",
                remedy="open each endpoint with the transport that it names",
            )
        (descriptor,) = endpoint.descriptors
        try:
            os.set_inheritable(descriptor, False)  # it may have come by SCM_RIGHTS or from a parent
        except OSError as error:
            raise ChannelClosed(f"descriptor {descriptor} cannot be opened as a channel: {error}") from None
        try:
            return RingChannel(descriptor, max_message_bytes=self.max_message_bytes, doorbell=self.doorbell)
        except (OSError, ValueError) as error:  # ValueError: the doorbell was closed
            raise ChannelClosed(f"descriptor {descriptor} cannot be opened as a channel: {error}") from None

    def dispose(self, endpoint: Endpoint) -> None:
        for descriptor in endpoint.descriptors:
            with contextlib.suppress(OSError):
                os.close(descriptor)
