"""Two ends of real conversations, without processes."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from msgspec.structs import replace

from shardwright.contracts.transport import Channel
from shardwright.guest import CallContext, Hub, Link, Route, Runtime, current_call, make_hub, transport_of
from shardwright.guest._runtime import peer_of
from shardwright.manifest import load
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.envelope import Envelope
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.shard import ALL_PUBLIC, PlanEdge, ShardPlan
from shardwright.sharding import plan as plan_of
from shardwright.transport import ClassTable, TaggedCodec, shm
from shardwright.transport.socket import SocketTransport


@dataclass
class Heard:
    """What a link says comes in."""

    messages: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    closed: threading.Event = field(default_factory=threading.Event)
    on: Callable[[Link, Envelope], None] | None = None

    def on_message(self, link: Link, envelope: Envelope) -> None:
        if self.on is not None:
            self.on(link, envelope)
        self.messages.put(envelope)

    def on_link_closed(self, link: Link) -> None:
        self.closed.set()


@dataclass
class Wires:
    """Makes links with their far ends, and closes everything."""

    transport: Any
    hub: Any
    made: list[Any] = field(default_factory=list)

    def link(self, shard: str = "far-00000001", heard: Heard | None = None) -> tuple[Link, Channel]:
        """A link that this side reads, and the bare channel of the other side."""
        own = transport_of(self.hub) if isinstance(self.transport, shm.RingTransport) else None
        ours, theirs = self.transport.pair()
        far = self.transport.open(theirs)
        codec = TaggedCodec(ClassTable((), lambda name: object))
        peer = Peer(ComponentName(shard.rpartition("-")[0]), ShardId(shard))
        link = Link((own or self.transport).open(ours), peer, codec, self.hub, heard or Heard())
        self.made += [link, far]
        return link, far


@pytest.fixture(params=["sockets", "rings", "sockets beside rings"])
def wires(request: pytest.FixtureRequest) -> Iterator[Wires]:
    hub = Hub("test-hub") if request.param == "sockets" else make_hub("test-hub", rings=True)
    found = Wires(shm.RingTransport() if request.param == "rings" else SocketTransport(), hub)
    yield found
    for each in found.made:
        each.close()
    hub.close()


def _open(plan: ShardPlan) -> ShardPlan:
    """The plan with all public names open to everybody: tests call what the code of no component calls."""
    names = [definition.component for definition in plan.definitions]
    edges = [
        replace(plan.edge(caller, callee) or PlanEdge(caller, callee, "a test calls", True, False), uses=(ALL_PUBLIC,))
        for caller in names
        for callee in names
        if caller != callee
    ]
    return replace(plan, edges=tuple(edges))


class Town:
    """Components of a small application, each a Runtime of its own in this process; bound on demand, as a node would."""

    def __init__(self, folder: Path, manifest: str, rings: str, **modules: str) -> None:
        """``rings``: "none", "all", or "mixed": then what a component is called by goes over a socket."""
        (folder / "shardwright.toml").write_text(textwrap.dedent(manifest))
        for name, source in modules.items():
            (folder / f"{name}.py").write_text(textwrap.dedent(source))
        self.plan = _open(plan_of(load(folder, environment={})))
        self.sockets = self.transport = SocketTransport()
        self.rings = rings
        self.runtimes: dict[str, Runtime] = {}
        for definition in self.plan.definitions:
            runtime = Runtime(self.plan, definition.component, inproc=True)
            runtime.activate(
                ShardId(f"{definition.component}-00000001"),
                _BinderOf(self, definition.component),
                rings=rings != "none",
            )
            runtime.session_begins(SessionNumber(1), "one")
            self.runtimes[definition.component] = runtime

    def connect(self, caller: str, callee: str, sessions: tuple[int, ...] | None = None) -> Link:
        """A link on which ``caller`` calls ``callee``."""
        ring = self.rings == "all" or (self.rings == "mixed" and sorted((caller, callee))[0] == caller)
        ours, theirs = (shm.RingTransport() if ring else self.sockets).pair()
        there, here = self.runtimes[callee], self.runtimes[caller]
        there.connect(self._open(there, theirs), peer_of(caller, f"{caller}-00000001", sessions), outgoing=False)
        return here.connect(self._open(here, ours), peer_of(callee, f"{callee}-00000001", None), outgoing=True)

    def _open(self, runtime: Runtime, endpoint: Endpoint) -> Channel:
        own = transport_of(runtime._hub)
        return (own if own is not None and endpoint.transport == own.name else self.sockets).open(endpoint)

    def call(self, caller: str, module: str, qualname: str, *args: Any, **kwargs: Any) -> Any:
        """What code of ``caller`` sees when it calls ``module.qualname``, in session 1."""
        token = current_call.set(CallContext(session=SessionNumber(1), session_name="one"))
        try:
            found: Any = self.runtimes[caller].import_module(module)
            for part in qualname.split("."):
                found = getattr(found, part)
            return found(*args, **kwargs)
        finally:
            current_call.reset(token)

    def close(self) -> None:
        for runtime in self.runtimes.values():
            runtime.close()


@dataclass
class _BinderOf:
    """Who makes the bindings of one component."""

    town: Town
    component: str

    def bind(self, route: Route, context: CallContext, lost: Sequence[ShardId] = ()) -> list[Link]:
        return [self.town.connect(self.component, route.component)]

    def why(self, peer: object) -> str:
        return "killed by signal 9"

    def release(self, route: Route, link: Link) -> None:
        link.close()


@pytest.fixture(params=["none", "all", "mixed"], ids=["sockets", "rings", "rings and sockets"])
def town(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Town]]:
    made: list[Town] = []

    def make(manifest: str, **modules: str) -> Town:
        made.append(Town(tmp_path, manifest, request.param, **modules))
        return made[-1]

    yield make
    for each in made:
        each.close()
