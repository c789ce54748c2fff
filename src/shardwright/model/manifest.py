"""The Manifest: what the author declares, parsed once, immutable."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from shardwright.model.ids import ComponentName
from shardwright.model.limits import Limits, Resources
from shardwright.model.scope import Scope, Start, StateKind


class Files(Struct, frozen=True):
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


class Network(Struct, frozen=True):
    egress: tuple[str, ...] = ()


class Warm(Struct, frozen=True):
    """Bounds of the warm pool."""

    min: int = 0
    max: int = 16


class Scale(Struct, frozen=True):
    """Bounds of the number of instances of a shared component."""

    min: int = 1
    max: int = 1
    target_concurrency: float = 4.0


class UsageModel(Struct, frozen=True):
    priority: int = 50
    latency_slo_s: float | None = None
    max_instances: int | None = None
    max_nodes: int | None = None
    node_labels: Mapping[str, str] = field(default_factory=dict)


class Component(Struct, frozen=True):
    """One ``[components.NAME]`` section. ``line`` is where it begins in the manifest file."""

    name: ComponentName
    code: str
    limits: Limits = Limits()
    scope: Scope = Scope()
    secrets: Mapping[str, str] = field(default_factory=dict)
    env: tuple[str, ...] = ()
    files: Files = Files()
    network: Network = Network()
    depends_on: tuple[ComponentName, ...] = ()
    isolation: str = "auto"
    start: Start = Start.AUTO
    state: StateKind = StateKind.AUTO
    sessions_per_shard: int = 1
    reuse: bool = False
    warm: Warm = Warm()
    scale: Scale = Scale()
    usage: UsageModel = UsageModel()
    stateful: tuple[str, ...] = ()  # classes of this component to be reached through handles
    value: tuple[str, ...] = ()  # classes of this component to be copied, overruling analysis
    never_cut: tuple[str, ...] = ()  # functions "module:qualname" that no cut inside the component moves
    idempotent: tuple[str, ...] = ()  # functions "module:qualname" that may be called twice for once
    ahead: tuple[str, ...] = ()  # generators "module:qualname" that may make items before they are asked for
    together: tuple[tuple[str, ...], ...] = ()  # functions of which such cuts move all to one shard, or none
    apart: tuple[tuple[str, ...], ...] = ()  # functions of which no two are moved to one shard
    queue: int = 1024  # calls that may wait in one shard
    start_timeout_s: float = 60.0
    idle_timeout_s: float | None = None  # a session's shard is given back after this much silence
    line: int = 0

    @property
    def module(self) -> str:
        """The module or package part of ``code``."""
        return self.code.partition(":")[0]

    @property
    def attribute(self) -> str:
        """The part of ``code`` behind the colon; empty for a whole module or package."""
        return self.code.partition(":")[2]


def implicit(name: ComponentName, code: str) -> Component:
    """The component that runs ``app.main`` where the manifest declares none for it: started when asked for alone."""
    return Component(name=name, code=code, scale=Scale(min=0, max=1))


class EdgeRule(Struct, frozen=True):
    """One ``[[edges]]`` section: an exception for one edge of the plan."""

    caller: ComponentName
    callee: ComponentName
    pickle: bool = False  # opt in to pickle across trust domains on this edge
    allow: tuple[str, ...] = ()  # further classes "module:Qualname" that may be copied across it
    line: int = 0


class Route(Struct, frozen=True):
    path: str
    methods: tuple[str, ...] = ()
    call: str = ""
    app: str = ""
    timeout_s: float | None = None  # in which its function answers, or its application begins to; else the gateway's
    line: int = 0


class Gateway(Struct, frozen=True):
    """The ``[gateway]`` section. ``certificate`` and ``key`` are absolute paths; both are empty for plaintext.

    ``plaintext`` permits to serve without TLS off loopback. Sizes and times bound one request, or one connection.
    """

    bind: str = "127.0.0.1:8000"
    certificate: str = ""
    key: str = ""
    plaintext: bool = False
    session_idle_s: float = 1800.0
    max_header_bytes: int = 64 * 2**10
    max_body_bytes: int = 64 * 2**20
    header_timeout_s: float = 10.0
    body_timeout_s: float = 30.0  # without a byte of a body that was begun
    idle_timeout_s: float = 75.0  # of a connection between two requests
    call_timeout_s: float = 30.0  # of a function
    max_connections: int = 16384
    queue: int = 256  # requests of one component that may run and wait at once
    drain_s: float = 10.0  # that requests in flight get when the gateway is told to stop
    token: str = (
        ""  # where it is: "env:NAME" or "file:PATH"; opens the pages about the node to clients off this machine
    )
    access_log: bool = False  # a line for each request

    @property
    def secure(self) -> bool:
        """Whether it serves TLS."""
        return bool(self.certificate)

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect, as far as the text of ``bind`` tells."""
        host = self.bind.rpartition(":")[0].strip("[]")
        return host in ("localhost", "::1") or (host.startswith("127.") and host.replace(".", "").isdigit())


class Cost(Struct, frozen=True):
    """Prices in money: an hour of a core, an hour of a GiB, one cold start."""

    cpu_hour: float = 0.04
    gib_hour: float = 0.005
    cold_start: float = 0.00002


class Policy(Struct, frozen=True):
    cost: Cost = Cost()
    reserve: Resources = Resources()
    overcommit_cpu: float = 1.0
    node_grace_s: float = 0.0
    transport: str = "auto"  # or the name of the only one to use between shards
    pool: str = "minimum"  # or "demand": what the WarmPool holds within its bounds
    tick_s: float = 1.0  # how often limits and instances are decided; 0: never


class Manifest(Struct, frozen=True):
    """A whole manifest. ``path`` is its file, ``root`` the import root; both absolute.

    ``places`` says where each key was written, as ``FILE:LINE``; it takes no part in comparisons.
    """

    app: str
    path: str
    root: str
    main: str = ""  # "module:function"
    visitors: str = ""  # "module:generator function" that `demo` drives, one per visitor
    components: tuple[Component, ...] = ()
    edges: tuple[EdgeRule, ...] = ()
    gateway: Gateway | None = None
    routes: tuple[Route, ...] = ()
    policy: Policy = Policy()
    context_variables: tuple[str, ...] = ()  # "module:NAME", of common modules; they travel with calls
    places: Mapping[str, str] = field(default_factory=dict)

    def place(self, key: str) -> str:
        """``FILE:LINE`` of a key such as ``components.web.code``, or of the nearest enclosing one that was written."""
        while key and key not in self.places:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return self.places.get(key, f"{self.path}:1")

    def component(self, name: str) -> Component:
        """The component of that name. Raises KeyError."""
        for component in self.components:
            if component.name == name:
                return component
        raise KeyError(name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifest) and self._compared() == other._compared()

    def __hash__(self) -> int:
        return hash(self._compared())

    def __repr__(self) -> str:
        names = (name for name in self.__struct_fields__ if name != "places")
        return f"Manifest({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def _compared(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.__struct_fields__ if name != "places")
