"""What an edge opens: the names of the callee that the caller's code may come to use.

The callee's shard holds every caller to this list, for a caller may be hostile. It is generous with what the callee shows
to everybody, and strict with the rest. A public name is open when the caller's code says that name anywhere, even as text,
for the scan loses track of a module behind ``sys.modules``, a conditional import or an argument; where code imports by
names that it computes, or the edge is declared and nothing was found, all public names of the callee are open. A private
name is open only where the code was seen to use just that one. What the generated modules' own code needs, such as the
methods of value classes, is open to every caller.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from shardwright.model.ids import ComponentName
from shardwright.model.shard import ALL_PUBLIC
from shardwright.sharding._names import needs_of
from shardwright.sharding._program import Program
from shardwright.sharding._surface import Surface
from shardwright.sharding._symbols import Ref

_IMPORTERS = frozenset({"import_module", "__import__"})
_FINDERS = frozenset({"resolve_name", "spec_from_file_location", "find_spec", "run_module", "load_module"})
_WORD = re.compile(r"[A-Za-z_]\w*(?:[.:][A-Za-z_]\w*)*")


class _Said(Struct):
    """The names that one module's code says. ``private`` are attributes of something else than ``self``."""

    names: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    computes: bool = False  # imports modules whose names it computes


class Openings:
    """Answers for every edge what it opens."""

    def __init__(self, program: Program, surfaces: dict[str, Surface], value_classes: Iterable[str]) -> None:
        self._program = program
        self._surfaces = surfaces
        self._said: dict[str, _Said] = {}
        self._callers: dict[str, tuple[_Said, set[Ref], set[str]]] = {}
        self._generated = self._of_generated_code(value_classes)

    def of(self, caller: ComponentName, callee: ComponentName, *, seen: bool) -> tuple[str, ...]:
        """``module:name`` for a name, ``module:*`` for all public ones, ``.name`` for a private attribute of objects;
        just ``*`` for all that is public. ``seen``: whether analysis found any use of the callee."""
        said, refs, whole = self._of_caller(caller)
        modules = self._program.owned_by(callee)
        private = said.private & {name for module in modules for name in self._words(module).names}
        found = {f".{name}" for name in private}
        everything = said.computes or not seen
        used = refs | self._generated
        for module in modules:
            symbols = self._surfaces[module].symbols
            names = {ref.top for ref in used if ref.module == module}
            if everything or symbols.is_dynamic or any(_beneath(module, each) for each in whole):
                found.add(f"{module}:*")
            else:
                names |= {name for name in symbols.bindings if not name.startswith("_") and name in said.names}
            for name in symbols.bindings:  # `_f = g`: a second name for what is used
                if name not in names and self._program.resolver.top_level(module, name) in used:
                    names.add(name)
            found |= {f"{module}:{name}" for name in names}
            found |= {
                f"{module}:{method}" for method in self._objectless(module) if method.rpartition(".")[2] in said.names
            }
        return (ALL_PUBLIC, *sorted(found)) if everything else tuple(sorted(found))

    def _of_caller(self, caller: ComponentName) -> tuple[_Said, set[Ref], set[str]]:
        known = self._callers.get(caller)
        if known is not None:
            return known
        said, refs, whole = _Said(), set[Ref](), set[str]()
        for module in self._program.code_of(caller):
            words, scan = self._words(module), self._program.scan(module)
            said.names |= words.names
            said.private |= words.private
            said.computes = said.computes or words.computes
            refs |= {Ref(use.ref.module, use.ref.top) for use in scan.uses if use.ref.name}
            whole |= {ref.module for ref, _ in scan.dynamic}
        self._callers[caller] = said, self._followed(refs), whole
        return self._callers[caller]

    def _objectless(self, module: str) -> Iterator[str]:
        """Static and class methods of classes behind handles: a handle may come from a third component."""
        for name in self._surfaces[module].stateful:
            facts = self._program.classes.facts(Ref(module, name))
            for method, about in facts.methods.items() if facts is not None else ():
                if about.kind in ("static", "class") and not method.startswith("_"):
                    yield f"{name}.{method}"

    def _words(self, module: str) -> _Said:
        known = self._said.get(module)
        if known is None:
            source = self._program.tree.load(module)
            known = self._said[module] = _said_in(source.tree) if source is not None else _Said()
        return known

    def _followed(self, refs: set[Ref]) -> set[Ref]:
        """With what they are when an owned module has imported them from another."""
        found = set(refs)
        for ref in refs:
            home = self._program.resolver.top_level(ref.module, ref.top) if ref.module in self._surfaces else None
            if home is not None and home.name:
                found.add(Ref(home.module, home.top))
        return found

    def _of_generated_code(self, value_classes: Iterable[str]) -> set[Ref]:
        """What runs outside its owner: classes that are copied, and constants made of kept names."""
        found: set[Ref] = set()
        tops: dict[str, set[str]] = {}
        for name in value_classes:
            module, _, qualname = name.partition(":")
            tops.setdefault(module, set()).add(qualname.partition(".")[0])
        for module, surface in self._surfaces.items():
            tops.setdefault(module, set()).update(surface.values, surface.constants)
        for module, kept in tops.items():
            found |= {
                Ref(use.ref.module, use.ref.top)
                for use in self._program.scan(module).uses
                if use.ref.name and use.top in kept
            }
            source = self._program.tree.load(module)
            for statement in _defining(source.tree.body if source is not None else [], kept):
                found |= {Ref(module, name) for name in needs_of(statement).all}
                for node in ast.walk(statement):
                    ref = self._program.resolver.expression(module, node) if isinstance(node, ast.Attribute) else None
                    if ref is not None and ref.name:
                        found.add(Ref(ref.module, ref.top))
        return {ref for ref in self._followed(found) if ref.module in self._surfaces}


def _beneath(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def _defining(body: list[ast.stmt], names: set[str]) -> Iterator[ast.stmt]:
    """The statements, also under conditions, that define one of these names."""
    for statement in body:
        match statement:
            case ast.ClassDef(name=name) if name in names:
                yield statement
            case ast.Assign(targets=targets) if any(
                isinstance(item, ast.Name) and item.id in names for target in targets for item in ast.walk(target)
            ):
                yield statement
            case ast.AnnAssign(target=ast.Name(id=name)) if name in names:
                yield statement
            case ast.If() | ast.Try() | ast.TryStar() | ast.With():
                for block in ("body", "orelse", "finalbody"):
                    yield from _defining(getattr(statement, block, []), names)
                for handler in getattr(statement, "handlers", ()):
                    yield from _defining(handler.body, names)


def _said_in(tree: ast.Module) -> _Said:
    said = _Said()
    own: set[int] = set()  # uses of sys.modules to reach just the module itself
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="modules") as table, slice=ast.Name(id="__name__")):
                own.add(id(table))
            case ast.Name(id=name):
                said.names.add(name)
            case ast.Attribute(value=base, attr=name):
                said.names.add(name)
                if name == "modules" and isinstance(base, ast.Name) and base.id == "sys":
                    said.computes = said.computes or id(node) not in own
                if _is_private(name) and not (isinstance(base, ast.Name) and base.id in ("self", "cls")):
                    said.private.add(name)
            case ast.alias(name=name):
                said.names |= set(name.split("."))
                said.computes = said.computes or name in _FINDERS
            case ast.Constant(value=str(text)) if len(text) < 200 and _WORD.fullmatch(text):
                said.names |= set(re.split("[.:]", text))
                if _is_private(text):
                    said.private.add(text)
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]):
                known = isinstance(first, ast.Constant)
                said.computes = said.computes or (not known and name in _IMPORTERS) or name in _FINDERS
    return said


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
