"""What sharding produces: ShardDefinitions, their edges, and a reason for everything.

A ShardPlan is plain data: it travels to templates and shards as msgpack, and to users as JSON.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from shardwright.model.cut import Cut
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.limits import Limits
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind

MAIN_COMPONENT = ComponentName("main")  # the implicit component that runs ``app.main`` when none owns it
GATEWAY_COMPONENT = ComponentName("gateway")  # the built-in component that serves ``[[routes]]``; its code is ours
NOT_CUT = ComponentName("")  # of a definition: it is a component's own
ALL_PUBLIC = "*"  # in PlanEdge.uses: every name without a leading underscore


class EntryKind(StrEnum):
    FUNCTION = "function"
    CLASS = "class"  # constructing a stateful class; the result is a handle
    METHOD = "method"  # method of a stateful class; static and class methods too
    APPLICATION = "application"  # an ASGI or WSGI application object


class Severity(StrEnum):
    NOTE = "note"
    WARNING = "warning"
    REFUSAL = "refusal"


class Site(Struct, frozen=True):
    """A place in the user's code. ``path`` is relative to the import root."""

    path: str
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Diagnostic(Struct, frozen=True):
    """A finding with its code, place, evidence and remedy. A refusal says that a cut was not made."""

    code: str
    severity: Severity
    message: str
    site: Site | None = None
    component: ComponentName | None = None
    remedy: str = ""


class KeyArgument(Struct, frozen=True):
    """Where to find the argument that routes a call of a keyed component.

    ``position`` counts without ``self``; -1 when it can be passed by name only. ``default`` is the ``repr`` of a literal
    default, empty when the argument is required; ``annotation`` the text of its annotation.
    """

    name: str
    position: int
    default: str = ""
    annotation: str = ""


class EntryPoint(Struct, frozen=True):
    """Something that other shards may call. ``method_id`` indexes it in its definition.

    ``name`` is how ``session.call`` names it behind the component's name: ``reserve``, ``World``, ``World.step``, or, in a
    package, ``html.render``. ``module`` and ``qualname`` say where the code is. As the manifest declares, ``idempotent``
    calls may be made twice, and a generator that runs ``ahead`` makes items before they are asked for.
    """

    method_id: MethodId
    name: str
    module: str
    qualname: str
    kind: EntryKind
    is_async: bool = False
    is_generator: bool = False
    key: KeyArgument | None = None
    line: int = 0
    idempotent: bool = False
    ahead: bool = False


class CodeSegment(Struct, frozen=True):
    """The code that a shard owns: whole modules, by dotted name. ``primary`` is the module of the manifest's ``code``."""

    primary: str
    modules: tuple[str, ...]
    attribute: str = ""


class DataDependency(Struct, frozen=True):
    """State that the component's code reads or writes: a module global, a file, an environment variable."""

    kind: str  # "global" | "file" | "environment"
    name: str
    writes: bool
    site: Site | None = None


class Reach(Struct, frozen=True):
    """A place in a component's code that may reach out of its shard.

    ``place`` is the path, or the ``host:port``, where the code says it literally; ``writes`` is of paths.
    """

    kind: str  # "files" | "network" | "process" | "library", which is: code that is not in sight
    site: Site
    what: str
    place: str = ""
    writes: bool = False


WALLS, PLAIN = "namespace", "process"  # what isolation ``auto`` may come to


class AutoIsolation(Struct, frozen=True):
    """What isolation ``auto`` comes to, and why. ``remedy`` says how to have walls where it comes to ``process``.

    ``reaches``: every one that no statement of the manifest covers, once, by place.
    """

    isolation: str  # WALLS | PLAIN
    reason: str
    remedy: str = ""
    reaches: tuple[Reach, ...] = ()


class ShardDefinition(Struct, frozen=True):
    """Frozen result of sharding one component, or of cutting inside one."""

    component: ComponentName
    code: CodeSegment
    entry_points: tuple[EntryPoint, ...]
    scope: Scope
    state: StateKind  # never AUTO here: analysis decided
    limits: Limits
    isolation: str
    start: Start
    depends_on: tuple[ComponentName, ...]  # direct, manifest and analysis together
    data_dependencies: tuple[DataDependency, ...] = ()
    queue: int = 1024
    knows: tuple[str, ...] = ()  # modules of other components that its own code imports: their classes run here
    cut_of: ComponentName = NOT_CUT  # the component inside which it was cut: its code is that one's
    auto: AutoIsolation | None = None  # where ``isolation`` is ``auto``, and analysis judged

    def entry(self, name: str) -> EntryPoint:
        """The entry point of that name. Raises KeyError."""
        for entry in self.entry_points:
            if entry.name == name:
                return entry
        raise KeyError(name)


class PlanEdge(Struct, frozen=True):
    """One direction in which shards call. ``reason`` says why it is there; ``sites`` show where in the code.

    ``uses`` is what the callee lets the caller use: ``module:name``, ``module:*`` for all public names of a module,
    ``.name`` for a private attribute of objects behind handles, ``*`` for everything public.
    """

    caller: ComponentName
    callee: ComponentName
    reason: str
    declared: bool
    found: bool
    sites: tuple[Site, ...] = ()
    pickle: bool = False
    classes: tuple[str, ...] = ()  # classes "module:Qualname" that may be copied across, on top of the plan's
    uses: tuple[str, ...] = (ALL_PUBLIC,)


class RouteTarget(Struct, frozen=True):
    """Where requests of one ``[[routes]]`` section go: a function, or a whole application.

    ``name`` is the entry point as the manifest calls it (``inventory.get``); ``methods`` are in capitals, none means all.
    ``needs_session``: the component, or one that it calls, has shards for sessions. ``key`` routes calls of a keyed one.
    ``timeout_s``: in which a function answers, or an application begins to; None: as the gateway has it for all.
    """

    path: str
    methods: tuple[str, ...]
    component: ComponentName
    method_id: MethodId
    name: str
    kind: EntryKind  # FUNCTION or APPLICATION
    scope: ScopeKind = ScopeKind.SHARED
    needs_session: bool = False
    key: KeyArgument | None = None
    line: int = 0
    timeout_s: float | None = None


class ModuleSurface(Struct, frozen=True):
    """What the rest of the application sees of a module that a component owns.

    ``stub_source`` is the Python source of the generated module: constants, data classes and exceptions are real in it,
    functions and stateful classes are declared through ``__shardwright__`` (see ``guest``). ``names`` lists the names that
    only the owner can answer; reading one asks the owner.
    """

    module: str
    owner: ComponentName
    path: str  # relative to the import root
    is_package: bool
    stub_source: str
    source_sha256: str
    data_source: str = ""  # its classes without code, for shards whose component does not know the module


class ShardPlan(Struct, frozen=True):
    """All definitions and edges of an application, with the reason for every cut and refusal.

    ``value_classes`` ("module:Qualname") are copied by the tagged codec; ``stateful_classes`` are reached by handles.
    """

    app: str
    root: str
    main: str
    definitions: tuple[ShardDefinition, ...]
    edges: tuple[PlanEdge, ...]
    diagnostics: tuple[Diagnostic, ...]
    modules: tuple[ModuleSurface, ...]
    value_classes: tuple[str, ...]
    stateful_classes: tuple[str, ...]
    routes: tuple[RouteTarget, ...] = ()
    common_data: tuple[
        tuple[str, str], ...
    ] = ()  # (module, source like ``ModuleSurface.data_source``) of common modules
    cuts: tuple[Cut, ...] = ()  # inside components
    context_variables: tuple[str, ...] = ()  # "module:NAME", that travel with calls

    @property
    def refusals(self) -> tuple[Diagnostic, ...]:
        return tuple(d for d in self.diagnostics if d.severity is Severity.REFUSAL)

    def definition(self, component: str) -> ShardDefinition:
        """The definition of that component. Raises KeyError."""
        for definition in self.definitions:
            if definition.component == component:
                return definition
        raise KeyError(component)

    def edge(self, caller: str, callee: str) -> PlanEdge | None:
        for edge in self.edges:
            if edge.caller == caller and edge.callee == callee:
                return edge
        return None

    def closure(self, component: str) -> frozenset[ComponentName]:
        """The component and everything that it may reach by edges."""
        seen: set[ComponentName] = set()
        todo = [ComponentName(component)]
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            todo.extend(edge.callee for edge in self.edges if edge.caller == name)
        return frozenset(seen)
