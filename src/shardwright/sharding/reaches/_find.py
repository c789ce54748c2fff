"""One walk over a module for the places that may reach out of a shard. What it does not know, it counts.

Unlike the scan for uses, which leaves out what it cannot resolve, this one errs the other way: a name that may be ``os``
counts as ``os``; a module that is passed on, a method of an unknown object that is called as methods of paths are, code
that is made while the program runs, and each package that nobody has looked at count as well. What type checkers alone
read does not count, nor do annotations.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property

from shardwright.model.shard import Reach, Site
from shardwright.sharding._source import SourceModule
from shardwright.sharding._symbols import Bind, Ref, Resolver, is_main_guard, is_type_checking
from shardwright.sharding.reaches._bound_names import (
    Function,
    FunctionScope,
    imported_names,
    imports_made_global,
    imports_outside_functions,
    scope_of,
)
from shardwright.sharding.reaches._calls import Said, reaches_by_keyword, said_by, writes
from shardwright.sharding.reaches._known import FILES, LIBRARY, known_of
from shardwright.sharding.reaches._methods import INTO_BUFFERS, METHODS, WRITING, likeness
from shardwright.sharding.reaches._packages import PACKAGES
from shardwright.sharding.reaches._standard import STANDARD

_TABLES = (STANDARD, PACKAGES)
_IMPORTERS = ("importlib.import_module", "builtins.__import__")
_NAMESPACES = frozenset({"builtins.globals", "builtins.locals", "builtins.vars"})
# modules that others hold by an attribute: `logging.os` is `os`
_HELD = frozenset({"builtins", "codecs", "ctypes", "importlib", "io", "linecache", "multiprocessing", "os", "pathlib",
                   "shutil", "signal", "socket", "sqlite3", "subprocess", "sys", "tempfile", "_os", "_sys"})  # fmt: skip
_ONE_ARGUMENT = frozenset({"replace", "rename"})  # of texts, dates and tables with more, or with names
_ME = frozenset({"self", "cls"})
_BUFFERS = frozenset({"io.BytesIO", "io.StringIO"})


def find_reaches(resolver: Resolver, module: SourceModule, only: Iterable[ast.stmt] | None = None) -> tuple[Reach, ...]:
    """All of a module, or of some of its top-level statements, by line; each kind of thing once."""
    finder = _Finder(resolver, module)
    finder.run(module.tree.body if only is None else list(only))
    return once_each(finder.found)


def once_each(reaches: Iterable[Reach]) -> tuple[Reach, ...]:
    """By place, of each kind of thing the first."""
    unique: dict[tuple[str, str, str, bool], Reach] = {}
    for each in sorted(reaches, key=lambda each: (each.site.path, each.site.line, each.what)):
        unique.setdefault((each.kind, each.what, each.place, each.writes), each)
    return tuple(unique.values())


class _Finder:
    def __init__(self, resolver: Resolver, module: SourceModule) -> None:
        self.resolver = resolver
        self.module = module
        self.found: list[Reach] = []
        self.imports: dict[str, list[Ref]] = {}  # outside of functions, in classes too
        for node in imports_outside_functions(module.tree):
            for name, refs in self.refs_of(node).items():
                self.imports.setdefault(name, []).extend(refs)
        for node, names in imports_made_global(module.tree) if "global " in module.text else ():
            for name, refs in self.refs_of(node).items():
                if name in names:
                    self.imports.setdefault(name, []).extend(refs)
        self.guarded = any(self.judged(ref) for refs in self.imports.values() for ref in refs)

    @cached_property
    def methods(self) -> frozenset[str]:
        """Of all classes here."""
        return frozenset(
            item.name
            for node in ast.walk(self.module.tree)
            if isinstance(node, ast.ClassDef)
            for item in node.body
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
        )

    def run(self, statements: list[ast.stmt]) -> None:
        todo: list[tuple[ast.AST, tuple[FunctionScope, ...]]] = [(node, ()) for node in statements]
        while todo:
            node, scopes = todo.pop()
            todo += self.visit(node, scopes)

    def add(self, kind: str, line: int, what: str, said: Said | None = None) -> None:
        said = said or Said()
        if not said.nothing:
            self.found.append(Reach(kind, Site(self.module.relative, line), what, said.place, said.writes))

    # -- the walk ------------------------------------------------------------------------------------------------

    def visit(
        self, node: ast.AST, scopes: tuple[FunctionScope, ...]
    ) -> Iterator[tuple[ast.AST, tuple[FunctionScope, ...]]]:
        """Looks at one node; what is to be looked at next, in which scopes."""
        match node:
            case ast.Constant() | ast.Global() | ast.Nonlocal():
                return
            case ast.If(test=test, orelse=orelse) if is_type_checking(test) or (not scopes and is_main_guard(test)):
                yield from ((each, scopes) for each in orelse)
            case ast.Import() | ast.ImportFrom():
                self.importing(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from self.function(node, scopes)
            case ast.AnnAssign(target=target, value=value):
                yield target, scopes
                if value is not None:
                    yield value, scopes
            case ast.Call(func=func):
                if isinstance(func, ast.Name | ast.Attribute):
                    yield from self.reference(func, scopes, node)
                else:
                    yield func, scopes
                yield from ((each, scopes) for each in (*node.args, *(keyword.value for keyword in node.keywords)))
            case ast.Name() | ast.Attribute():
                yield from self.reference(node, scopes, None)
            case _:
                yield from ((each, scopes) for each in ast.iter_child_nodes(node))

    def function(
        self, node: Function, scopes: tuple[FunctionScope, ...]
    ) -> Iterator[tuple[ast.AST, tuple[FunctionScope, ...]]]:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                yield default, scopes
        inner = (*scopes, scope_of(node))
        if isinstance(node, ast.Lambda):
            yield node.body, inner
            return
        yield from ((each, scopes) for each in node.decorator_list)
        yield from ((each, inner) for each in node.body)

    def reference(
        self, node: ast.Name | ast.Attribute, scopes: tuple[FunctionScope, ...], call: ast.Call | None
    ) -> Iterator[tuple[ast.AST, tuple[FunctionScope, ...]]]:
        """A dotted name, called or not."""
        base, parts = _chain(node)
        if not isinstance(base, ast.Name):
            yield from self.on_object(base, parts, node, scopes, call)
            return
        if isinstance(base.ctx, ast.Store) and not parts:
            return
        refs = self.lookup(base.id, scopes)
        known = [self.member(ref, parts) for ref in refs]
        for ref in known:
            if ref.module == "builtins" or self.resolver.tree.locate(ref.module) is None:
                self.name(ref, node, scopes, call)
            else:
                self.method(self.beyond(ref), node, scopes, call)
        if not known and not (base.id in _ME and len(parts) == 1 and parts[0] in self.methods):
            self.method(parts, node, scopes, call)

    def on_object(
        self,
        base: ast.expr,
        parts: list[str],
        node: ast.Name | ast.Attribute,
        scopes: tuple[FunctionScope, ...],
        call: ast.Call | None,
    ) -> Iterator[tuple[ast.AST, tuple[FunctionScope, ...]]]:
        """Attributes of what an expression gives: ``Path("x").read_text()``."""
        if isinstance(base, ast.Call) and isinstance(base.func, ast.Name | ast.Attribute):
            made = {f"{ref.module}.{ref.name}" for ref in self.resolve(base.func, scopes)}
            match base.args:
                case [ast.Constant(value=str(place))] if made == {"pathlib.Path"} and len(parts) == 1:
                    if parts[0] in METHODS and call is not None:
                        mode = call.args[0] if parts[0] == "open" and call.args else None
                        said = Said(place=place, writes=parts[0] in WRITING or writes(mode))
                        self.add(FILES, node.lineno, f"{parts[0]} of a path", said)
                        return
            if made == {"builtins.super"} and len(parts) == 1 and parts[0] in self.methods:
                return
        if not isinstance(base, ast.Constant):  # texts and numbers have no such methods
            self.method(parts, node, scopes, call)
        yield base, scopes

    # -- names ---------------------------------------------------------------------------------------------------

    def lookup(self, name: str, scopes: tuple[FunctionScope, ...]) -> list[Ref]:
        """All that a name may be that comes from elsewhere; empty for what is only known while the program runs."""
        for scope in reversed(scopes):
            if scope.binds(name):
                return [ref for node in scope.imports.get(name, ()) for ref in self.refs_of(node).get(name, ())]
        found = list(self.imports.get(name, ()))
        ref = self.resolver.top_level(self.module.name, name)
        if ref is not None and ref not in found:
            found.append(ref)
        if not found and name in ("__loader__", "__spec__", "__builtins__"):
            found.append(Ref("builtins", name))
        return found

    def resolve(self, node: ast.expr, scopes: tuple[FunctionScope, ...]) -> list[Ref]:
        base, parts = _chain(node)
        if not isinstance(base, ast.Name):
            return []
        return [self.member(ref, parts) for ref in self.lookup(base.id, scopes)]

    def member(self, ref: Ref, parts: list[str]) -> Ref:
        for part in parts:
            ref = self.resolver.member(ref, part)
        return ref

    def refs_of(self, node: ast.Import | ast.ImportFrom) -> dict[str, list[Ref]]:
        """What an import binds, at its home."""
        found: dict[str, list[Ref]] = {}
        for alias, name in zip(node.names, imported_names(node), strict=False):
            if isinstance(node, ast.Import):
                ref = Ref(alias.name if alias.asname else alias.name.partition(".")[0])
            else:
                ref = self.resolver.canonical(Ref(self.module.absolute(node.module, node.level), alias.name))
            found.setdefault(name, []).append(ref)
        return found

    def judged(self, ref: Ref) -> bool:
        """Whether a name from outside belongs to something that reaches."""
        if self.resolver.tree.locate(ref.module) is not None:
            return False
        known = known_of(_TABLES, f"{ref.module}.{ref.name}".rstrip("."))
        return known is None or not known[1].quiet

    def beyond(self, ref: Ref) -> list[str]:
        """The attributes of a name of the application that are not the application's own code."""
        binding = self.resolver.binding(ref)
        own = 2 if binding is not None and binding.kind is Bind.CLASS else 1
        return ref.name.split(".")[own:]

    # -- judging -------------------------------------------------------------------------------------------------

    def name(
        self,
        ref: Ref,
        node: ast.Name | ast.Attribute,
        scopes: tuple[FunctionScope, ...],
        call: ast.Call | None,
    ) -> None:
        """A name of Python's, or of a package from outside."""
        dotted = f"{ref.module}.{ref.name}".rstrip(".")
        if dotted in _NAMESPACES:
            if self.guarded and (dotted == "builtins.globals" or call is None or not call.args):
                self.add(LIBRARY, node.lineno, f"{ref.name}, which gives away what the module imports")
            return
        if dotted in _IMPORTERS and call is not None:
            self.import_by_name(call, node.lineno)
            return
        found = known_of(_TABLES, dotted)
        if found is None:
            return  # its import has been counted
        module, known = found
        if known.whole:  # which may have come with another
            self.add(known.kind, node.lineno, f"import of {module}")
            return
        rest = dotted[len(module) + 1 :].split(".") if dotted != module else []
        shown = dotted.removeprefix("builtins.")
        if not rest:
            if not known.quiet:
                self.add(known.kind or next(iter(known.reaching.values())), node.lineno, f"{shown}, which is passed on")
            return
        kind = known.of(rest[0]) or next((known.reaching[part] for part in rest if part in known.reaching), "")
        kind = kind or next((LIBRARY for part in rest if part in _HELD), "")
        if kind:
            said = said_by(dotted, call, lambda each: self.in_memory(each, scopes)) if call is not None else None
            self.add(kind, node.lineno, shown, said)
        elif call is not None and (kind := reaches_by_keyword(dotted, call)):
            self.add(kind, node.lineno, shown)
        elif call is not None and dotted == "builtins.getattr" and len(call.args) > 1:
            match call.args[1]:
                case ast.Constant(value=str(attribute)) if attribute in METHODS or attribute in _HELD:
                    self.add(METHODS.get(attribute, LIBRARY), node.lineno, f"{attribute} by getattr")
        else:
            self.method(rest[1:], node, scopes, call)  # of its classes and objects: `Image.Image.save`

    def method(
        self,
        parts: list[str],
        node: ast.Name | ast.Attribute,
        scopes: tuple[FunctionScope, ...],
        call: ast.Call | None,
    ) -> None:
        """Attributes of an object of which nothing is known."""
        for position, part in enumerate(parts):
            last = position == len(parts) - 1
            if part in _ONE_ARGUMENT and last and call is not None and len(call.args) == 1 and not call.keywords:
                self.add(FILES, node.lineno, f"{part} of an object that may be a path")
            kind = METHODS.get(part)
            if kind is None:
                continue
            if (
                last
                and call is not None
                and part in INTO_BUFFERS
                and call.args
                and self.in_memory(call.args[0], scopes)
            ):
                continue
            self.add(kind, node.lineno, f"{part} of an object that may be {likeness(kind)}")

    def in_memory(self, node: ast.expr, scopes: tuple[FunctionScope, ...], *, names: bool = True) -> bool:
        """Whether an expression certainly is a buffer that its function made."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            made = [f"{ref.module}.{ref.name}" for ref in self.resolve(node.func, scopes)]
            return bool(made) and all(each in _BUFFERS for each in made)
        if not names or not isinstance(node, ast.Name):
            return False
        for scope in reversed(scopes):
            if scope.binds(node.id):
                values = scope.assigned.get(node.id, [])
                return node.id not in scope.imports and all(
                    value is not None and self.in_memory(value, scopes, names=False) for value in values
                )
        return False

    # -- imports -------------------------------------------------------------------------------------------------

    def importing(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.imported(alias.name, node.lineno)
            return
        source = self.module.absolute(node.module, node.level)
        self.imported(source, node.lineno)
        if self.resolver.tree.locate(source) is None:
            found = known_of(_TABLES, source)
            if node.names[0].name == "*" and found is not None and not found[1].quiet and not found[1].whole:
                self.add(found[1].kind or LIBRARY, node.lineno, f"all names of {source}")
        for alias in node.names:
            home = self.resolver.canonical(Ref(source, alias.name)) if alias.name != "*" else Ref(source)
            dotted = f"{home.module}.{home.name}".rstrip(".")
            found = known_of(_TABLES, dotted) if self.resolver.tree.locate(home.module) is None else None
            if home.module != source or (found is not None and found[0] == dotted):
                self.imported(dotted if found is not None and found[0] == dotted else home.module, node.lineno)

    def imported(self, name: str, line: int) -> None:
        """A module that is imported, by its whole name."""
        place = self.resolver.tree.locate(name)
        if place is not None:
            if not place.has_source:
                self.add(LIBRARY, line, f"{name}, a compiled module")
            return
        top = name.partition(".")[0]
        if not name or self.resolver.tree.locate(top) is not None:
            return
        found = known_of(_TABLES, name)
        if found is None:
            whose = "module of Python's library" if top in sys.stdlib_module_names else "package"
            self.add(LIBRARY, line, f"{whose} {top}, which is not known to keep to itself")
        elif found[1].whole:
            self.add(found[1].kind, line, f"import of {found[0]}")
        elif found[0] != name and (kind := found[1].of(name[len(found[0]) + 1 :].partition(".")[0])):
            self.add(kind, line, f"import of {name}")

    def import_by_name(self, call: ast.Call, line: int) -> None:
        match call.args:
            case [ast.Constant(value=str(name)), *_] if not name.startswith("."):
                self.imported(name, line)
                known = known_of(_TABLES, name) if self.resolver.tree.locate(name) is None else None
                if known is not None and not known[1].quiet and not known[1].whole:
                    self.add(known[1].kind or LIBRARY, line, f"import of {name} by its name")
            case [ast.Constant(value=str(name)), *_]:
                dots = len(name) - len(name.lstrip("."))
                if self.resolver.tree.locate(self.module.absolute(name[dots:], dots)) is None:
                    self.add(LIBRARY, line, f"import of {name} by its name")
            case _:
                self.add(LIBRARY, line, "an import of a computed name")


def _chain(node: ast.expr) -> tuple[ast.expr, list[str]]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return node, parts[::-1]
