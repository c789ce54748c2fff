"""Which transport joins two parts of a node, by what reaches into the sandboxes of both."""

from __future__ import annotations

import pytest

from shardwright.errors import NodeError
from shardwright.model.ids import ComponentName
from shardwright.node._wires import Wires
from shardwright.transport.bridge import BridgedTransport
from shardwright.transport.socket import SocketTransport

REACH = {
    "plain": ("shm", "socket"),
    "contained": ("socket",),
    "machine": ("vsock",),
    "emulated": ("virtio-serial",),
    "nowhere": (),
}
SOCKETS = SocketTransport()


def _wires(*transports: str) -> Wires:
    made = [SOCKETS if name == "socket" else BridgedTransport(name) for name in transports]
    return Wires(made, lambda component: REACH[component])


@pytest.mark.parametrize(
    ("components", "found"),
    [
        (("plain", "contained"), "socket"),
        (("plain", "machine"), "vsock"),
        (("machine", "contained"), "vsock"),
        (("machine",), "vsock"),
        (("machine", "machine"), "vsock"),
        (("emulated", "plain"), "virtio-serial"),
        (("plain", "plain"), "socket"),
    ],
)
def test_the_first_that_reaches_into_both(components: tuple[str, ...], found: str) -> None:
    names = [ComponentName(name) for name in components]
    transport = _wires("socket", "vsock", "virtio-serial").between(*names)
    assert transport.name == found
    wires = _wires("socket", "vsock", "virtio-serial")
    for endpoint in transport.pair():
        assert endpoint.transport == "socket", "shards on both sides go on speaking plain frames"
        wires.dispose(endpoint)


@pytest.mark.parametrize("components", [("machine", "emulated"), ("machine", "nowhere"), ("plain", "nowhere")])
def test_where_none_reaches_both_it_is_said_what_reaches_which(components: tuple[str, ...]) -> None:
    with pytest.raises(NodeError, match=f"no transport joins {' and '.join(components)}") as refused:
        _wires("socket", "vsock", "virtio-serial").between(*map(ComponentName, components))
    for name in components:
        assert f"{name}: {', '.join(REACH[name]) or 'none'}" in refused.value.remedy


def test_without_a_bridge_a_machine_is_joined_with_nobody() -> None:
    with pytest.raises(NodeError, match="no transport joins plain and machine"):
        _wires("socket").between(ComponentName("plain"), ComponentName("machine"))


def test_a_bridge_goes_over_what_is_known() -> None:
    with pytest.raises(ValueError, match="carrier pigeon"):
        BridgedTransport("carrier pigeon")
