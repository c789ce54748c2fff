"""The hub of a process, as its channels need it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardwright.contracts.transport import Transport
from shardwright.guest._hub import Hub
from shardwright.transport import shm

if TYPE_CHECKING or shm.available():  # what it needs is there only where the extension is
    from shardwright.guest._ring_hub import RingHub

RINGS = "shm"


def make_hub(name: str, *, rings: bool) -> Hub | RingHub:
    """A hub; one for rings if they are wanted, and this process can have them."""
    if rings and shm.available():
        try:
            return RingHub(name)
        except OSError:  # then each ring is read by a descriptor of its own
            pass
    return Hub(name)


def transport_of(hub: Hub | RingHub) -> Transport | None:
    """What opens rings so that this hub reads them; None where there can be none."""
    own: Transport | None = getattr(hub, "transport", None)
    if own is not None:
        return own
    return shm.RingTransport() if shm.available() else None
