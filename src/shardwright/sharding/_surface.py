"""What others see of an owned module: which names stay real, which are stubs, which the owner answers.

Over 400 lines, for the judgements about constants, classes and imports hang on each other until none changes.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from enum import StrEnum

from msgspec import Struct, field

from shardwright.model.shard import Diagnostic, Severity, Site
from shardwright.sharding._classes import constants_of
from shardwright.sharding._entries import function_facts
from shardwright.sharding._functions import FunctionFacts
from shardwright.sharding._names import Needs, needs_of
from shardwright.sharding._program import Program
from shardwright.sharding._pure import Purity, is_standard
from shardwright.sharding._scanned import MUTATORS
from shardwright.sharding._symbols import (
    Bind,
    Ref,
    Symbols,
    is_main_guard,
    is_type_checking,
    target_names,
)


class NameKind(StrEnum):
    """What a top-level name of an owned module is on the other side of an edge."""

    FUNCTION = "function"
    STATEFUL = "stateful class"
    VALUE = "value class"
    CONSTANT = "constant"
    IMPORT = "import"
    REMOTE = "remote"  # the owner answers


class Surface(Struct):
    """The judgement over one owned module. ``needed`` are the imports that the generated module makes."""

    symbols: Symbols
    functions: dict[str, FunctionFacts] = field(default_factory=dict)
    constants: set[str] = field(default_factory=set)
    values: dict[str, ast.ClassDef] = field(default_factory=dict)
    stateful: dict[str, ast.ClassDef] = field(default_factory=dict)
    unimported: set[str] = field(default_factory=set)  # imported names that only another module's owner can answer
    stripped: set[str] = field(default_factory=set)  # value classes that keep their name and bases alone
    needed: set[str] = field(default_factory=set)
    undecorated: set[int] = field(default_factory=set)  # ids of decorators that only register
    needs: dict[int, Needs] = field(default_factory=dict)  # by id of a kept statement
    diagnostics: list[Diagnostic] = field(default_factory=list)

    def kind(self, name: str) -> NameKind | None:
        """``None`` when the module does not bind the name."""
        if name in self.functions:
            return NameKind.FUNCTION
        if name in self.stateful:
            return NameKind.STATEFUL
        if name in self.values:
            return NameKind.VALUE
        if name in self.constants:
            return NameKind.CONSTANT
        binding = self.symbols.last(name)
        if binding is None:
            return None
        return NameKind.IMPORT if binding.kind in (Bind.IMPORT, Bind.FROM) else NameKind.REMOTE

    @property
    def remote(self) -> set[str]:
        return self.unimported | {name for name in self.symbols.bindings if self.kind(name) is NameKind.REMOTE}


def statements(body: list[ast.stmt], guarded: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Top-level statements with those inside ``if`` and ``try``; the flag says that a condition guards it."""
    for statement in body:
        if isinstance(statement, ast.If):
            if is_main_guard(statement.test):
                continue
            typed = is_type_checking(statement.test)
            if not typed:
                yield from statements(statement.body, True)
            yield from statements(statement.orelse, guarded or not typed)
        elif isinstance(statement, ast.Try | ast.TryStar):
            for block in (statement.body, *(handler.body for handler in statement.handlers), statement.orelse):
                yield from statements(block, True)
            yield from statements(statement.finalbody, guarded)
        else:
            yield statement, guarded


def judge(program: Program) -> dict[str, Surface]:
    """Judges every owned module. May turn a class that cannot be rebuilt outside into one reached by handle.

    What a module imports may turn out to be answered by an owner alone, which makes more of its own names so: repeated until
    nothing changes.
    """
    surfaces: dict[str, Surface] = {}
    remote: set[Ref] = set()
    todo = sorted(program.owners)
    while todo:
        before = set(remote)
        for module in todo:
            symbols = program.resolver.symbols(module)
            assert symbols is not None
            earlier = surfaces[module].diagnostics if module in surfaces else []
            surface = surfaces[module] = _Judge(program, symbols, frozenset(before)).run()
            known = {item.message for item in surface.diagnostics}
            surface.diagnostics += [item for item in earlier if item.message not in known]
            remote |= {Ref(module, name) for name in surface.remote}
        fresh = remote - before
        todo = [
            module
            for module in sorted(program.owners)
            if fresh
            and any(
                program.resolver.top_level(module, name) in fresh
                for name, bindings in surfaces[module].symbols.bindings.items()
                if bindings[-1].kind is Bind.FROM
            )
        ]
    return surfaces


class _Judge:
    def __init__(self, program: Program, symbols: Symbols, remote: frozenset[Ref]) -> None:
        self.remote = remote
        self.program = program
        self.symbols = symbols
        self.module = symbols.module.name
        self.surface = Surface(symbols)
        self.purity = Purity(self.resolve, self.exists, self.constructible, self.opaque)
        self.assigned: dict[str, list[ast.stmt]] = {}  # statements that give a name its value
        self.imported: set[str] = set()

    def run(self) -> Surface:
        surface = self.surface
        for name, bindings in self.symbols.bindings.items():
            facts = function_facts(self.program, self.symbols, name)
            if facts is not None:
                surface.functions[name] = facts
            elif any(binding.kind in (Bind.IMPORT, Bind.FROM) for binding in bindings):
                if self.program.resolver.top_level(self.module, name) in self.remote:
                    surface.unimported.add(name)
                else:
                    self.imported.add(name)
        self._classes()
        self._assignments()
        while self._drop_impure() or self._drop_classes():
            pass
        self._needed()
        return surface

    # -- what Purity asks ----------------------------------------------------------------------------------------

    def resolve(self, node: ast.expr) -> Ref | None:
        return self.program.resolver.expression(self.module, node)

    def exists(self, name: str) -> bool:
        surface = self.surface
        return (
            name in surface.constants or name in surface.functions or name in surface.values
            or name in surface.stateful or name in self.imported
        )  # fmt: skip

    def constructible(self, ref: Ref) -> bool:
        if self.program.resolver.made_class(ref):
            return True
        facts = self.program.classes.facts(ref)
        if facts is None or facts.stateful or facts.global_writes:
            return False
        return facts.nature in ("record", "enum", "exception") or not facts.changes

    def opaque(self, ref: Ref, attribute: str) -> bool:
        """Whether a class of the application does not show its attributes, or types in brackets, in a generated module."""
        if self.program.owners.get(ref.module) is None:
            return False
        facts = self.program.classes.facts(ref)
        if facts is None or not (facts.stateful or facts.stripped):
            return False
        return facts.stripped or not attribute or attribute not in constants_of(facts.node)

    # -- classes and assignments ---------------------------------------------------------------------------------

    def _classes(self) -> None:
        for name, bindings in self.symbols.bindings.items():
            last = self.symbols.last(name)
            if name in self.surface.functions or last is None or last.kind is not Bind.CLASS:
                continue
            assert isinstance(last.node, ast.ClassDef)
            facts = self.program.classes.facts(Ref(self.module, name))
            target = self.surface.stateful if facts is not None and facts.stateful else self.surface.values
            target[name] = last.node
            del bindings

    def _assignments(self) -> None:
        loose: set[str] = set()  # names that other top-level statements change
        for statement, _ in statements(self.symbols.module.tree.body):
            match statement:
                case ast.Assign(targets=targets):
                    for target in targets:
                        for name in target_names(target):
                            self.assigned.setdefault(name, []).append(statement)
                        loose |= _changed_by(target)
                    loose |= _changed_in(statement.value)
                case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                    self.assigned.setdefault(name, []).append(statement)
                case ast.AugAssign(target=ast.Name(id=name)):
                    self.assigned.setdefault(name, []).append(statement)
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Import() | ast.ImportFrom():
                    pass
                case ast.Delete():
                    loose |= {name for target in statement.targets for name in _changed_by(target)}
                case _ if isinstance(getattr(statement, "name", None), ast.Name):  # type X = ...
                    self.surface.constants.add(statement.name.id)  # type: ignore[attr-defined]
                case _:
                    loose |= _changed_in(statement)
        for name in self.assigned:
            known = name in self.surface.functions or name in self.surface.values or name in self.surface.stateful
            late = self.program.late_writes(Ref(self.module, name))
            binding = self.symbols.last(name)
            if known or name in loose or late or binding is None or binding.kind is Bind.OTHER:
                continue
            if any(item.kind is Bind.OTHER for item in self.symbols.bindings[name]):
                continue
            self.surface.constants.add(name)

    def _drop_impure(self) -> bool:
        dropped = False
        for name in sorted(self.surface.constants & self.assigned.keys()):
            for statement in self.assigned[name]:
                value = statement.value  # type: ignore[attr-defined]
                targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]  # type: ignore[attr-defined]
                others = {other for target in targets for other in target_names(target)}
                plain = all(isinstance(target, ast.Name | ast.Tuple | ast.List) for target in targets)
                if not plain or not all(self.exists(other) for other in others) or not self.purity.pure(value):
                    self.surface.constants.discard(name)
                    self.imported.discard(name)
                    dropped = True
                    break
        return dropped

    def _drop_classes(self) -> bool:
        """Finds value classes whose definition cannot run outside the owner."""
        for name, node in sorted(self.surface.values.items()):
            if name in self.surface.stripped:
                continue
            why = self._unbuildable(node)
            if not why:
                continue
            facts = self.program.classes.facts(Ref(self.module, name))
            site = Site(self.symbols.module.relative, node.lineno)
            owner = self.program.owners[self.module]
            if facts is not None and facts.nature in ("plain", "record"):
                facts.stateful, facts.why = True, why
                self.surface.stateful[name] = self.surface.values.pop(name)
                text = f"class {name} cannot be rebuilt outside {owner}, so it is reached by handle: {why}"
            else:
                self.surface.stripped.add(name)
                if facts is not None:
                    facts.stripped = True
                text = f"class {name} cannot be rebuilt outside {owner}; only its name and bases are seen there: {why}"
            remedy = "let its class body use literals only, or move what it uses into a common module"
            self.surface.diagnostics.append(Diagnostic("SW250", Severity.WARNING, text, site, owner, remedy))
            return True
        return False

    def _unbuildable(self, node: ast.ClassDef) -> str:
        for item in ast.walk(node):
            if isinstance(item, ast.ClassDef):
                for decorator in item.decorator_list:
                    if self._registers(decorator):
                        self.surface.undecorated.add(id(decorator))
        needs = needs_of(self._without_decorators(node))
        for used in sorted(needs.now):
            if not self.exists(used) and used in self.symbols.bindings:
                return f"its class body reads {used}, which only the owner has"
        for base in (*node.bases, *(keyword.value for keyword in node.keywords)):
            ref = self.resolve(base)
            if ref is not None and ref.module == self.module and ref.top in self.surface.stateful:
                return f"it is built on {ref.name}, which is reached by handle"
        for call in _immediate_calls(self._without_decorators(node)):
            ref = self.resolve(call)
            if ref is not None and self._is_owned_function(ref):
                return f"its class body calls {ref.name}"
        return ""

    def _without_decorators(self, node: ast.ClassDef) -> ast.ClassDef:
        kept = [item for item in node.decorator_list if id(item) not in self.surface.undecorated]
        if len(kept) == len(node.decorator_list):
            return node
        copy = ast.ClassDef(**{name: getattr(node, name) for name in node._fields if hasattr(node, name)})
        copy.decorator_list = kept
        return ast.copy_location(copy, node)

    def _is_owned_function(self, ref: Ref) -> bool:
        if ref.module not in self.program.owners or "." in ref.name or not ref.name:
            return False
        return self.program.function_like(ref.module, ref.name)

    def _registers(self, decorator: ast.expr) -> bool:
        """Whether a class decorator of the component only notes the class: every ``return`` gives the class back."""
        ref = self.resolve(decorator)
        if ref is None or not self._is_owned_function(ref):
            return False
        binding = self.program.resolver.binding(ref)
        if binding is None or not isinstance(binding.node, ast.FunctionDef) or not binding.node.args.args:
            return False
        own = binding.node.args.args[0].arg
        returns = [item.value for item in ast.walk(binding.node) if isinstance(item, ast.Return)]
        return bool(returns) and all(isinstance(value, ast.Name) and value.id == own for value in returns)

    # -- imports -------------------------------------------------------------------------------------------------

    def _needed(self) -> None:
        surface = self.surface
        heavy = {name for name in self.imported if self._is_heavy(name)}
        demanded = self.program.resolver.demanded.get(self.module, set()) | set(self.symbols.exports or ())
        wanted: set[str] = set()
        for name in [*surface.values, *surface.stateful]:
            wanted.add(name)
        for name in surface.constants:
            used = {item for statement in self.assigned.get(name, []) for item in needs_of(statement).all}
            if not used & heavy or name in demanded or name.startswith("__"):
                wanted.add(name)
        wanted |= {name for name in self.imported if name in demanded}
        if self.symbols.module.is_package:
            wanted |= {
                name
                for name in self.imported
                if (binding := self.symbols.last(name)) is not None
                and binding.ref is not None
                and not binding.type_only
                and binding.kind is Bind.FROM
                and self.program.tree.locate(binding.ref.module) is not None
            }
        done: set[str] = set()
        todo = sorted(wanted)
        while todo:
            name = todo.pop()
            if name in done:
                continue
            done.add(name)
            for statement in self._defining(name):
                needs = needs_of(statement)
                if isinstance(statement, ast.ClassDef):
                    surface.needs[id(statement)] = needs
                used = set(needs.all)
                used |= {item for item in needs.annotations if item not in heavy or self._needs_hints(statement)}
                todo += sorted(item for item in used if item in self.symbols.bindings and self.exists(item))
        surface.constants &= done | {name for name in surface.constants if name not in self.assigned}
        surface.needed = {name for name in done if name in self.imported}

    def _defining(self, name: str) -> list[ast.stmt]:
        if name in self.surface.values:  # all of them, where conditions choose one
            nodes = [binding.node for binding in self.symbols.bindings[name]]
            return [self._without_decorators(node) for node in nodes if isinstance(node, ast.ClassDef)]
        if name in self.surface.stateful:
            facts = self.program.classes.facts(Ref(self.module, name))
            bases = [item for item in facts.node.bases if self._handle_base(item)] if facts is not None else []
            nested = [item for item in self.surface.stateful[name].body if isinstance(item, ast.ClassDef)]
            return [*(ast.copy_location(ast.Expr(base), base) for base in bases), *nested]
        return self.assigned.get(name, [])

    def _handle_base(self, node: ast.expr) -> bool:
        ref = self.resolve(node)
        facts = self.program.classes.facts(ref) if ref is not None else None
        if facts is None or ref is None:
            return False
        mine = self.program.owners.get(ref.module) == self.program.owners[self.module]
        return (facts.stateful and mine) or (not facts.stateful and facts.is_abstract_base)

    def _needs_hints(self, statement: ast.stmt) -> bool:
        """Classes whose library reads annotations when the class is made."""
        if not isinstance(statement, ast.ClassDef):
            return False
        for base in statement.bases:
            ref = self.resolve(base)
            if ref is not None and not is_standard(ref.module):
                return True
        return False

    def _is_heavy(self, name: str) -> bool:
        binding = self.symbols.last(name)
        if binding is None or binding.ref is None:
            return True
        module = binding.ref.module
        return not is_standard(module) and self.program.tree.locate(module) is None


def _changed_by(target: ast.expr) -> set[str]:
    """The name whose object an assignment to an attribute or item changes."""
    if isinstance(target, ast.Attribute | ast.Subscript):
        base: ast.expr = target
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        return {base.id} if isinstance(base, ast.Name) else set()
    if isinstance(target, ast.Tuple | ast.List):
        return {name for part in target.elts for name in _changed_by(part)}
    return set()


def _changed_in(node: ast.AST) -> set[str]:
    """Names whose objects a statement changes, or may change by passing them to something unknown."""
    found: set[str] = set()
    for item in ast.walk(node):
        if isinstance(item, ast.Assign):
            for target in item.targets:
                found |= _changed_by(target) | set(target_names(target))
        elif isinstance(item, ast.AugAssign):
            found |= _changed_by(item.target) | set(target_names(item.target))
        elif isinstance(item, ast.Call):
            function = item.func
            if (
                isinstance(function, ast.Attribute)
                and function.attr in MUTATORS
                and isinstance(function.value, ast.Name)
            ):
                found.add(function.value.id)
            if isinstance(node, ast.Expr) and not (isinstance(function, ast.Name) and function.id in ("print", "len")):
                found |= {argument.id for argument in item.args if isinstance(argument, ast.Name)}
    return found


def _immediate_calls(node: ast.ClassDef) -> Iterator[ast.expr]:
    """What a class statement calls while it runs, decorators included."""
    todo: list[ast.AST] = [node]
    while todo:
        item = todo.pop()
        if isinstance(item, ast.Call):
            yield item.func
        for decorator in getattr(item, "decorator_list", []):
            yield decorator
            todo.append(decorator)
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += [default for default in (*item.args.defaults, *item.args.kw_defaults) if default is not None]
        elif not isinstance(item, ast.Lambda):
            todo.extend(
                child for child in ast.iter_child_nodes(item) if child not in getattr(item, "decorator_list", [])
            )
