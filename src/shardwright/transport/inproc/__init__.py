"""Channels inside one process, with the copying semantics of the others: for development and tests, on any system."""

from shardwright.transport.inproc._channel import InprocChannel
from shardwright.transport.inproc._transport import InprocTransport

__all__ = ["InprocChannel", "InprocTransport"]
