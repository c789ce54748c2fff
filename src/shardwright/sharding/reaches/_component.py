"""The reaches of a component: of its own modules, of the common ones that it imports, and of what comes of others' classes."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping

from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Files, Network
from shardwright.model.shard import MAIN_COMPONENT, AutoIsolation, Reach
from shardwright.sharding._program import Program
from shardwright.sharding._surface import Surface, statements
from shardwright.sharding.reaches._bound_names import imported_names
from shardwright.sharding.reaches._find import find_reaches, once_each
from shardwright.sharding.reaches._rule import auto_isolation


class Reaches:
    """Looks at each module once. ``surfaces`` say which classes of a component's come to others with their code."""

    def __init__(self, program: Program, surfaces: Mapping[str, Surface]) -> None:
        self._program = program
        self._surfaces = surfaces
        self._own: dict[str, tuple[Reach, ...]] = {}
        self._shown: dict[str, tuple[Reach, ...]] = {}

    def of(self, component: ComponentName, knows: Iterable[str]) -> tuple[Reach, ...]:
        """All of a component, each kind of thing once, by place. ``knows``: modules of others whose classes run there."""
        return once_each(self._all(component, knows))

    def isolation(self, component: ComponentName, knows: Iterable[str]) -> AutoIsolation:
        """What ``auto`` comes to for it."""
        manifest = self._program.manifest
        main = manifest.main.partition(":")[0]
        runs_main = component == MAIN_COMPONENT or (bool(main) and self._program.owners.get(main) == component)
        files, network = Files(), Network()
        for each in manifest.components:
            if each.name == component:
                files, network = each.files, each.network
        return auto_isolation(component, self.of(component, knows), runs_main=runs_main, files=files, network=network)

    def _all(self, component: ComponentName, knows: Iterable[str]) -> Iterator[Reach]:
        code = self._program.code_of(component)
        for module in code:
            if module not in self._own:
                self._own[module] = find_reaches(self._program.resolver, self._program.tree.loaded[module])
            yield from self._own[module]
        for module in knows:
            if module not in code and module in self._surfaces:
                if module not in self._shown:
                    self._shown[module] = self._of_classes(module)
                yield from self._shown[module]

    def _of_classes(self, module: str) -> tuple[Reach, ...]:
        """What runs of a module in the shards of others: classes that are copied, and the imports that they need."""
        surface = self._surfaces[module]
        source = self._program.tree.loaded[module]
        values = {id(node) for node in surface.values.values()}
        kept: list[ast.stmt] = []
        for statement, _ in statements(source.tree.body):
            needed = isinstance(statement, ast.Import | ast.ImportFrom) and (
                not surface.needed.isdisjoint(imported_names(statement))
            )
            if needed or id(statement) in values:
                kept.append(statement)
        return find_reaches(self._program.resolver, source, kept)
