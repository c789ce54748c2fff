"""What state a component's code holds, and on which globals, files and variables it depends."""

from __future__ import annotations

import ast

from msgspec import Struct

from shardwright.errors import PlanError
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import DataDependency, Diagnostic, Severity, Site
from shardwright.sharding._program import Program
from shardwright.sharding._scanned import UseKind
from shardwright.sharding._surface import NameKind, Surface
from shardwright.sharding._symbols import Bind, Ref

# objects without state that a caller could miss
_STATELESS = frozenset({
    "threading.Lock", "threading.RLock", "threading.Semaphore", "threading.BoundedSemaphore", "threading.Condition",
    "asyncio.Lock", "asyncio.Semaphore", "logging.getLogger", "contextvars.ContextVar", "argparse.ArgumentParser",
    "typer.Typer", "click.Group", "builtins.object",
})  # fmt: skip
_VALUE_MODULES = frozenset({"os", "os.path", "pathlib", "builtins", "json", "math", "time", "platform"})
_VALUE_METHODS = frozenset({
    "resolve", "absolute", "read_text", "read_bytes", "get", "split", "strip", "lower", "upper", "encode", "decode",
    "joinpath", "with_name", "with_suffix", "expanduser",
})  # fmt: skip


class StateEvidence(Struct, frozen=True):
    """One sign that the code keeps state in memory."""

    text: str
    site: Site


def evidence_of(program: Program, surfaces: dict[str, Surface], modules: tuple[str, ...]) -> list[StateEvidence]:
    """Every sign in the modules given that their code writes state after import, in file order."""
    found: list[StateEvidence] = []
    mine = set(modules)
    for ref, writes in program.written_globals.items():
        if ref.module in mine:
            module, use = writes[0]
            found.append(
                StateEvidence(
                    f"{ref.name} is written after import", Site(program.tree.loaded[module].relative, use.line)
                )
            )
    for name in modules:
        surface = surfaces.get(name)
        source = program.tree.loaded[name]
        if surface is None:
            continue
        for qualname, node in surface.stateful.items():
            facts = program.classes.facts(Ref(name, qualname))
            why = facts.why if facts is not None else ""
            found.append(StateEvidence(f"class {qualname} is stateful: {why}", Site(source.relative, node.lineno)))
        for use in program.scan(name).uses:
            if (
                not use.deferred
                or use.ref.module not in mine
                or use.kind not in (UseKind.LOAD, UseKind.CALL, UseKind.ENTER)
            ):
                continue
            home = surfaces.get(use.ref.module)
            if home is None or home.kind(use.ref.top) is not NameKind.REMOTE or program.late_writes(use.ref):
                continue
            binding = program.resolver.binding(use.ref)
            if binding is None or binding.kind is not Bind.ASSIGN or _is_stateless(program, home, use.ref):
                continue
            where = Site(program.tree.loaded[use.ref.module].relative, binding.line)
            found.append(StateEvidence(f"{use.ref.top} is an object of unknown kind, used in functions", where))
    unique = {(item.text, item.site): item for item in found}
    return sorted(unique.values(), key=lambda item: (item.site.path, item.site.line, item.text))


def _is_stateless(program: Program, surface: Surface, ref: Ref) -> bool:
    """Whether the object behind a global is a lock, or a mere value computed from files, paths and the environment."""
    binding = surface.symbols.last(ref.top)
    value = binding.value if binding is not None else None
    if value is None:
        return False
    calls = [item for item in ast.walk(value) if isinstance(item, ast.Call)]
    if not calls:
        return not isinstance(value, ast.Name)
    for call in calls:
        called = program.resolver.expression(ref.module, call.func)
        if called is None:
            if not (isinstance(call.func, ast.Attribute) and call.func.attr in _VALUE_METHODS):
                return False
        elif f"{called.module}.{called.name}" in _STATELESS:
            continue
        elif called.module not in _VALUE_MODULES or called.name in ("open", "input", "iter"):
            return False
    return True


def state_of(component: Component, evidence: list[StateEvidence]) -> tuple[StateKind, list[Diagnostic]]:
    """The state of a component, decided. Raises PlanError for kinds that do not exist yet and for shared copies."""
    name = ComponentName(component.name)
    if component.state in (StateKind.JOURNAL, StateKind.REPLICA):
        raise PlanError(
            f"component {name!r}: state {component.state.value!r} is not available in this version",
            code="SW211",
            remedy='use state = "memory"',
        )
    state, notes = component.state, []
    if state is StateKind.AUTO:
        state = StateKind.MEMORY if evidence else StateKind.NONE
        if evidence:
            more = f" (and {len(evidence) - 1} more)" if len(evidence) > 1 else ""
            notes.append(
                Diagnostic(
                    "SW230",
                    Severity.NOTE,
                    f"{name} keeps state in memory: {evidence[0].text}{more}",
                    evidence[0].site,
                    name,
                    'set `state = "none"` if the state does not matter',
                )
            )
    if state is StateKind.MEMORY and component.scope.kind is ScopeKind.SHARED and component.scale.max > 1:
        where = f"{evidence[0].site}: {evidence[0].text}" if evidence else "the manifest says so"
        raise PlanError(
            f"component {name!r} is shared and keeps state in memory, so scale.max = {component.scale.max} "
            f"would make copies that differ ({where})",
            code="SW209",
            remedy='set scale.max = 1, key its scope, or set state = "none" if the state does not matter',
        )
    return state, notes


def dependencies_of(program: Program, component: str) -> tuple[DataDependency, ...]:
    """Globals written, environment variables and literal files in the code of a component, in order of name."""
    found: dict[tuple[str, str], DataDependency] = {}

    def add(kind: str, name: str, writes: bool, site: Site) -> None:
        known = found.get((kind, name))
        if known is None or (writes and not known.writes):
            found[kind, name] = DataDependency(kind, name, writes, site)

    code = program.code_of(component)
    for ref, writes in program.written_globals.items():
        if ref.module in code:
            module, use = writes[0]
            add("global", str(ref), True, Site(program.tree.loaded[module].relative, use.line))
    for module in code:
        relative = program.tree.loaded[module].relative
        for touch in program.scan(module).touches:
            if touch.kind not in ("process", "logging"):
                add(touch.kind, touch.name, touch.writes, Site(relative, touch.line))
    return tuple(found[key] for key in sorted(found))
