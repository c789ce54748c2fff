"""Whether a function can run in a shard that has its own copy of everything but the arguments.

Such a shard imports the same modules. What a call there reads must be what importing them made, or an argument; what it
changes must be its arguments, or what it made itself. Everything that a function may call is looked at, by every edge of
the graph however unsure, and by the edges that runs showed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from shardwright.model.shard import Site
from shardwright.sharding._scan import MUTATORS
from shardwright.sharding.callgraph import Scanned
from shardwright.sharding.callgraph._code import Class, Function
from shardwright.sharding.callgraph._values import BoxValue, InstanceValue, Slot
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
_OWN_KINDS = frozenset({"classmethod", "property", "cached_property", "setter", "getter", "deleter", "overload"})
_VETOES = {
    Effect.WRITES_GLOBAL: "SW301", Effect.PROCESS: "SW321", Effect.THREAD_LOCAL: "SW325",
    Effect.CONTEXT_VARIABLE: "SW324", Effect.OPENS: "SW326", Effect.STARTS: "SW318", Effect.LOOPS: "SW323",
    Effect.CLASS_STATE: "SW304", Effect.PATCHES: "SW319",
}  # fmt: skip
_SHARED_HAZARDS = ("SW304", "SW319")  # of writes from outside, found on the way of values


@dataclass(frozen=True, slots=True)
class Veto:
    """Why a function is not cut: the rule, the place, the evidence."""

    code: str
    site: Site
    evidence: str
    soft: bool = False  # two things may be the same, as far as reading tells: a look while it runs decides


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
        self._reach: dict[str, frozenset[str]] = {}
        self._late: dict[str, str] = {}  # globals that functions write, with one of those
        for key, facts in effects.facts.items():
            for fact in facts:
                if fact.effect is Effect.WRITES_GLOBAL:
                    self._late.setdefault(fact.name, key)
        self._hazardous: dict[str, Veto] = {}
        for hazard in effects.hazards:
            if hazard.rule.code in _SHARED_HAZARDS:
                for key in hazard.functions:
                    self._hazardous.setdefault(key, Veto(hazard.rule.code, hazard.site, hazard.evidence))
        self._lasting_classes, self._lasting_boxes = self._lasting()

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
        function = self.functions.get(key)
        if function is None or function.node is None:
            return Veto("SW327", Site("", 0), f"{key} was not found in the source")
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
            return Veto("SW308", site, f"{key} is no function of a module or a class")
        if function.is_generator:
            return Veto("SW309", site, f"{key} is a generator, and streams across cuts are not built")
        if function.is_async:
            return Veto("SW310", site, f"{key} is a coroutine function, and those are not cut inside components yet")
        decorators = [ast.unparse(item) for item in getattr(node, "decorator_list", [])]
        if any(item.rpartition(".")[2] in _OWN_KINDS for item in decorators):
            return Veto("SW316", site, f"{key} is decorated with {', '.join(decorators)}")
        if function.name.startswith("__") and function.name.endswith("__"):
            return Veto("SW315", site, f"{key} is called by the interpreter")
        for fact in self.effects.facts.get(key, ()):
            if fact.effect is Effect.UNCOPYABLE_RESULT:
                return Veto("SW329", Site(site.path, fact.line), f"{key} returns {fact.name}")
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
        if effect is Effect.DYNAMIC and not fact.name.startswith("getattr"):
            return self._made(key, fact, "SW327")
        if effect is Effect.LOCKS and not fact.name.startswith("self."):
            return self._made(key, fact, "SW312")
        if effect is Effect.SELF_STATE and function.owner is not None and function.owner in self._lasting_classes:
            return self._made(key, fact, "SW313", f"; a module holds a {function.owner.name}", soft=True)
        if effect is Effect.MUTATES_ARGUMENT:
            slot = function.named.get(fact.name)
            if slot is not None and any(value in self._lasting_boxes for value in slot.values):
                return self._made(key, fact, "SW301", ", which may be one that a module holds", soft=True)
            if slot is not None and any(
                isinstance(value, InstanceValue) and value.class_ in self._lasting_classes for value in slot.values
            ):
                return self._made(key, fact, "SW313", ", which may be one that a module holds", soft=True)
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
                root = node
                while isinstance(root, ast.Attribute):
                    root = root.value  # type: ignore[assignment]
                if not isinstance(root, ast.Name) or self._is_local(function, root.id):
                    dotted = ""
                else:
                    dotted = self._reader._dotted(module.name, node)
                if _of_the_world(dotted):
                    return Veto("SW336", Site(module.relative, node.lineno), f"{key} uses {dotted}")
            changed = self._changed_outside(key, function, node)
            if changed is not None:
                return changed
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _WORLD_METHODS:
                return Veto("SW336", Site(module.relative, node.lineno), f"{key} calls {ast.unparse(node.func)[:60]}")
        return None

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

    def _lasting(self) -> tuple[set[Class], set[BoxValue]]:
        """Classes whose objects, and containers which, a module or a class holds: directly, or inside of others."""
        classes: set[Class] = set()
        boxes: set[BoxValue] = set()
        todo: list[Slot] = []
        for module in self.scanned.analysis.modules.values():
            todo += module.scope.names.values()
        for class_ in self.scanned.analysis.classes():
            todo += class_.body.values()
        seen: set[Slot] = set()
        while todo:
            slot = todo.pop()
            if slot in seen:
                continue
            seen.add(slot)
            for value in slot.values:
                if isinstance(value, BoxValue) and value not in boxes:
                    boxes.add(value)
                    todo += [value.rest, value.keys, *value.items.values()]
                elif isinstance(value, InstanceValue):
                    for class_ in (value.class_, *(value.class_.below if value.cone else ())):
                        if class_ not in classes:
                            classes.add(class_)
                            for above in class_.inside:
                                classes.add(above)
                                todo += above.attributes.values()
        return classes, boxes


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
