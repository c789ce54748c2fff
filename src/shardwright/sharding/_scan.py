"""One walk over a module: what it uses of others, what it writes after import, which files and variables it reads.

Names are resolved through scopes, imports and simple local types (``x = World()``, annotations); what cannot be
resolved is left out here, for a statically uncertain use must never be the reason for a cut.

Over 400 lines: one visitor, whose parts share the scopes that it keeps.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable

from shardwright.sharding._scanned import MUTATORS, Scan, Touch, Use, UseKind
from shardwright.sharding._scopes import Instance, Names, Scope, Value, local_names
from shardwright.sharding._source import SourceModule
from shardwright.sharding._symbols import (
    Bind,
    Ref,
    Resolver,
    import_bindings,
    is_main_guard,
    is_type_checking,
    target_names,
)

_PROCESS = frozenset({
    "os.chdir", "os.umask", "os.putenv", "os.unsetenv", "locale.setlocale", "random.seed", "signal.signal",
    "warnings.filterwarnings", "warnings.simplefilter", "decimal.setcontext", "socket.setdefaulttimeout",
    "sys.setrecursionlimit", "sys.settrace", "sys.setswitchinterval",
})  # fmt: skip
_LOGGING = frozenset({
    "logging.basicConfig", "logging.disable", "logging.config.dictConfig", "logging.config.fileConfig",
})  # fmt: skip
_ITERATORS = frozenset(f"builtins.{name}" for name in (
    "list", "tuple", "set", "frozenset", "sorted", "sum", "any", "all", "enumerate", "zip", "map", "filter", "iter",
    "min", "max",
))  # fmt: skip
_READERS = frozenset({"read_text", "read_bytes", "iterdir", "glob", "rglob"})
_WRITERS = frozenset({"write_text", "write_bytes", "mkdir", "touch", "unlink", "rmdir"})
_Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


def scan(resolver: Resolver, module: SourceModule) -> Scan:
    """Everything that one module uses, writes and touches."""
    walker = _Walker(resolver, module)
    walker.body(module.tree.body)
    walker.finish()
    return walker.found


class _Walker(Names):
    def __init__(self, resolver: Resolver, module: SourceModule) -> None:
        super().__init__(resolver, module)
        self.found = Scan(module)
        self.top = ""
        self.depth = 0  # functions around us
        self.postponed: list[tuple[_Function, list[Scope], str, int]] = []

    # -- recording -----------------------------------------------------------------------------------------------

    def use(self, ref: Ref, kind: UseKind, line: int, **more: object) -> None:
        if self.resolver.tree.locate(ref.module) is not None:
            self.found.uses.append(Use(ref, kind, line, self.top, self.depth > 0, **more))  # type: ignore[arg-type]

    def touch(self, kind: str, name: str, writes: bool, line: int) -> None:
        self.found.touches.append(Touch(kind, name, writes, line, self.depth > 0, self.top))

    def mutate(self, ref: Ref, line: int, by: str = "") -> None:
        """What an object holds is the object's: changing it writes no global, whatever the class is called."""
        self.use(ref, UseKind.SET if ref.held else UseKind.MUTATE, line, by=by)

    def iterated(self, node: ast.expr) -> None:
        value = self.evaluate(node)
        if isinstance(value, Instance):
            self.use(value.ref, UseKind.ITERATE, node.lineno, instance=True)

    def reach(self, name: str, line: int) -> None:
        """Importing ``a.b`` imports ``a`` too."""
        while name:
            if self.resolver.tree.locate(name) is not None:
                self.found.imports.append((name, line))
            name = name.rpartition(".")[0]

    # -- statements ----------------------------------------------------------------------------------------------

    def body(self, statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            if not self.scopes:
                self.top = _top_name(statement)
            self.statement(statement)

    def finish(self) -> None:
        """Function bodies come last, when the types of module-level names are known."""
        while self.postponed:
            node, scopes, top, depth = self.postponed.pop(0)
            self.scopes, self.top, self.depth = scopes, top, depth
            self.function_body(node)

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Import() | ast.ImportFrom():
                self.imports(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Name | ast.Attribute):  # a call, with the function as argument
                        self.load(decorator, UseKind.CALL, unsafe_argument=f"function {node.name}, which it decorates,")
                    else:
                        self.expression(decorator)
                self.function(node)
            case ast.ClassDef():
                self.class_body(node)
            case ast.Assign():
                self.expression(node.value)
                for target in node.targets:
                    self.assign(target, self.evaluate(node.value))
                    if self.scopes and isinstance(target, ast.Name):
                        self.scopes[-1].made[target.id] = self.local_class(node.value)
            case ast.AnnAssign():
                if node.value is not None:
                    self.expression(node.value)
                    self.assign(node.target, self.evaluate(node.value) or self._annotated(node.annotation))
                elif isinstance(node.target, ast.Name) and self.scopes:
                    self.assign(node.target, self._annotated(node.annotation))
            case ast.AugAssign():
                self.expression(node.value)
                if isinstance(node.target, ast.Name):
                    self.write_name(node.target)
                else:
                    self.assign(node.target, None)
            case ast.Delete():
                for target in node.targets:
                    self.assign(target, None)
            case ast.If():
                if is_type_checking(node.test):
                    self.type_only(node.body)
                elif not (is_main_guard(node.test) and not self.scopes):
                    self.expression(node.test)
                    self.body_in(node.body)
                else:
                    self.body_in(node.body)
                self.body_in(node.orelse)
            case ast.With() | ast.AsyncWith():
                for item in node.items:
                    self.enter(item)
                self.body_in(node.body)
            case ast.For() | ast.AsyncFor():
                self.iterated(node.iter)
                self.expression(node.iter)
                self.assign(node.target, None)
                self.body_in(node.body)
                self.body_in(node.orelse)
            case ast.Try() | ast.TryStar():
                self.body_in(node.body)
                for handler in node.handlers:
                    if handler.type is not None:
                        self.tested(handler.type)
                    self.body_in(handler.body)
                self.body_in(node.orelse)
                self.body_in(node.finalbody)
            case ast.While():
                self.expression(node.test)
                self.body_in(node.body)
                self.body_in(node.orelse)
            case ast.Global() | ast.Nonlocal() | ast.Pass() | ast.Break() | ast.Continue():
                pass
            case ast.Match():
                self.expression(node.subject)
                for case in node.cases:
                    for pattern in ast.walk(case.pattern):
                        if isinstance(pattern, ast.MatchClass):
                            self.tested(pattern.cls)
                        elif isinstance(pattern, ast.MatchValue):
                            self.expression(pattern.value)
                    if case.guard is not None:
                        self.expression(case.guard)
                    self.body_in(case.body)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.expression(child)

    def body_in(self, statements: list[ast.stmt]) -> None:
        """A block inside another statement: at the top level its statements keep names of their own."""
        self.body(statements)

    def type_only(self, statements: list[ast.stmt]) -> None:
        if self.scopes:
            for statement in statements:
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    for name, _, ref, _ in import_bindings(self.module, statement):
                        self.scopes[-1].names[name] = ref

    def imports(self, node: ast.Import | ast.ImportFrom) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.reach(alias.name, node.lineno)
        else:
            source = self.module.absolute(node.module, node.level)
            self.reach(source, node.lineno)
            if node.names[0].name == "*":
                self.resolver.demanded.setdefault(source, set())
        for name, kind, ref, _ in import_bindings(self.module, node):
            home = ref
            if kind is Bind.FROM:
                home = self.resolver.canonical(ref) if self.resolver.tree.locate(ref.module) is not None else ref
                if not home.name:
                    self.reach(home.module, node.lineno)
                self.use(home, UseKind.IMPORT, node.lineno)
            if self.scopes and name not in self.scopes[-1].globals:
                self.scopes[-1].names[name] = home

    def function(self, node: _Function) -> None:
        arguments = node.args
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self.expression(default)
        if self.scopes and not isinstance(node, ast.Lambda):
            self.scopes[-1].names[node.name] = None
        self.postponed.append((node, list(self.scopes), self.top, self.depth + 1))

    def function_body(self, node: _Function) -> None:
        scope = Scope()
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else list(node.body)
        local_names(body, scope)
        arguments = node.args
        plain = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
        for arg in plain:
            inferred = self._annotated(arg.annotation)
            scope.names[arg.arg] = inferred
        for extra in (arguments.vararg, arguments.kwarg):
            if extra is not None:
                scope.names[extra.arg] = None
        self.scopes = [*self.scopes, scope]
        if isinstance(node, ast.Lambda):
            self.expression(node.body)
        else:
            self.body(node.body)

    def class_body(self, node: ast.ClassDef) -> None:
        for decorator in node.decorator_list:
            self.expression(decorator)
        for base in node.bases:
            ref = self.evaluate(base.value if isinstance(base, ast.Subscript) else base)
            if isinstance(ref, Ref):
                self.use(ref, UseKind.SUBCLASS, node.lineno)
            self.inside(base)
        for keyword in node.keywords:
            self.expression(keyword.value)
        if self.scopes:
            self.scopes[-1].names[node.name] = None
        scope = Scope(is_class=True)
        outer = self.scopes
        self.scopes = [*outer, scope]
        for statement in sorted(node.body, key=lambda item: getattr(item, "name", "") != "__init__"):
            self.statement(statement)
        self.scopes = outer

    # -- writes --------------------------------------------------------------------------------------------------

    def write_name(self, node: ast.Name) -> None:
        if not self.scopes:
            return
        if any(node.id in scope.globals for scope in self.scopes):
            self.use(Ref(self.module.name, node.id), UseKind.WRITE, node.lineno)
        elif node.id in self.scopes[-1].names:
            self.scopes[-1].names[node.id] = None

    def assign(self, target: ast.expr, value: Value) -> None:
        match target:
            case ast.Name(id=name):
                if not self.scopes:
                    if isinstance(value, Instance) or (isinstance(value, Ref) and not value.name):
                        self.values[name] = value
                elif name in self.scopes[-1].globals:
                    self.use(Ref(self.module.name, name), UseKind.WRITE, target.lineno)
                else:
                    self.scopes[-1].names[name] = value
            case ast.Attribute(value=base, attr=attribute):
                if isinstance(base, ast.Name) and base.id == "self":
                    for scope in reversed(self.scopes):
                        if scope.is_class:
                            if value is not None or attribute not in scope.attributes:
                                scope.attributes[attribute] = value
                            break
                owner = self.evaluate(base)
                if isinstance(owner, Instance):
                    self.use(Ref(owner.ref.module, f"{owner.ref.name}.{attribute}"), UseKind.SET, target.lineno)
                elif isinstance(owner, Ref) and owner.name:
                    self.mutate(owner, target.lineno)
                elif isinstance(owner, Ref):
                    self.use(self.resolver.member(owner, attribute), UseKind.WRITE, target.lineno)
                self.module_object(base, target.lineno)
                self.expression(base)
            case ast.Subscript(value=base, slice=index):
                owner = self.evaluate(_container(base))
                if isinstance(owner, Ref) and owner.name:
                    if owner == Ref("os", "environ"):
                        self.environ(index, True, target.lineno)
                    self.mutate(
                        owner, target.lineno, "__delitem__" if isinstance(target.ctx, ast.Del) else "__setitem__"
                    )
                self.module_object(base, target.lineno)
                if owner != Ref("os", "environ"):
                    self.expression(base)
                self.expression(index)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self.assign(part, None)
            case ast.Starred(value=inner):
                self.assign(inner, None)

    def module_object(self, base: ast.expr, line: int) -> None:
        """A change to an object that a module-level name of known class holds is a change of that global."""
        while isinstance(base, ast.Attribute | ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name) and isinstance(self.values.get(base.id), Instance):
            ref = self.lookup(base.id)
            if ref is self.values[base.id]:
                self.use(Ref(self.module.name, base.id), UseKind.MUTATE, line)

    # -- expressions ---------------------------------------------------------------------------------------------

    def expression(self, node: ast.expr) -> None:
        match node:
            case ast.Constant():
                return
            case ast.Name() | ast.Attribute():
                self.load(node, UseKind.LOAD)
            case ast.Call():
                self.call(node)
            case ast.Lambda():
                self.function(node)
            case ast.Starred(value=value) | ast.YieldFrom(value=value):
                self.iterated(value)
                self.expression(value)
            case ast.NamedExpr(target=target, value=value):
                self.expression(value)
                self.assign(target, self.evaluate(value))
            case ast.Subscript(value=base, slice=index) if self.evaluate(base) == Ref("os", "environ"):
                self.environ(index, False, node.lineno)
                self.expression(index)
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                scope = Scope()
                self.scopes = [*self.scopes, scope] if self.scopes else [scope]
                for generator in node.generators:
                    self.iterated(generator.iter)
                    for name in target_names(generator.target):
                        scope.names[name] = None
                self.inside(node)
                self.scopes = self.scopes[:-1]
            case _:
                self.inside(node)

    def inside(self, node: ast.AST) -> None:
        for name in node._fields:  # by hand, for large tables of literals are the bulk of many a program
            child = getattr(node, name, None)
            for item in child if type(child) is list else (child,):
                if type(item) is ast.Constant:
                    continue
                if isinstance(item, ast.expr):
                    self.expression(item)
                elif isinstance(item, ast.comprehension | ast.keyword):
                    self.inside(item)

    def load(self, node: ast.expr, kind: UseKind, **more: object) -> None:
        """Records the longest resolved chain of a dotted name, then looks at what it stands on."""
        value = self.evaluate(node)
        base: ast.expr = node
        while isinstance(base, ast.Attribute):
            base = base.value
        if isinstance(value, Ref):
            instance = isinstance(node, ast.Attribute) and self.through_instance(node.value)
            if value == Ref("os", "environ"):
                self.touch("environment", "*", False, node.lineno)
            if value.name or not isinstance(base, ast.Name):
                self.use(value, kind, node.lineno, instance=instance, **more)
            elif isinstance(node, ast.Name | ast.Attribute):
                self.found.dynamic.append((value, node.lineno)) if kind is UseKind.LOAD else None
        elif isinstance(value, Instance) and isinstance(node, ast.Name) and self.values.get(node.id) is value:
            self.use(Ref(self.module.name, node.id), kind, node.lineno, **more)
        if isinstance(base, ast.Name):
            known = self.values.get(base.id)
            if base is not node and isinstance(known, Instance) and self.lookup(base.id) is known:
                self.use(Ref(self.module.name, base.id), UseKind.LOAD, node.lineno)
        else:
            self.expression(base)

    def through_instance(self, node: ast.expr) -> bool:
        while True:
            if isinstance(self.evaluate(node), Instance):
                return True
            if not isinstance(node, ast.Attribute):
                return False
            node = node.value

    def tested(self, node: ast.expr) -> None:
        for item in node.elts if isinstance(node, ast.Tuple) else [node]:
            if isinstance(item, ast.Name | ast.Attribute):
                self.load(item, UseKind.TEST)
            else:
                self.expression(item)

    def enter(self, item: ast.withitem) -> None:
        context = item.context_expr
        value = self.evaluate(context)
        if isinstance(value, Instance):
            self.use(value.ref, UseKind.ENTER, context.lineno, instance=True)
        elif isinstance(context, ast.Call):
            called = self.evaluate(context.func)
            if isinstance(called, Ref) and called.name:
                self.use(called, UseKind.ENTER, context.lineno)
            elif called is None and isinstance(context.func, ast.Attribute):
                self.unknown_enter(context.func)
        elif isinstance(value, Ref) and value.name:
            self.use(value, UseKind.ENTER, context.lineno)
        self.expression(context)
        if item.optional_vars is not None:
            self.assign(item.optional_vars, value if isinstance(value, Instance) else None)

    def unknown_enter(self, function: ast.Attribute) -> None:
        self.found.unknown_enters.add((function.attr, function.lineno))

    def call(self, node: ast.Call) -> None:
        called = self.evaluate(node.func)
        known = f"{called.module}.{called.name}" if isinstance(called, Ref) else ""
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if known in ("builtins.isinstance", "builtins.issubclass") and len(node.args) == 2:
            self.expression(node.args[0])
            self.tested(node.args[1])
            return
        self.special(node, known)
        if known in _ITERATORS:
            for argument in node.args:
                self.iterated(argument)
        unsafe, callbacks = "", []
        for argument in arguments:
            passed = self.evaluate(argument) if isinstance(argument, ast.Name | ast.Attribute) else None
            if isinstance(passed, Ref) and passed.name:
                callbacks.append(passed)
            if isinstance(argument, ast.Lambda):
                unsafe = "a lambda"
            elif isinstance(argument, ast.GeneratorExp):
                unsafe = "a generator"
            elif made := self.local_class(argument):
                unsafe = f"an object of class {made}, which a function makes,"
        if isinstance(node.func, ast.Attribute):
            owner = self.evaluate(_container(node.func.value))
            if node.func.attr in MUTATORS and isinstance(owner, Ref) and owner.name:
                self.mutate(owner, node.lineno, node.func.attr)
                if owner.held:
                    self.module_object(node.func.value, node.lineno)
            if called is None and owner is None:
                self.found.unknown_calls.append((node.func.attr, node.lineno, self.top))
        if known != "os.getenv" and not known.startswith("os.environ"):
            if isinstance(node.func, ast.Name | ast.Attribute):
                self.load(node.func, UseKind.CALL, unsafe_argument=unsafe, callbacks=tuple(callbacks))
            else:
                self.expression(node.func)
        for argument in arguments:
            self.expression(argument)

    def local_class(self, node: ast.expr) -> str:
        """The class of an object, where a function around us makes that class; else empty."""
        name = node.func if isinstance(node, ast.Call) else node
        if not isinstance(name, ast.Name):
            return ""
        for scope in reversed(self.scopes):
            if name.id in scope.names and not scope.is_class:
                if isinstance(node, ast.Call):
                    return name.id if name.id in scope.classes else ""
                return scope.made.get(name.id, "")
        return ""

    def special(self, node: ast.Call, known: str) -> None:
        """Files, variables, process settings, and imports and attributes by name."""
        first = node.args[0] if node.args else None
        text = first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else None
        if known in ("os.getenv", "os.environ.get", "os.environ.setdefault", "os.environ.pop") and first is not None:
            self.environ(first, known.endswith(("setdefault", "pop")), node.lineno)
        elif known in ("importlib.import_module", "builtins.__import__") and text is not None:
            name = self._absolute(text)
            self.reach(name, node.lineno)
            if self.resolver.tree.locate(name) is not None:
                self.found.dynamic.append((Ref(name), node.lineno))
        elif known in ("builtins.open", "io.open", "codecs.open") and text is not None:
            mode = (
                node.args[1] if len(node.args) > 1 else next((k.value for k in node.keywords if k.arg == "mode"), None)
            )
            letters = str(mode.value) if isinstance(mode, ast.Constant) else "r"
            self.touch("file", text, any(letter in letters for letter in "wax+"), node.lineno)
        elif known in ("sqlite3.connect", "shelve.open", "dbm.open") and text is not None and text != ":memory:":
            self.touch("file", text, True, node.lineno)
        elif known in _PROCESS and self.depth:
            self.touch("process", known, True, node.lineno)
        elif known in _LOGGING or self.adds_handler(node):
            self.touch("logging", known if known in _LOGGING else "addHandler", True, node.lineno)
        elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):
            path = node.func.value
            if node.func.attr in _READERS | _WRITERS | {"open"} and self.evaluate(path.func) == Ref("pathlib", "Path"):
                where = path.args[0] if path.args else None
                if isinstance(where, ast.Constant) and isinstance(where.value, str):
                    mode_text = text if node.func.attr == "open" and text else "r"
                    writes = node.func.attr in _WRITERS or any(letter in mode_text for letter in "wax+")
                    self.touch("file", where.value, writes, node.lineno)

    def adds_handler(self, node: ast.Call) -> bool:
        """``logger.addHandler(...)``, except of the NullHandler that libraries add for good manners."""
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "addHandler" or len(node.args) != 1:
            return False
        made = node.args[0]
        return not (isinstance(made, ast.Call) and self.evaluate(made.func) == Ref("logging", "NullHandler"))

    def environ(self, name: ast.expr, writes: bool, line: int) -> None:
        literal = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "*"
        self.touch("environment", literal, writes, line)


def _container(node: ast.expr) -> ast.expr:
    """What holds ``node``, through any number of ``[...]``."""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node


def _top_name(statement: ast.stmt) -> str:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case _:
            return ""
