"""Many streams over one stream of bytes, for sandboxes into which no descriptor can be handed: virtual machines."""

from shardwright.transport.bridge._bridge import Bridge
from shardwright.transport.bridge._transport import BRIDGED, BridgedTransport

__all__ = ["BRIDGED", "Bridge", "BridgedTransport"]
