"""Which components call which: found in the code, merged with the manifest; and the hazards at each edge.

Over 400 lines, half of them the wording of findings, each told where its edge is found.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from msgspec import Struct, field

from shardwright.model.ids import ComponentName
from shardwright.model.shard import Diagnostic, PlanEdge, Severity, Site
from shardwright.sharding._classes import ClassFacts, assigned_in, attributes_of, constants_of
from shardwright.sharding._merged import FoundUses, declared_edges, merged
from shardwright.sharding._program import Program
from shardwright.sharding._scanned import Use, UseKind
from shardwright.sharding._source import nearest
from shardwright.sharding._surface import NameKind, Surface
from shardwright.sharding._symbols import Ref
from shardwright.sharding._uses import Openings

# method names of Python's own types: a call of one on an unknown object says nothing
_COMMON_METHODS = frozenset(
    name
    for kind in (str, bytes, list, dict, set, tuple, int, float, object, BaseException, memoryview)
    for name in dir(kind)
) | {
    "close", "read", "write", "open", "run", "start", "stop", "send", "recv", "get", "put", "put_nowait", "join", "set",
    "wait", "flush", "acquire", "release", "group", "match", "search", "execute", "commit", "submit", "result",
}  # fmt: skip

_UNCOPYABLE = frozenset({
    "contextvars.ContextVar", "threading.local", "threading.Lock", "threading.RLock", "threading.Condition",
    "threading.Event", "threading.Semaphore", "threading.BoundedSemaphore", "threading.Barrier", "threading.Thread",
    "queue.Queue", "queue.LifoQueue", "queue.PriorityQueue", "queue.SimpleQueue", "socket.socket", "sqlite3.connect",
    "concurrent.futures.ThreadPoolExecutor", "concurrent.futures.ProcessPoolExecutor", "asyncio.Lock", "asyncio.Event",
    "asyncio.Queue", "asyncio.Semaphore", "asyncio.Condition", "weakref.WeakValueDictionary",
    "weakref.WeakKeyDictionary", "weakref.WeakSet", "weakref.ref",
})  # fmt: skip
_MODULE_NAMES = frozenset({"__name__", "__doc__", "__package__", "__spec__", "__loader__", "__path__", "__file__"})
_PROXY_NAMES = frozenset(
    {"__name__", "__qualname__", "__doc__", "__module__"}
)  # of a function: its proxy has them, too
_PASS_DATA = "pass data, such as a name to choose by, or keep both sides in one component"


class Edges(Struct):
    """The edges of a plan, with findings about them."""

    edges: list[PlanEdge] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)


def find_edges(
    program: Program,
    surfaces: dict[str, Surface],
    components: tuple[ComponentName, ...],
    value_classes: tuple[str, ...] = (),
) -> Edges:
    """All edges between ``components``, sorted by caller and callee. ``value_classes`` are copied across them."""
    return _Finder(program, surfaces, components, value_classes).run()


class _Finder:
    def __init__(
        self,
        program: Program,
        surfaces: dict[str, Surface],
        components: tuple[ComponentName, ...],
        value_classes: tuple[str, ...],
    ) -> None:
        self.program = program
        self.value_classes = value_classes
        self.surfaces = surfaces
        self.components = components
        self.calls: dict[tuple[ComponentName, ComponentName], FoundUses] = {}
        self.values: dict[tuple[ComponentName, ComponentName], FoundUses] = {}
        self.diagnostics: dict[tuple[str, Site | None, str], Diagnostic] = {}
        self.by_method = self._methods()
        self.declared: set[tuple[ComponentName, ComponentName]] = set()

    def run(self) -> Edges:
        self.declared = declared_edges(self.program, self.components)
        for component in self.components:
            for module, use in self._uses(component):
                self._judge(component, module, use)
            self._dynamic(component)
        self._handles()
        openings = Openings(self.program, self.surfaces, self.value_classes)
        edges = merged(self.program, self.components, self.calls, self.values, self.declared, openings, self.note)
        written = {item.site for item in self.diagnostics.values() if item.code == "SW262"}
        told = [item for item in self.diagnostics.values() if item.code != "SW261" or item.site not in written]
        return Edges(edges, told)

    def note(self, code: str, severity: Severity, text: str, site: Site | None, component: str, remedy: str) -> None:
        key = (code, site, text)
        self.diagnostics.setdefault(key, Diagnostic(code, severity, text, site, ComponentName(component), remedy))

    # -- uses ----------------------------------------------------------------------------------------------------

    def _uses(self, component: ComponentName) -> Iterator[tuple[str, Use]]:
        """Uses in the component's code, and in the copied classes of other components that this code names."""
        todo: list[tuple[str, str | None]] = [(name, None) for name in self.program.code_of(component)]
        code = {name for name, _ in todo}
        seen: set[tuple[str, str | None]] = set()
        while todo:
            module, only = todo.pop(0)
            if (module, only) in seen:
                continue
            seen.add((module, only))
            for use in self.program.scan(module).uses:
                if only is not None and (use.top != only or not use.deferred):
                    continue
                yield module, use
                target = self.surfaces.get(use.ref.module)
                if target is None or use.ref.module in code or use.kind is UseKind.TEST:
                    continue
                if target.kind(use.ref.top) is NameKind.VALUE:
                    todo.append((use.ref.module, use.ref.top))

    def _judge(self, component: ComponentName, module: str, use: Use) -> None:
        callee = self.program.owners.get(use.ref.module)
        if callee is None or callee == component:
            return
        surface = self.surfaces[use.ref.module]
        if not use.ref.name:
            return
        site = Site(self.program.tree.loaded[module].relative, use.line)
        short = self._short(use.ref)
        kind = surface.kind(use.ref.top)
        pair = (component, callee)
        if use.kind is UseKind.TEST:
            self.values.setdefault(pair, FoundUses()).add("tests", short, site)
            return
        if use.kind in (UseKind.WRITE, UseKind.MUTATE, UseKind.SET):
            self._written(component, callee, use, kind, short, site)
            return
        if kind in (NameKind.VALUE, NameKind.CONSTANT):
            self.values.setdefault(pair, FoundUses()).add("takes", short, site)
            if kind is NameKind.CONSTANT and use.kind is UseKind.LOAD and self._is_sentinel(use.ref):
                self.note(
                    "SW254",
                    Severity.WARNING,
                    f"{component} compares with sentinel {short} of {callee}, of which each shard has its own",
                    site,
                    component,
                    "use an Enum member or None instead",
                )
            return
        if kind is NameKind.IMPORT or (kind is None and use.ref.name in _MODULE_NAMES):
            return
        found = self.calls.setdefault(pair, FoundUses())
        if kind is None:
            found.add("reads", short, site)
            symbols = surface.symbols
            if not symbols.is_dynamic:
                near = nearest(use.ref.top, set(symbols.bindings))
                self.note(
                    "SW268",
                    Severity.WARNING,
                    f"{symbols.module.relative} defines no {use.ref.top!r}",
                    site,
                    component,
                    f"did you mean {near!r}?" if near else "correct the name",
                )
        elif kind is NameKind.REMOTE and (made := self._uncopyable(use.ref)):
            found.add("reads", short, site)
            symbols = surface.symbols
            binding = symbols.last(use.ref.top)
            line = f" ({symbols.module.relative}:{binding.line})" if binding is not None else ""
            self.note(
                "SW272",
                Severity.REFUSAL,
                f"{component} uses {short} of {callee}, a {made}{line}, of which there can be no copy",
                site,
                component,
                f"give {callee} functions that use it, or keep it in a common module",
            )
            if use.kind is UseKind.ENTER:
                self._entered(component, callee, short, site)
        elif kind is NameKind.REMOTE:
            held = self._held(use.ref)
            found.add("calls" if held is not None and use.kind is UseKind.CALL else "reads", short, site)
            if held is None or self._rebound(use.ref):
                self._read(component, callee, use, short, site)
            if held is not None:
                self._through_handle(component, callee, held, use, short, site)
            elif use.kind is UseKind.ENTER:
                self._entered(component, callee, short, site)
        else:
            verb = {UseKind.CALL: "calls", UseKind.ENTER: "enters", UseKind.SUBCLASS: "inherits from"}.get(use.kind)
            verb = "iterates over" if use.kind is UseKind.ITERATE else verb
            found.add(verb or ("imports" if use.kind is UseKind.IMPORT else "uses"), short, site)
            self._hazards(component, callee, use, kind, short, site)
        if use.kind is UseKind.CALL:
            self._arguments(component, callee, use, short, site)

    def _held(self, ref: Ref) -> ClassFacts | None:
        """The class of the object that a global holds from its import on, where others reach it by handle."""
        symbols = self.program.resolver.symbols(ref.module)
        bindings = symbols.bindings.get(ref.top, []) if symbols is not None else []
        made = bindings[0].value if len(bindings) == 1 else None
        of = self.program.resolver.expression(ref.module, made.func) if isinstance(made, ast.Call) else None
        facts = self.program.classes.facts(of) if of is not None else None
        return facts if facts is not None and facts.stateful else None

    def _rebound(self, ref: Ref) -> bool:
        return any(use.kind is UseKind.WRITE for _, use in self.program.late_writes(ref))

    def _is_sentinel(self, ref: Ref) -> bool:
        binding = self.program.resolver.binding(ref)
        value = binding.value if binding is not None else None
        return (
            isinstance(value, ast.Call)
            and self.program.resolver.expression(ref.module, value.func) == Ref("builtins", "object")
            and "." not in ref.name
        )

    def _short(self, ref: Ref) -> str:
        owner = self.program.owners[ref.module]
        primary = self.program.component(owner).module
        if ref.module == primary:
            return ref.name
        return f"{ref.module[len(primary) + 1 :]}.{ref.name}" if ref.module.startswith(primary + ".") else str(ref)

    def _dynamic(self, component: ComponentName) -> None:
        """Modules used as a whole: passed on, or imported by a computed way."""
        for module in self.program.code_of(component):
            for ref, line in self.program.scan(module).dynamic:
                callee = self.program.owners.get(ref.module)
                if callee is None or callee == component:
                    continue
                site = Site(self.program.tree.loaded[module].relative, line)
                self.calls.setdefault((component, callee), FoundUses()).add("uses module", ref.module, site)

    # -- hazards -------------------------------------------------------------------------------------------------

    def _written(
        self, component: ComponentName, callee: ComponentName, use: Use, kind: NameKind | None, short: str, site: Site
    ) -> None:
        found = self.calls.setdefault((component, callee), FoundUses())
        if use.kind is UseKind.SET:
            if kind is NameKind.STATEFUL:
                found.add("writes", short, site)
                self.note(
                    "SW263",
                    Severity.REFUSAL,
                    f"{component} writes attribute {short} of an object behind a handle",
                    site,
                    component,
                    f"give {use.ref.name.rpartition('.')[0]} a method that sets it",
                )
            else:  # a copy of its own
                self.calls.pop((component, callee)) if not found.sites else None
            return
        held = self._held(use.ref) if kind is NameKind.REMOTE and "." not in use.ref.name else None
        if held is not None and use.kind is UseKind.MUTATE and use.by in held.methods:
            found.add("calls", f"{short}.{use.by}", site)  # its owner changes it, and everybody sees that
            return
        found.add("writes", short, site)
        self.note(
            "SW262",
            Severity.REFUSAL,
            f"{component} changes {short} of component {callee} from outside",
            site,
            component,
            f"give {callee} a function that changes it",
        )

    def _read(self, component: ComponentName, callee: ComponentName, use: Use, short: str, site: Site) -> None:
        late = self.program.late_writes(use.ref)
        if use.kind is UseKind.IMPORT and late:
            self.note(
                "SW265",
                Severity.REFUSAL,
                f"{component} imports {short} of {callee} by name, but it changes after import "
                f"({self._evidence(use.ref)})",
                site,
                component,
                f"read it through a function of {callee}",
            )
            return
        why = f"it changes ({self._evidence(use.ref)})" if late else "its value is made when the owner is imported"
        self.note(
            "SW261",
            Severity.WARNING,
            f"{component} reads {short} of {callee}: {why}; each read asks the owner for a copy",
            site,
            component,
            f"read it through a function of {callee}",
        )

    def _evidence(self, ref: Ref) -> str:
        module, use = self.program.late_writes(ref)[0]
        return f"{self.program.tree.loaded[module].relative}:{use.line}"

    def _hazards(
        self, component: ComponentName, callee: ComponentName, use: Use, kind: NameKind, short: str, site: Site
    ) -> None:
        surface = self.surfaces[use.ref.module]
        if kind is NameKind.STATEFUL:
            if use.kind is UseKind.SUBCLASS:
                self.note(
                    "SW251",
                    Severity.REFUSAL,
                    f"a class of {component} inherits from {short}, which {callee} holds",
                    site,
                    component,
                    "keep both classes in one component, or wrap instead of inherit",
                )
            facts = self.program.classes.facts(Ref(use.ref.module, use.ref.top))
            if facts is not None:
                self._through_handle(component, callee, facts, use, short, site)
                self._class_attribute(component, callee, facts, use, short, site)
                self._unseen_method(component, callee, facts, use, short, site)
            return
        function = surface.functions[use.ref.top]
        if "." in use.ref.name and use.kind is not UseKind.IMPORT:
            if use.ref.name.partition(".")[2] in _PROXY_NAMES:
                return
            self.note(
                "SW267",
                Severity.WARNING,
                f"{component} uses attribute {short} of a function of {callee}",
                site,
                component,
                f"offer it as a function of {callee}",
            )
            return
        if use.kind in (UseKind.CALL, UseKind.ENTER):
            self._streams(component, callee, function.is_generator, function.is_context_manager, short, site)

    def _through_handle(
        self, component: ComponentName, callee: ComponentName, facts: ClassFacts, use: Use, short: str, site: Site
    ) -> None:
        """Uses of an object that ``callee`` holds, or of a method of its class."""
        name = use.ref.name.partition(".")[2]
        if use.kind is UseKind.ENTER and not name and not {"__enter__", "__aenter__"} & facts.methods.keys():
            self._entered(component, callee, short, site)
        if use.kind is UseKind.ITERATE and facts.hands_out_iterators:
            self.note(
                "SW269",
                Severity.REFUSAL,
                f"{component} iterates over {short}, which {callee} holds; its iterator does not cross",
                site,
                component,
                f"give {facts.ref.name} a method that returns a list, and iterate over that",
            )
        method = facts.methods.get(name)
        if method is not None and use.kind in (UseKind.CALL, UseKind.ENTER):
            self._streams(component, callee, method.facts.is_generator, method.facts.is_context_manager, short, site)

    def _class_attribute(
        self, component: ComponentName, callee: ComponentName, facts: ClassFacts, use: Use, short: str, site: Site
    ) -> None:
        """A name of the class itself: beside methods its proxy has constants alone."""
        name = use.ref.name.partition(".")[2].partition(".")[0]
        if not name or use.instance or name in facts.methods or hasattr(type, name):
            return
        family = self._family(facts)
        if any(name in constants_of(item.node) for item in family) or not any(
            item.nature == "foreign" or name in assigned_in(item.node) for item in family
        ):
            return
        self.note(
            "SW270",
            Severity.REFUSAL,
            f"{component} uses class attribute {short}, but the class stays in {callee}",
            site,
            component,
            f"give {facts.ref.name} a class method that answers, or {callee} a function",
        )

    def _unseen_method(
        self, component: ComponentName, callee: ComponentName, facts: ClassFacts, use: Use, short: str, site: Site
    ) -> None:
        """A call on an object behind a handle, of what no statement of its class defines as a method."""
        name = use.ref.name.partition(".")[2]
        if not use.instance or use.kind is not UseKind.CALL or not name or "." in name:
            return
        family = self._family(facts)
        if name in facts.methods or hasattr(object, name) or any(item.nature == "foreign" for item in family):
            return
        decorated = [item for item in family if item.node.decorator_list]
        maker = next((item for item in family if name in assigned_in(item.node)), decorated[0] if decorated else None)
        stored = {attribute for item in family for attribute in attributes_of(item.node)}
        if maker is None or (name in stored and name not in assigned_in(maker.node)) or "__getattr__" in stored:
            return
        where = f"{self.program.tree.loaded[maker.ref.module].relative}:{maker.node.lineno}"
        self.note(
            "SW271",
            Severity.REFUSAL,
            f"{component} calls {short} of an object in {callee}, but no `def` of its class gives that method ({where})",
            site,
            component,
            f"write {name} with `def` in class {maker.ref.name}",
        )

    def _uncopyable(self, ref: Ref) -> str:
        """What a global is made by, where that is known to give what no copy can stand for; else empty."""
        symbols = self.program.resolver.symbols(ref.module)
        bindings = symbols.bindings.get(ref.top, []) if symbols is not None else []
        made = bindings[0].value if len(bindings) == 1 else None
        of = self.program.resolver.expression(ref.module, made.func) if isinstance(made, ast.Call) else None
        full = f"{of.module}.{of.name}" if of is not None else ""
        return full if full in _UNCOPYABLE else ""

    def _family(self, facts: ClassFacts) -> list[ClassFacts]:
        found = [facts]
        for item in found:
            bases = (self.program.classes.facts(base) for base in item.bases)
            found += [base for base in bases if base is not None and base not in found]
        return found

    def _entered(self, component: ComponentName, callee: ComponentName, short: str, site: Site) -> None:
        self.note(
            "SW264",
            Severity.REFUSAL,
            f"{component} enters {short} of {callee} as a context manager",
            site,
            component,
            f"enter it inside {callee}, or offer a function that does the whole",
        )

    def _streams(
        self, component: ComponentName, callee: ComponentName, generator: bool, managed: bool, short: str, site: Site
    ) -> None:
        if generator:
            self.note(
                "SW260",
                Severity.NOTE,
                f"{component} calls generator {short} of {callee}; every item is asked for when its turn comes",
                site,
                component,
                "return a list where that is small, or list the generator in `ahead`",
            )
        if managed:
            self._entered(component, callee, short, site)

    def _arguments(self, component: ComponentName, callee: ComponentName, use: Use, short: str, site: Site) -> None:
        if use.unsafe_argument:
            self.note(
                "SW266",
                Severity.REFUSAL,
                f"{component} passes {use.unsafe_argument} to {short} of {callee}; it cannot be copied",
                site,
                component,
                _PASS_DATA,
            )
        for callback in use.callbacks:
            if self._is_function(callback):
                self.note(
                    "SW266",
                    Severity.REFUSAL,
                    f"{component} passes function {callback.name} to {short} of {callee}; functions do not cross",
                    site,
                    component,
                    _PASS_DATA,
                )

    def _is_function(self, ref: Ref) -> bool:
        """Whether a name is certainly a plain function of the application; decorators may make anything of one."""
        binding = self.program.resolver.binding(ref)
        node = binding.node if binding is not None and "." not in ref.name else None
        return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.decorator_list

    # -- handles of unknown objects ------------------------------------------------------------------------------

    def _methods(self) -> dict[str, list[Ref]]:
        found: dict[str, list[Ref]] = {}
        for module, surface in sorted(self.surfaces.items()):
            for name in surface.stateful:
                facts = self.program.classes.facts(Ref(module, name))
                for method in facts.methods if facts is not None else ():
                    if not method.startswith("__") and method not in _COMMON_METHODS:
                        found.setdefault(method, []).append(Ref(module, name))
        return found

    def _handles(self) -> None:
        """``thing.step()`` on an unknown object may be a handle that came through another component."""
        for component in self.components:
            reach = self._closure(component)
            for module in self.program.code_of(component):
                for method, line, _ in self.program.scan(module).unknown_calls:
                    holders = self.by_method.get(method, [])
                    owners = {self.program.owners[ref.module] for ref in holders}
                    if len(owners) != 1 or component in owners:
                        continue
                    callee = owners.pop()
                    if callee not in reach:
                        continue
                    site = Site(self.program.tree.loaded[module].relative, line)
                    name = f"{self._short(holders[0])}.{method}"
                    self.calls.setdefault((component, callee), FoundUses()).add(
                        "may hold a handle and call", name, site
                    )
                    if (method, line) in self.program.scan(module).unknown_enters and self._manages(holders, method):
                        self._entered(component, callee, name, site)

    def _manages(self, holders: list[Ref], method: str) -> bool:
        found = [self.program.classes.facts(holder) for holder in holders]
        return all(facts is not None and facts.methods[method].facts.is_context_manager for facts in found)

    def _closure(self, component: ComponentName) -> set[ComponentName]:
        seen: set[ComponentName] = set()
        todo = [component]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += [callee for caller, callee in self.calls if caller == name]
                todo += [callee for caller, callee in self.declared if caller == name]
        return seen
