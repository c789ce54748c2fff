"""Which transport joins two parts of a node: the first that reaches into the sandboxes of both.

A transport whose ends are those of another on the node's side of a wall (``beneath``: bridges into virtual machines) reaches
into a sandbox that takes these, as long as one of the parts needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from shardwright.contracts.transport import Transport
from shardwright.errors import NodeError
from shardwright.model.endpoint import Endpoint
from shardwright.model.ids import ComponentName

__all__ = ["Wires"]


class Wires:
    """Makes channels. ``transports``: the better first. ``reach``: the names of those that reach into a component's sandbox.

    ``wide``: what makes channels in place of one of them where much goes through at once.
    """

    def __init__(
        self,
        transports: Sequence[Transport],
        reach: Callable[[ComponentName], Collection[str]] | None = None,
        wide: Sequence[Transport] = (),
    ) -> None:
        self._transports = tuple(transports)
        self._reach = reach
        self._wide = {transport.name: transport for transport in wide}
        self._by_name = {transport.name: transport for transport in transports}

    def __repr__(self) -> str:
        return f"<Wires {', '.join(self._by_name)}>"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the transports that there are."""
        return tuple(self._by_name)

    def between(self, *components: ComponentName, wide: bool = False) -> Transport:
        """Raises NodeError when no transport reaches all of them."""
        reach = self._reach
        reached = [] if reach is None else [reach(component) for component in components]
        for transport in self._transports:
            if _joins(transport, reached):
                return self._wide.get(transport.name, transport) if wide else transport
        told = "; ".join(
            f"{name}: {', '.join(each) or 'none'}" for name, each in zip(components, reached, strict=False)
        )
        raise NodeError(
            f"no transport joins {' and '.join(components)}",
            remedy=f"choose another isolation, or another [policy] transport; what reaches into their sandboxes is {told}",
        )

    def dispose(self, endpoint: Endpoint) -> None:
        """Give up an end that nobody will open."""
        self._by_name[endpoint.transport].dispose(endpoint)


def _joins(transport: Transport, reached: Sequence[Collection[str]]) -> bool:
    """Whether it reaches into all sandboxes, of which each of ``reached`` is what one takes."""
    if all(transport.name in each for each in reached):
        return True
    beneath = getattr(transport, "beneath", None)
    return (
        beneath is not None
        and any(transport.name in each for each in reached)
        and all(transport.name in each or beneath in each for each in reached)
    )
