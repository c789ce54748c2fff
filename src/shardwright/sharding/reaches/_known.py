"""What is known of a module from outside the application: which of its names reach out of a shard, and how."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from msgspec import Struct, field

FILES, NETWORK, PROCESS, LIBRARY = "files", "network", "process", "library"


class Known(Struct, frozen=True):
    """One module. ``kind`` is what names reach that neither list has; empty where such names reach nothing."""

    kind: str = ""
    harmless: frozenset[str] = frozenset()
    reaching: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def whole(self) -> bool:
        """Whether importing it is as good as using it: there is nothing else to do with it."""
        return bool(self.kind) and not self.harmless

    @property
    def quiet(self) -> bool:
        """Whether no name of it reaches anything."""
        return not self.kind and not self.reaching

    def of(self, name: str) -> str:
        """The kind of reach of one of its names; empty for none."""
        if name in self.reaching:
            return self.reaching[name]
        return "" if name in self.harmless else self.kind


def reaches_by(kind: str, harmless: str = "", /, **reaching: str) -> Known:
    """All names reach by ``kind`` but those of ``harmless``; ``reaching`` has those of another kind, by that kind."""
    return Known(kind, frozenset(harmless.split()), _by_name(reaching))


def quiet_but(**reaching: str) -> Known:
    """No name reaches anything but those listed, by kind: ``files="open load"``."""
    return Known(reaching=_by_name(reaching))


def _by_name(reaching: Mapping[str, str]) -> Mapping[str, str]:
    return MappingProxyType({name: kind for kind, names in reaching.items() for name in names.split()})


def known_of(tables: tuple[Mapping[str, Known], ...], dotted: str) -> tuple[str, Known] | None:
    """The module of the tables that a dotted name lies in, the innermost, with what is known of it."""
    name = dotted
    while name:
        for table in tables:
            if name in table:
                return name, table[name]
        name = name.rpartition(".")[0]
    return None
