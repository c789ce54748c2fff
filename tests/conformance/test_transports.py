"""Every transport keeps the one contract."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bridged import Bridged, Crossing
from shardwright.testing import transport_checks
from shardwright.transport.inproc import InprocTransport
from shardwright.transport.shm import available
from shardwright.transport.socket import SocketTransport

_TRANSPORTS = [(SocketTransport, True), (InprocTransport, False)]
if available():  # else tests/house/test_house_build.py tells why, where it could have been built
    from shardwright.transport.shm import RingTransport

    _TRANSPORTS.append((RingTransport, True))

_CASES = [
    pytest.param(factory, check, id=f"{factory.name}-{name}")
    for factory, crosses_processes in _TRANSPORTS
    for name, check in transport_checks(factory, crosses_processes=crosses_processes).items()
]


@pytest.mark.parametrize(("factory", "check"), _CASES)
def test_keeps_the_contract(factory, check):
    check(factory())


@pytest.fixture(scope="module")
def crossing() -> Iterator[Crossing]:
    """Two bridges, joined by what stands in for a virtual machine's vsock: a pair of Unix sockets."""
    ours, theirs = socket.socketpair()
    with Crossing((ours.detach(), theirs.detach())) as crossing:
        yield crossing


@pytest.mark.parametrize("check", transport_checks(Bridged))
def test_bridges_keep_the_contract(check, crossing):
    transport_checks(Bridged)[check](Bridged())


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "transport", [factory for factory, crosses in _TRANSPORTS if crosses], ids=lambda factory: factory.name
)
def test_a_thousand_deaths_lose_nothing(transport, record_exercised):
    transport_checks(transport, long=True)["peer_deaths"](transport())
    record_exercised(f"{transport.name} peers killed while they streamed", 1000)
