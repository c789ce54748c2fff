"""A link between this network namespace and another, whose rate holds in both directions and is changed live.

A veth pair with a token bucket (tbf) on either end: what waits longer than 200 ms is dropped, as by a slow line. Whoever is
inside without powers over its network can change neither. The pair goes with the namespace of either end.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from shardwright.errors import SandboxError

if TYPE_CHECKING:
    from pyroute2 import IPRoute

INSIDE = "eth0"
_ROOT = 0x10000  # the handle 1:0
_LATENCY = "200ms"  # with less, a single TCP connection gets up to a fifth less than the rate
_BURST_S, _LEAST_BURST = 0.01, 16_000  # what may go at once; ten frames at least


class ShapedLink:
    """One such link. ``name`` is its end here, at most 15 characters; ``pid`` a process in the other namespace.

    ``own`` and ``other`` are the addresses of its two ends. Needs CAP_NET_ADMIN and pyroute2. Raises SandboxError; then
    nothing is left.
    """

    def __init__(self, name: str, pid: int, own: str, other: str, bits_s: int, *, prefix: int = 30) -> None:
        self._netlink: Any = None  # until close() there is nothing to close
        self._there: Any = None
        self._made = False
        self.name = name
        try:
            from pyroute2 import IPRoute
            from pyroute2.netlink.exceptions import NetlinkError
        except ImportError:
            raise SandboxError("pyroute2 is not installed", remedy="pip install 'shardwright[network]'") from None
        self._errors: tuple[type[Exception], ...] = (NetlinkError, OSError, IndexError)
        try:
            self._netlink = IPRoute()
            self._netlink.link("add", ifname=name, kind="veth", peer={"ifname": INSIDE, "net_ns_pid": pid})
            self._made = True
            self._here = self._netlink.link_lookup(ifname=name)[0]
            self._there = IPRoute(netns=f"/proc/{pid}/ns/net")
            self._inside = self._there.link_lookup(ifname=INSIDE)[0]
            for where, index, address in self._ends(own, other):
                where.addr("add", index=index, address=address, prefixlen=prefix)
                where.tc("add", "tbf", index, _ROOT, **_bucket(bits_s))
                where.link("set", index=index, state="up")
        except self._errors as error:
            self.close()
            raise SandboxError(
                f"cannot make the link {name} to the network of process {pid}: {error}",
                remedy="it takes root's powers over networks, and the kernel's veth and tbf",
            ) from error

    def __repr__(self) -> str:
        return f"<ShapedLink {self.name}>"

    def _ends(self, own: str = "", other: str = "") -> tuple[tuple[IPRoute, int, str], ...]:
        return (self._netlink, self._here, own), (self._there, self._inside, other)

    def give_addresses(self, addresses: Iterable[str]) -> None:
        """This end has these addresses too, and the other one routes to them; to nothing else does it. Raises SandboxError."""
        try:
            loopback = self._netlink.link_lookup(ifname="lo")[0]
            self._netlink.link("set", index=loopback, state="up")
            for address in dict.fromkeys(addresses):
                if ":" in address:
                    raise SandboxError(
                        f"{address} cannot be reached by a link", remedy="name the place, or an IPv4 address"
                    )
                self._netlink.addr("add", index=loopback, address=address, prefixlen=32)
                self._there.route("add", dst=f"{address}/32", oif=self._inside)
        except self._errors as error:
            raise SandboxError(f"the link {self.name} cannot be given its addresses: {error}") from error

    def set_rate(self, bits_s: int) -> int:
        """From now on so many bits a second each way; what reads back. Raises SandboxError; then the rate is as before."""
        before = self.rate()
        try:
            for where, index, _ in self._ends():
                where.tc("change", "tbf", index, _ROOT, **_bucket(bits_s))
            found = self.rate()
        except self._errors as error:
            with contextlib.suppress(*self._errors):
                for where, index, _ in self._ends():
                    where.tc("change", "tbf", index, _ROOT, **_bucket(before))
            raise SandboxError(f"cannot set the rate of {self.name} to {bits_s} bit/s: {error}") from error
        return found

    def rate(self) -> int:
        """Bits a second, the lower of both ends. Raises SandboxError when one has none."""
        found = [rate for where, index, _ in self._ends() for rate in _rates(where, index)]
        if len(found) != 2:
            raise SandboxError(f"the link {self.name} has no rate any more")
        return min(found)

    def close(self) -> None:
        """Remove it. Idempotent."""
        if self._made:
            self._made = False
            with contextlib.suppress(*self._errors):  # it went with the other namespace
                self._netlink.link("del", ifname=self.name)
        for netlink in (self._there, self._netlink):
            if netlink is not None:
                netlink.close()
        self._there = self._netlink = None


def _bucket(bits_s: int) -> dict[str, object]:
    rate = max(1, bits_s // 8)
    return {"rate": rate, "burst": max(_LEAST_BURST, round(rate * _BURST_S)), "latency": _LATENCY}


def _rates(netlink: IPRoute, index: int) -> Iterator[int]:
    for discipline in netlink.get_qdiscs(index=index):
        options = discipline.get_attr("TCA_OPTIONS")
        if discipline.get_attr("TCA_KIND") == "tbf" and options is not None:
            yield options.get_attr("TCA_TBF_PARMS")["rate"] * 8
