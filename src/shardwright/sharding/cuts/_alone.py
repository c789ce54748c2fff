"""Whether a function can run in a shard that has its own copy of everything but the arguments.

Such a shard imports the same modules. What a call there reads must be what importing them made, or an argument; what it
changes must be its arguments, or what it made itself. Everything that a function may call is looked at, by every edge of
the graph however unsure, and by the edges that runs showed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping

from msgspec import Struct

from shardwright.model.shard import Site
from shardwright.sharding._scanned import MUTATORS
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.callgraph._code import Function
from shardwright.sharding.callgraph._values import BoxValue, ClassValue, InstanceValue, ModuleValue
from shardwright.sharding.cuts._lasting import Changed, changed_through
from shardwright.sharding.hazards import Effects
from shardwright.sharding.hazards._facts import Effect, Fact, Reader, _own

_WORLD_MODULES = (
    "subprocess.", "socket.", "shutil.", "sqlite3.", "urllib.request.", "http.client.", "requests.", "time.", "random.",
    "secrets.", "logging.", "warnings.", "tempfile.", "threading.", "multiprocessing.", "asyncio.", "select.", "signal.",
    "atexit.", "readline.", "getpass.", "webbrowser.", "platform.", "locale.", "ctypes.",
)  # fmt: skip
_WORLD = frozenset({
    "builtins.print", "builtins.input", "builtins.open", "io.open", "sys.stdout", "sys.stderr", "sys.stdin", "sys.exit",
    "uuid.uuid1", "uuid.uuid4", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today",
    "datetime.datetime.today", "gzip.open", "codecs.open", "gc.collect", "sys.setrecursionlimit", "builtins.breakpoint",
})  # fmt: skip
_HARMLESS = frozenset({
    "os.path", "os.fspath", "os.sep", "os.linesep", "os.name", "os.PathLike", "os.fsencode", "os.fsdecode", "os.altsep",
    "random.Random", "time.struct_time", "threading.Lock", "threading.RLock", "socket.AF_INET",
    "asyncio.iscoroutinefunction",
})  # fmt: skip
_WORLD_METHODS = frozenset({
    "write_text", "write_bytes", "read_text", "read_bytes", "unlink", "mkdir", "rmdir", "touch", "iterdir", "rglob",
    "recv", "sendall", "makefile", "fileno",
})  # fmt: skip
_SETTERS = frozenset({"setattr", "delattr"})
_OF_FUNCTIONS = frozenset({"__code__", "__defaults__", "__kwdefaults__", "__closure__"})
_OWN_KINDS = frozenset({"classmethod", "property", "cached_property", "setter", "getter", "deleter", "overload"})
_VETOES = {
    Effect.WRITES_GLOBAL: "SW301", Effect.PROCESS: "SW321", Effect.THREAD_LOCAL: "SW325",
    Effect.CONTEXT_VARIABLE: "SW324", Effect.OPENS: "SW326", Effect.STARTS: "SW318", Effect.LOOPS: "SW323",
    Effect.CLASS_STATE: "SW304", Effect.PATCHES: "SW319",
}  # fmt: skip


class Veto(Struct, frozen=True):
    """Why a function is not cut: the rule, the place, the evidence."""

    code: str
    site: Site
    evidence: str
    soft: bool = False  # two things may be the same, as far as reading tells: a look while it runs decides
    firm: bool = False  # cuts cannot be made so: no look overrules it


class Alone:
    """Answers for all functions of one scan. ``executed`` are further edges, that runs showed."""

    def __init__(self, scanned: Scanned, effects: Effects, executed: Iterable[tuple[str, str]] = ()) -> None:
        self.scanned, self.effects = scanned, effects
        self.functions: dict[str, Function] = {key: function for function, key in scanned.ids.items()}
        self._calls: dict[str, set[str]] = {}
        for site in scanned.graph.sites:
            for candidate in site.candidates:
                self._calls.setdefault(site.caller, set()).add(candidate.function)
        for caller, callee in executed:
            self._calls.setdefault(caller, set()).add(callee)
        self._reader = Reader(scanned.analysis.resolver)
        self._own: dict[str, Veto | None] = {}
        self._vetoes: dict[str, Veto | None] = {}
        self._reach: dict[str, frozenset[str]] = {}
        self._late: dict[str, str] = {}  # globals that functions write, with one of those
        for key, facts in effects.facts.items():
            for fact in facts:
                if fact.effect is Effect.WRITES_GLOBAL:
                    self._late.setdefault(fact.name, key)
        self._hazardous: dict[str, Veto] = {}
        self._stored: dict[str, str] = {}  # attributes that functions set of classes, functions and modules, by name
        self._patcher = ""  # code that sets names of modules it does not name
        for key, function in self.functions.items():
            if function.node is not None:
                self._note_stores(key, function)
        for (function, target, name), line in scanned.calls.writes.items():
            if function.node is None or not isinstance(target, ClassValue | ModuleValue):
                continue
            key = scanned.ids[function]
            where = Site(function.module.source.relative, line)
            if isinstance(target, ClassValue):
                self._stored.setdefault(name, key)
                self._hazardous.setdefault(key, Veto("SW304", where, f"{key} writes {target.class_.name}.{name}"))
            else:
                self._late.setdefault(f"{target.name}:{name}", key)
                self._hazardous.setdefault(key, Veto("SW319", where, f"{key} writes {target.name}.{name}"))
        self._perhaps: dict[str, str] = {}  # globals that hold what functions change that were handed it
        self._note_changes(effects)

    def reach(self, key: str) -> frozenset[str]:
        """Everything that a call may run, itself included."""
        found = self._reach.get(key)
        if found is None:
            seen, todo = {key}, [key]
            while todo:
                for callee in self._calls.get(todo.pop(), ()):
                    if callee not in seen:
                        seen.add(callee)
                        todo.append(callee)
            found = self._reach[key] = frozenset(seen)
        return found

    def veto(self, key: str) -> Veto | None:
        """Why the function cannot run elsewhere; None when nothing is known against it."""
        if key not in self._vetoes:
            self._vetoes[key] = self._judged(key)
        return self._vetoes[key]

    def _judged(self, key: str) -> Veto | None:
        function = self.functions.get(key)
        if function is None or function.node is None:
            return Veto("SW327", Site("", 0), f"{key} was not found in the source", firm=True)
        shape = self._shape(key, function)
        if shape is not None:
            return shape
        inside = self.reach(key)
        soft: Veto | None = None
        for name in sorted(inside):
            found = self._veto_of(name, inside)
            if found is not None and (soft is None or not found.soft):
                through = "" if name == key else f"; {key} may call it"
                made = Veto(found.code, found.site, found.evidence + through, found.soft)
                if not made.soft:
                    return made
                soft = made
        return soft

    def site(self, key: str) -> Site:
        """Where a function is."""
        place = self.scanned.graph.functions[key]
        return Site(place.path, place.line)

    def code_line(self, key: str) -> int:
        """The first line of a function's code, as code objects count: decorators included."""
        return self.scanned.graph.functions[key].code_line

    # -- the function itself -----------------------------------------------------------------------------------------

    def _shape(self, key: str, function: Function) -> Veto | None:
        site = self.site(key)
        node = function.node
        if isinstance(node, ast.Lambda) or "<locals>" in function.qualname or "@" in key:
            return Veto("SW308", site, f"{key} is no function of a module or a class", firm=True)
        if function.is_async:
            return Veto(
                "SW310", site, f"{key} is a coroutine function, and those are not cut inside components yet", firm=True
            )
        decorators = [ast.unparse(item) for item in getattr(node, "decorator_list", [])]
        if any(item.rpartition(".")[2] in _OWN_KINDS for item in decorators):
            return Veto("SW316", site, f"{key} is decorated with {', '.join(decorators)}", firm=True)
        if function.name.startswith("__") and function.name.endswith("__"):
            return Veto("SW315", site, f"{key} is called by the interpreter", firm=True)
        for fact in self.effects.facts.get(key, ()):
            if fact.effect is Effect.UNCOPYABLE_RESULT:
                return Veto("SW329", Site(site.path, fact.line), f"{key} returns {fact.name}", firm=True)
        for inner in _own(function):  # firm, for a function goes by its name: what is set of it there is not set here
            if isinstance(inner, ast.Attribute) and inner.attr in _OF_FUNCTIONS and not isinstance(inner.ctx, ast.Load):
                where = Site(site.path, inner.lineno)
                return Veto("SW319", where, f"{key} sets {ast.unparse(inner)[:60]} of a function", firm=True)
        if function.is_generator:  # a look decides: it would run to its end before it is asked for more
            return Veto("SW309", site, f"{key} is a generator, and streams across cuts are not built")
        return None

    # -- what it may run ---------------------------------------------------------------------------------------------

    def _veto_of(self, key: str, inside: frozenset[str]) -> Veto | None:
        function = self.functions.get(key)
        if function is None:
            return None
        if key not in self._own:
            self._own[key] = self._look(key, function)
        found = self._own[key]
        if found is not None:
            return found
        for fact in self.effects.facts.get(key, ()):
            if fact.effect is Effect.WRITES_NONLOCAL and not _encloses(key, inside):
                return self._made(key, fact, "SW308")
        return None

    def _made(self, key: str, fact: Fact, code: str, more: str = "", *, soft: bool = False) -> Veto:
        site = Site(self.scanned.graph.functions[key].path, fact.line)
        return Veto(code, site, f"{key} {fact.effect.value} {fact.name}{more}", soft)

    def _look(self, key: str, function: Function) -> Veto | None:
        if function.node is None:
            return None  # the body of a module: both sides import it
        if key in self._hazardous:
            return self._hazardous[key]
        soft = None
        for fact in self.effects.facts.get(key, ()):
            veto = self._of_fact(key, function, fact)
            if veto is not None and not veto.soft:
                return veto
            soft = soft or veto
        return self._of_world(key, function) or soft

    def _of_fact(self, key: str, function: Function, fact: Fact) -> Veto | None:
        effect = fact.effect
        if effect in _VETOES:
            return self._made(key, fact, _VETOES[effect])
        if effect is Effect.READS_GLOBAL and fact.name in self._late:
            return self._made(key, fact, "SW301", f", which {self._late[fact.name]} writes")
        if effect is Effect.READS_GLOBAL and fact.name in self._perhaps:
            more = f", which may be what {self._perhaps[fact.name]} changes"
            return self._made(key, fact, "SW301", more, soft=True)
        if effect is Effect.READS_GLOBAL and self._patcher:
            return self._made(key, fact, "SW319", f", and {self._patcher} sets names of modules that it does not name")
        if effect is Effect.DYNAMIC and not fact.name.startswith("getattr"):
            return self._made(key, fact, "SW327")
        if effect is Effect.LOCKS and not fact.name.startswith("self."):
            return self._made(key, fact, "SW312")
        if effect is Effect.IDENTITY and self._by_identity(function, fact.name):
            return self._made(key, fact, "SW307")
        return None

    def _by_identity(self, function: Function, text: str) -> bool:
        """Whether an identity may differ on a copy: of what a module holds, unless that goes by its name."""
        if text == "id()":
            return False
        module = function.module
        for side in text.split(" is "):
            name = side.strip().partition(".")[0].partition("[")[0].partition("(")[0]
            if name in module.scope.names and self._reader.made(module.source.name, name) != "builtins.object":
                return True
        return False

    def _of_world(self, key: str, function: Function) -> Veto | None:
        """What it does outside of Python's own values: output, files, clocks, chance."""
        module = function.module.source
        for node in _own(function):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                root: ast.expr = node
                while isinstance(root, ast.Attribute):
                    root = root.value
                if not isinstance(root, ast.Name) or self._is_local(function, root.id):
                    dotted = ""
                else:
                    dotted = self._reader._dotted(module.name, node)
                made = ""
                if isinstance(root, ast.Name) and root is not node and not self._is_local(function, root.id):
                    home = self.scanned.analysis.resolver.expression(module.name, root)
                    made = self._reader.made(home.module, home.top) if home is not None and home.name else ""
                if made and _of_the_world(made):
                    return Veto(
                        "SW336", Site(module.relative, node.lineno), f"{key} uses {ast.unparse(node)}, of {made}()"
                    )
                if _of_the_world(dotted):
                    return Veto("SW336", Site(module.relative, node.lineno), f"{key} uses {dotted}")
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in self._stored:
                evidence = f"{key} reads {ast.unparse(node)[:60]}, and {self._stored[node.attr]} sets such an attribute"
                return Veto("SW304", Site(module.relative, node.lineno), evidence)
            changed = self._changed_outside(key, function, node)
            if changed is not None:
                return changed
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _WORLD_METHODS:
                return Veto("SW336", Site(module.relative, node.lineno), f"{key} calls {ast.unparse(node.func)[:60]}")
        return None

    def _note_stores(self, key: str, function: Function) -> None:
        for node in _own(function):
            stores = isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load)
            called = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _SETTERS
            if not stores and not called:
                continue
            base: ast.AST | None = None
            if isinstance(node, ast.Attribute | ast.Subscript):
                base = node.value
            elif isinstance(node, ast.Call) and node.args:
                base = node.args[0]
            if base is None:
                continue
            root: ast.AST = base
            while isinstance(root, ast.Attribute | ast.Subscript | ast.Call):
                text = ast.unparse(root)
                if text.startswith(("sys.modules", "globals()", "vars(", "importlib.import_module(", "__import__(")):
                    self._patcher = self._patcher or key
                    where = Site(function.module.source.relative, getattr(node, "lineno", 0))
                    self._hazardous.setdefault(key, Veto("SW319", where, f"{key} changes {text[:60]}"))
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and not self._is_local(function, root.id) and isinstance(node, ast.Attribute):
                self._stored.setdefault(node.attr, key)
            elif called and isinstance(root, ast.Name) and not self._is_local(function, root.id):
                self._patcher = self._patcher or key
            elif isinstance(node, ast.Attribute) and isinstance(root, ast.Name) and root.id == "cls":
                self._stored.setdefault(node.attr, key)

    def _changed_outside(self, key: str, function: Function, node: ast.AST) -> Veto | None:
        """A change of what another module holds, of whatever package: by an assignment, or by a method that changes."""
        if isinstance(node, ast.Attribute | ast.Subscript) and not isinstance(node.ctx, ast.Load):
            base = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            base = node.func.value
        else:
            return None
        root = base
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        if not isinstance(root, ast.Name) or self._is_local(function, root.id):
            return None
        plain = base
        while isinstance(plain, ast.Subscript):
            plain = plain.value
        module = function.module.source
        ref = self.scanned.analysis.resolver.expression(module.name, plain)
        if ref is None or ref.module in ("", "builtins") or (isinstance(node, ast.Call) and plain is root):
            return None
        dotted = f"{ref.module}.{ref.name}".rstrip(".")
        return Veto("SW319", Site(module.relative, getattr(node, "lineno", 0)), f"{key} changes {dotted}")

    @staticmethod
    def _is_local(function: Function, name: str) -> bool:
        scope = function.scope
        if scope is None or scope.table is None:
            return name in function.named
        try:
            symbol = scope.table.lookup(name)
        except KeyError:
            return False
        return symbol.is_local() or symbol.is_parameter() or symbol.is_free()

    # -- what outlives calls -----------------------------------------------------------------------------------------

    def _note_changes(self, effects: Effects) -> None:
        """Which globals, and which attributes of classes, hold what functions change by way of arguments or ``self``."""
        changed: list[Changed] = []
        for key, facts in effects.facts.items():
            function = self.functions[key]
            for fact in facts:
                if fact.effect is Effect.SELF_STATE and function.owner is not None:
                    changed.append((key, function.owner))
                slot = function.named.get(fact.name) if fact.effect is Effect.MUTATES_ARGUMENT else None
                for value in slot.values if slot is not None else ():
                    if isinstance(value, BoxValue):
                        changed.append((key, value))
                    elif isinstance(value, InstanceValue):
                        changed.append((key, value.class_))
        for origin, key in changed_through(self.scanned.analysis, changed).items():
            if ":" in origin:
                self._perhaps.setdefault(origin, key)
            else:
                self._stored.setdefault(origin, key)


def _of_the_world(dotted: str) -> bool:
    if not dotted:
        return False
    if dotted in _WORLD or dotted.startswith(("sys.stdout.", "sys.stderr.", "sys.stdin.")):
        return True
    if any(dotted == item or dotted.startswith(f"{item}.") for item in _HARMLESS):
        return False
    return dotted.startswith(_WORLD_MODULES) or (dotted.startswith("os.") and dotted.count(".") == 1)


def _encloses(key: str, inside: Mapping[str, object] | frozenset[str]) -> bool:
    """Whether the function around a nested one is among them."""
    outer = key.rpartition(".<locals>.")[0]
    while outer:
        if outer in inside:
            return True
        outer = outer.rpartition(".<locals>.")[0]
    return False
