"""Addresses cross as themselves; what cannot cross says what helps, and nothing that does not."""

from __future__ import annotations

import collections
import ipaddress
from typing import Any

import pytest

from shardwright.errors import CannotCross
from shardwright.transport.codec import TaggedCodec

CODEC = TaggedCodec()
ADDRESSES = [
    ipaddress.ip_address("10.1.2.3"),
    ipaddress.ip_address("fe80::1%eth0"),
    ipaddress.ip_network("10.0.0.0/8"),
    ipaddress.ip_network("2001:db8::/32"),
    ipaddress.ip_interface("10.1.2.3/24"),
    ipaddress.ip_interface("2001:db8::7/64"),
]


class Mine:
    pass


@pytest.mark.parametrize("value", ADDRESSES, ids=str)
def test_addresses_cross(value: Any) -> None:
    payload, buffers, _ = CODEC.encode_request([value, {value: 1}])
    (first, table), _ = CODEC.decode_request(payload, buffers)
    assert first == value and type(first) is type(value) and table == {value: 1}


def test_remedies_help() -> None:
    class Local:
        pass

    for value in (collections.ChainMap({}), object(), Local(), Mine()):
        with pytest.raises(CannotCross) as refused:
            CODEC.encode_request(value)
        remedy = refused.value.remedy
        assert "register(" not in remedy and "pass plain data" in remedy, remedy
        assert ("stateful" in remedy) == isinstance(value, Mine), remedy
        assert ("at the top of a module" in remedy) == isinstance(value, Local), remedy


def test_remedies_for_what_numpy_has() -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(CannotCross) as refused:
        CODEC.encode_request(numpy.random.default_rng())
    assert "register(" not in refused.value.remedy and "stateful" not in refused.value.remedy
