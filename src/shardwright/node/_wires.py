"""Which transport joins two parts of a node: the first that reaches into the sandboxes of both."""

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
        for transport in self._transports:
            if reach is None or all(transport.name in reach(component) for component in components):
                return self._wide.get(transport.name, transport) if wide else transport
        raise NodeError(f"no transport joins {' and '.join(components)}")

    def dispose(self, endpoint: Endpoint) -> None:
        """Give up an end that nobody will open."""
        self._by_name[endpoint.transport].dispose(endpoint)
