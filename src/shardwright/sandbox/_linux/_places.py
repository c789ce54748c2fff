"""Places of the network that a shard may reach, and by what addresses it does so in a network of its own."""

from __future__ import annotations

from collections.abc import Sequence

_NAMES = "198.18"  # for measuring devices (RFC 2544): nobody's in earnest
_FIRST_NAME = 16


def places_of(egress: Sequence[str]) -> list[tuple[str, str, int]]:
    """For each ``host:port`` the address inside, the host as stated, the port. Literal addresses stand for themselves."""
    import ipaddress  # of no use to a keeper whose shards reach nothing

    found: list[tuple[str, str, int]] = []
    names: dict[str, str] = {}
    for place in egress:
        host, _, port = place.rpartition(":")
        host = host.strip("[]")
        try:
            address = str(ipaddress.ip_address(host))
        except ValueError:
            address = "127.0.0.1" if host == "localhost" else names.setdefault(host, _name_address(len(names)))
        found.append((address, host, int(port)))
    return found


def hosts_of(egress: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Names and their addresses inside: what ``/etc/hosts`` says there."""
    return tuple(dict.fromkeys((host, at) for at, host, _ in places_of(egress) if host not in (at, "localhost")))


def _name_address(number: int) -> str:
    number += _FIRST_NAME
    return f"{_NAMES}.{number >> 8}.{number & 255}"
