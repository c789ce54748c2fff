"""Writes the source of the generated module that stands for an owned module in the shards of others.

Constants, data classes and exceptions are copied verbatim in their order; functions and stateful classes are declared
through ``__shardwright__``; everything else is left out, so that reading it asks the owner.

Over 400 lines, for every kind of top-level statement has its own rule.
"""

from __future__ import annotations

import ast

from shardwright._syntax import parsed
from shardwright.sharding._classes import ClassFacts, constants_of
from shardwright.sharding._functions import FunctionFacts
from shardwright.sharding._names import needs_of
from shardwright.sharding._program import Program
from shardwright.sharding._surface import NameKind, Surface, statements
from shardwright.sharding._symbols import Bind, Ref, import_bindings, is_main_guard, is_type_checking, target_names

# A function of a copied class may use a global that only the owner has: the module's own ``__getattr__`` asks for it.
_ASK = """
def __shardwright_value__(name):
    return globals()[name] if name in globals() else __getattr__(name)
"""
_REAL = (NameKind.FUNCTION, NameKind.STATEFUL, NameKind.VALUE, NameKind.CONSTANT)
_STATIC_TESTS = frozenset({"sys.version_info", "sys.platform", "os.name", "sys.implementation", "platform.system"})


def stub_source(program: Program, surfaces: dict[str, Surface], module: str) -> str:
    """The source of the generated module; the same input gives the same text."""
    return StubWriter(program, surfaces, module).run()


class StubWriter:
    def __init__(self, program: Program, surfaces: dict[str, Surface], module: str) -> None:
        self.program = program
        self.surfaces = surfaces
        self.surface = surface = surfaces[module]
        self.symbols = surface.symbols
        self.module = surface.symbols.module
        self.lines = self.module.text.splitlines(keepends=True)
        self.emitted: set[str] = set()
        self.asks = False
        self.crowd: dict[int, int] = {}  # how many statements share a line
        for statement in self.module.tree.body:
            first = min([statement.lineno, *(item.lineno for item in getattr(statement, "decorator_list", []))])
            for line in {first, statement.end_lineno or first}:
                self.crowd[line] = self.crowd.get(line, 0) + 1

    def run(self) -> str:
        body = self.module.tree.body
        parts: list[str] = []
        docstring = ast.get_docstring(self.module.tree, clean=False)
        if docstring is not None:
            body = body[1:]
        blocks: list[str] = []
        known: set[str] | None = None
        while known != self.surface.needed:  # conditions that are kept may need one more import
            known, self.emitted = set(self.surface.needed), set()
            blocks = [text for statement in body if (text := self.statement(statement))]
        if docstring is not None:
            parts.append(repr(docstring) if '"""' in docstring or "\\" in docstring else f'"""{docstring}"""')
        parts.append("from __future__ import annotations\n")
        if self.asks:
            parts.append(_ASK)
        parts += blocks
        return "\n".join(part.rstrip("\n") for part in parts) + "\n"

    # -- statements ----------------------------------------------------------------------------------------------

    def statement(self, node: ast.stmt, nested: bool = False) -> str:
        """The text for one statement; empty when nothing of it is kept."""
        match node:
            case ast.Import() | ast.ImportFrom():
                return self.imports(node)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                return self.function(name)
            case ast.ClassDef():
                return self.class_statement(node)
            case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
                return self.assignment(node, nested)
            case ast.If():
                return self.condition(node)
            case ast.Try() | ast.TryStar():
                return self.attempt(node)
            case ast.Delete():
                names = [
                    name for target in node.targets for name in target_names(target) if name in self.surface.constants
                ]
                return f"del {', '.join(names)}" if names else ""
            case _ if isinstance(getattr(node, "name", None), ast.Name):  # type X = ...
                return self.verbatim(node)
        return ""

    def verbatim(self, node: ast.stmt) -> str:
        """The statement's own lines where it stands alone on them, else its text rebuilt."""
        first, last = node.lineno, node.end_lineno or node.lineno
        for decorator in getattr(node, "decorator_list", []):
            first = min(first, decorator.lineno)
        text = "".join(self.lines[first - 1 : last])
        alone = all(self.crowd.get(line) == 1 for line in (first, last))
        return text if node.col_offset == 0 and alone else ast.unparse(node)

    def imports(self, node: ast.Import | ast.ImportFrom) -> str:
        if isinstance(node, ast.ImportFrom):
            source = self.module.absolute(node.module, node.level)
            if source == "__future__":
                return ""
            if node.names[0].name == "*":
                return self.star(source)
        kept, modules = [], []
        for name, kind, ref, alias in import_bindings(self.module, node):
            if name not in self.surface.needed or name in self.surface.functions:
                continue
            home = self.program.resolver.canonical(ref) if kind is Bind.FROM else ref
            if kind is Bind.FROM and home == Ref(f"{ref.module}.{ref.name}"):
                # `from package import submodule` would first ask the package for the attribute, that is, its owner
                modules.append(f"import {home.module} as {name}")
            else:
                kept.append(f"{alias.name} as {alias.asname}" if alias.asname else alias.name)
        if isinstance(node, ast.Import):
            return f"import {', '.join(kept)}" if kept else ""
        source = self.module.absolute(node.module, node.level)
        return "\n".join([*([f"from {source} import {', '.join(kept)}"] if kept else []), *modules])

    def star(self, source: str) -> str:
        """``from source import *``; out of another generated module, name by name, without those that its owner keeps."""
        if source not in self.surfaces:
            return f"from {source} import *" if self.program.tree.locate(source) is not None else ""
        lines = []
        for name in sorted(self.program.resolver.exported(source) or ()):
            home = self.program.resolver.attribute(source, name)
            surface = self.surfaces.get(home.module)
            if not home.name:
                lines.append(f"import {home.module} as {name}")
            elif surface is None:
                lines.append(f"from {home.module} import {home.name} as {name}")
            elif surface.kind(home.top) in _REAL:
                lines.append(f"from {home.module} import {home.name}" + (f" as {name}" if name != home.name else ""))
        return "\n".join(lines)

    def assignment(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, nested: bool) -> str:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        names = [name for target in targets for name in target_names(target)]
        if names and all(name in self.surface.constants for name in names):
            return ast.unparse(node) if nested else self.verbatim(node)
        if len(names) == 1 and names[0] in self.surface.functions:
            return self.function(names[0])
        # `Color.DEFAULT = Color("red")`: part of the class's definition
        if isinstance(node, ast.Assign) and len(targets) == 1 and isinstance(targets[0], ast.Attribute):
            owner = targets[0].value
            if isinstance(owner, ast.Name) and owner.id in self.surface.values and self.available(node.value):
                return ast.unparse(node)
        return ""

    def available(self, value: ast.expr) -> bool:
        needs = needs_of(value)
        names = set(self.surface.values) | self.surface.constants | self.surface.needed
        calls = [item for item in ast.walk(value) if isinstance(item, ast.Call)]
        known = all(isinstance(call.func, ast.Name) and call.func.id in self.surface.values for call in calls)
        return known and all(name in names or name not in self.symbols.bindings for name in needs.all)

    def condition(self, node: ast.If) -> str:
        if is_main_guard(node.test):
            return ""
        if is_type_checking(node.test):
            return "\n".join(text for item in node.orelse if (text := self.statement(item)))
        body, orelse = self.block(node.body), self.block(node.orelse)
        hoisted = self.hoisted([*node.body, *node.orelse])
        if not body and not orelse:
            return hoisted
        if isinstance(node.test, ast.UnaryOp) and is_type_checking(node.test.operand):
            return _join(_dedent(body), hoisted)
        if not self.steady(node.test):
            plain = [
                self.statement(item, True)
                for item in (*node.body, *node.orelse)
                if isinstance(item, ast.ClassDef)
                and item in (self.surface.values.get(item.name), self.surface.stateful.get(item.name))
            ]
            return _join(*plain, hoisted)
        text = f"if {ast.unparse(node.test)}:\n{body or '    pass'}"
        if orelse:
            text += f"\nelse:\n{orelse}"
        return _join(text, hoisted)

    def steady(self, test: ast.expr) -> bool:
        """Whether a condition comes out the same in every shard: it asks for versions, platforms and constants only."""
        for item in ast.walk(test):
            if isinstance(item, ast.Name):
                binding = self.symbols.last(item.id)
                if binding is None or item.id in self.surface.constants:
                    continue
                if is_type_checking(item):
                    self.surface.needed.add(item.id)
                    continue
                if binding.kind is not Bind.IMPORT or item.id not in ("sys", "os", "platform"):
                    return False
            elif isinstance(item, ast.Attribute) and isinstance(item.value, ast.Name):
                if item.value.id in ("sys", "os", "platform") and f"{item.value.id}.{item.attr}" not in _STATIC_TESTS:
                    return False
            elif isinstance(item, ast.Call) and ast.unparse(item.func) != "platform.system":
                return False
        for name in ("sys", "os", "platform"):
            if any(isinstance(item, ast.Name) and item.id == name for item in ast.walk(test)):
                self.surface.needed.add(name)
        return True

    def attempt(self, node: ast.Try | ast.TryStar) -> str:
        everything = [*node.body, *(item for handler in node.handlers for item in handler.body), *node.orelse]
        hoisted = self.hoisted([*everything, *node.finalbody])
        names = {
            name for statement, _ in statements([*everything, *node.finalbody]) for name in _bound_by(self, statement)
        }
        if not names & (
            self.surface.needed | self.surface.constants | self.surface.values.keys() | self.surface.stateful.keys()
        ):
            return hoisted
        self.surface.needed |= {name for name in names if self.is_import(name)}
        body = self.block(node.body)
        if not body:  # nothing of the attempt itself is kept: what follows success is
            return _join(_dedent(self.block(node.orelse)), hoisted)
        text = f"try:\n{body}"
        for handler in node.handlers:
            kind = f" {ast.unparse(handler.type)}" if handler.type is not None else ""
            name = f" as {handler.name}" if handler.name else ""
            star = "*" if isinstance(node, ast.TryStar) else ""
            inner = self.block(handler.body)
            if not inner:
                raises = [item for item in handler.body if isinstance(item, ast.Raise)]
                inner = f"    {ast.unparse(raises[0])}" if raises and handler.name is None else "    pass"
            text += f"\nexcept{star}{kind}{name}:\n{inner}"
        if node.orelse and (inner := self.block(node.orelse)):
            text += f"\nelse:\n{inner}"
        if not node.handlers:
            text += f"\nfinally:\n{self.block(node.finalbody) or '    pass'}"
        elif node.finalbody and (inner := self.block(node.finalbody)):
            text += f"\nfinally:\n{inner}"
        return _join(text, hoisted)

    def is_import(self, name: str) -> bool:
        return any(item.kind in (Bind.IMPORT, Bind.FROM) for item in self.symbols.bindings.get(name, ()))

    def block(self, body: list[ast.stmt]) -> str:
        """Nested statements, indented; functions are declared behind the block, for the owner has them either way."""
        texts = []
        for item in body:
            if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = self.statement(item, nested=True)
            if text:
                texts += [f"    {line}" if line.strip() else "" for line in _safe_lines(text)]
        return "\n".join(texts)

    def hoisted(self, body: list[ast.stmt]) -> str:
        names = [item.name for item, _ in statements(body) if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
        return "\n".join(text for name in names if (text := self.function(name)))

    # -- functions and classes -----------------------------------------------------------------------------------

    def function(self, name: str) -> str:
        facts = self.surface.functions.get(name)
        if facts is None or name in self.emitted:
            return ""
        self.emitted.add(name)
        binding = self.symbols.last(name)
        if binding is not None and isinstance(binding.value, ast.Name) and binding.value.id in self.emitted:
            return f"{name} = {binding.value.id}"
        return f"{name} = {declare(name, facts)}"

    def class_statement(self, node: ast.ClassDef) -> str:
        name = node.name
        if self.surface.stateful.get(name) is node:
            return self.handle(name, node)
        if name in self.surface.stateful or name in self.surface.functions:
            return ""
        if name not in self.surface.values:
            return ""
        if name in self.surface.stripped:
            bases = ", ".join(ast.unparse(base) for base in node.bases)
            return f"class {name}({bases}):\n    {ast.get_docstring(node)!r}"
        return self.value_class(node)

    def value_class(self, node: ast.ClassDef) -> str:
        needs = needs_of(node)
        remote = {name for name in needs.later if name in self.surface.remote}
        drops = any(id(item) in self.surface.undecorated for inner in ast.walk(node)
                    for item in getattr(inner, "decorator_list", []))  # fmt: skip
        if not remote and not drops:
            return self.verbatim(node)
        copy = parsed(ast.unparse(self._plain(node))).body[0]
        again = needs_of(copy)
        marked = {id(item): name for name in remote for item in again.nodes.get(name, ())}
        if marked:
            self.asks = True
            copy = _Ask(marked).visit(copy)
        return ast.unparse(ast.fix_missing_locations(copy))

    def _plain(self, node: ast.ClassDef) -> ast.ClassDef:
        copy = ast.ClassDef(**{name: getattr(node, name) for name in node._fields if hasattr(node, name)})
        copy.decorator_list = [item for item in node.decorator_list if id(item) not in self.surface.undecorated]
        copy.body = [self._plain(item) if isinstance(item, ast.ClassDef) else item for item in node.body]
        return ast.copy_location(copy, node)

    def handle(self, qualname: str, node: ast.ClassDef) -> str:
        facts = self.program.classes.facts(Ref(self.module.name, qualname))
        assert facts is not None
        nested = [item for item in node.body if isinstance(item, ast.ClassDef)]
        name = node.name
        lines = []
        outer = f"__shardwright_outer_{qualname.replace('.', '_')}__"
        if nested:
            lines.append(f"class {name}:")
            for item in nested:
                inner = self.program.classes.facts(Ref(self.module.name, f"{qualname}.{item.name}"))
                if inner is not None and inner.stateful:
                    text = self.handle(f"{qualname}.{item.name}", item)
                else:
                    text = ast.unparse(item)
                lines += [f"    {line}" if line.strip() else "" for line in _safe_lines(text)]
            lines.append(f"{outer} = {name}")
        lines.append(f"{name} = {self.declare_class(qualname, facts)}")
        for item in nested:
            lines.append(f"type.__setattr__({name}, {item.name!r}, {outer}.{item.name})")
        for constant, text in sorted(constants_of(node).items()):
            lines.append(f"type.__setattr__({name}, {constant!r}, {text})")
        for base in self._abstract_bases(facts):
            lines.append(f"{base}.register({name})")
        return "\n".join(lines)

    def _abstract_bases(self, facts: ClassFacts) -> list[str]:
        found = []
        for item in facts.node.bases:
            ref = self.program.resolver.expression(self.module.name, item)
            above = self.program.classes.facts(ref) if ref is not None else None
            if (
                above is not None
                and not above.stateful
                and above.is_abstract_base
                and isinstance(item, ast.Name | ast.Attribute)
            ):
                found.append(ast.unparse(item))
        return found

    def declare_class(self, qualname: str, facts: ClassFacts, inherits: bool = True) -> str:
        """The ``handle_class`` call of a stateful class."""
        methods = []
        for name in sorted(facts.methods):
            method = facts.methods[name]
            methods.append(
                f"{name!r}: {{'kind': {method.kind!r}, 'is_async': {method.facts.is_async!r}, "
                f"'is_generator': {method.facts.is_generator!r}, "
                f"'signature': {method.facts.signature!r}, 'doc': {method.facts.doc!r}}}"
            )
        bases = []
        for item in facts.node.bases if inherits else ():
            plain = item.value if isinstance(item, ast.Subscript) else item
            ref = self.program.resolver.expression(self.module.name, plain)
            mine = ref is not None and self.program.owners.get(ref.module) == self.program.owners[self.module.name]
            if ref is not None and mine and self.program.classes.is_stateful(ref):
                bases.append(ast.unparse(plain))
        inner = ", ".join(bases) + ("," if len(bases) == 1 else "")
        body = "".join(f"\n    {line}," for line in methods)
        return (
            f"__shardwright__.handle_class({qualname!r}, methods={{{body}{chr(10) if body else ''}}}, bases=({inner}), "
            f"doc={ast.get_docstring(facts.node)!r}, line={facts.node.lineno}, "
            f"signature={self.program.classes.constructor(facts).signature!r}"
            f"{', generic=True' if facts.is_generic else ''})"
        )


def declare(name: str, facts: FunctionFacts) -> str:
    """The ``function`` call of a stub."""
    return (
        f"__shardwright__.function({name!r}, signature={facts.signature!r}, doc={facts.doc!r}, "
        f"is_async={facts.is_async!r}, is_generator={facts.is_generator!r}, line={facts.line})"
    )


class _Ask(ast.NodeTransformer):
    def __init__(self, marked: dict[int, str]) -> None:
        self._marked = marked

    def visit_Name(self, node: ast.Name) -> ast.AST:
        name = self._marked.get(id(node))
        if name is None:
            return node
        return ast.Call(ast.Name("__shardwright_value__", ast.Load()), [ast.Constant(name)], [])


def _bound_by(writer: StubWriter, statement: ast.stmt) -> list[str]:
    match statement:
        case ast.Import() | ast.ImportFrom():
            return [name for name, _, _, _ in import_bindings(writer.module, statement)]
        case ast.Assign(targets=targets):
            return [name for target in targets for name in target_names(target)]
        case ast.AnnAssign(target=target):
            return target_names(target)
        case ast.ClassDef(name=name):
            return [name]
    return []


def _safe_lines(text: str) -> list[str]:
    """Lines that may be indented: a text whose strings span lines is rebuilt, so that none does."""
    tree = parsed(text)
    return [line for statement in tree.body for line in ast.unparse(statement).split("\n")]


def _dedent(text: str) -> str:
    return "\n".join(line[4:] if line.startswith("    ") else line for line in text.split("\n"))


def _join(*texts: str) -> str:
    return "\n".join(text for text in texts if text)
