"""The ComponentGraph: what analysis finds inside components, as data to cut by."""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.ids import ComponentName
from shardwright.model.shard import Diagnostic, Site


class Vertex(Struct, frozen=True):
    """A function, method or module body. ``refused``: it stays where the program begins."""

    id: str
    component: ComponentName | None
    site: Site
    kind: str
    refused: bool = False


class Edge(Struct, frozen=True):
    """``caller`` may call ``callee``. ``confidence``: how often such an edge was seen to be true; ``sites``: where."""

    caller: str
    callee: str
    confidence: float
    sites: tuple[Site, ...]


class ComponentGraph(Struct, frozen=True):
    """Vertices in order of id, edges, sets of vertices that share a shard with the finding that says so, all findings."""

    vertices: tuple[Vertex, ...]
    edges: tuple[Edge, ...]
    together: tuple[tuple[tuple[str, ...], Diagnostic], ...]
    diagnostics: tuple[Diagnostic, ...]

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The sets of vertices that share a shard, joined where they overlap: largest first, of two and more."""
        leader: dict[str, str] = {}

        def find(name: str) -> str:
            while leader.setdefault(name, name) != name:
                leader[name] = leader[leader[name]]
                name = leader[name]
            return name

        for names, _ in self.together:
            for name in names[1:]:
                leader[find(name)] = find(names[0])
        groups: dict[str, list[str]] = {}
        for name in sorted(leader):
            groups.setdefault(find(name), []).append(name)
        found = [tuple(names) for names in groups.values() if len(names) > 1]
        return tuple(sorted(found, key=lambda names: (-len(names), names)))
