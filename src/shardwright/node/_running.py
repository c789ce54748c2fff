"""A node in a thread of this process: opened, asked, closed. ``_face`` gives it a public shape.

Over 400 lines long: what is opened in one order is closed in the other, and both are read together.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from shardwright.contracts.clock import SystemClock
from shardwright.contracts.transport import Transport
from shardwright.errors import ManifestError, NodeError
from shardwright.guest import RINGS, Finished, Testing, serves
from shardwright.manifest import capacity_problems, load
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.manifest import Gateway, Manifest
from shardwright.model.shard import GATEWAY_COMPONENT, WALLS, ShardPlan
from shardwright.monitoring import Exposition, exposition
from shardwright.node._api import ApiServer
from shardwright.node._api_sockets import runtime_folder
from shardwright.node._auto import AutoIsolations
from shardwright.node._checks import measured_plan, not_enforced, plan_to_start, withheld
from shardwright.node._client import Client
from shardwright.node._composed_ahead import unnamed
from shardwright.node._core import CLIENT, Core
from shardwright.node._gpus import Gpus
from shardwright.node._ingress import Ingress
from shardwright.node._inproc import InprocLauncher, machine_capacity
from shardwright.node._journal import Journal
from shardwright.node._keeper_client import KeeperClient
from shardwright.node._launcher import Launcher, Surroundings, read_secrets, read_token
from shardwright.node._live_session import LiveSession
from shardwright.node._machine_names import kind_of, machine_backend
from shardwright.node._mask import Mask
from shardwright.node._notify import Notifier
from shardwright.node._numbers import Health
from shardwright.node._own_log import EventLines
from shardwright.node._processes import ProcessLauncher
from shardwright.node._recording import Recording
from shardwright.node._relays import Relays
from shardwright.node._reload import Reloaded, Reloader
from shardwright.node._session_names import check_name
from shardwright.node._state import state_folder
from shardwright.node._status import ShardStatus
from shardwright.node._testing import Bench
from shardwright.node._wires import Wires
from shardwright.placement import Capacity
from shardwright.sharding import cut_components
from shardwright.telemetry import EventLog, OwnLog
from shardwright.transport import shm
from shardwright.transport.bridge import BRIDGED, BridgedTransport
from shardwright.transport.inproc import InprocTransport
from shardwright.transport.socket import SocketTransport

T = TypeVar("T")
FEW_FILES = 4096  # a shard takes about five, and a link of one two
SHUT_TIMEOUT_S = 60.0


def plan(path: str | Path, *, profile: str | None = None, environment: Mapping[str, str] | None = None) -> ShardPlan:
    """The plan of the application at ``path`` (its folder or its manifest). Reads code, imports none.

    Raises ManifestError, PlanError.
    """
    return measured_plan(load(path, profile=profile, environment=environment or {}), environment or {})


class Options(Struct, frozen=True):
    """How to run a node; everything has a default."""

    inproc: bool = False
    profile: str | None = None
    environment: Mapping[str, str] | None = None
    state: Path | None = None  # where the journal lives; default below the user's state folder
    argv: tuple[str, ...] = ()
    terminal: bool = False  # app.main gets this process's standard streams
    sockets: tuple[tuple[str, socket.socket], ...] = ()  # a supervisor's, with names: closed with the node
    log: OwnLog | None = None  # where the node says what it does
    api: bool = True  # answer other terminals over a Unix socket
    runtime: Path | None = None  # the folder of that socket; default by the environment
    plan: ShardPlan | None = None  # instead of the one that the manifest, and a profile beside it, lead to
    record: Path | None = None  # where what the controller sees and decides is written
    testing: Testing | None = None  # a test run starts it: its shards may be patched, and may call this process


class Running:
    """A node that runs in a thread of this process. Made by ``start`` and ``astart``."""

    def __init__(self, path: str | Path, options: Options) -> None:
        environment = dict(os.environ) if options.environment is None else dict(options.environment)
        self.manifest: Manifest = load(path, profile=options.profile, environment=environment)
        self.plan: ShardPlan = options.plan or plan_to_start(self.manifest, environment, inside=not options.inproc)
        self.manifest = cut_components(self.manifest, self.plan)
        if options.plan is not None:
            there = {definition.component for definition in options.plan.definitions}
            kept = tuple(component for component in self.manifest.components if component.name in there)
            self.manifest = replace(self.manifest, components=kept)
        self.notes: list[str] = []  # what whoever starts the node should know
        self.options = options
        self._environment = environment
        self._secrets = read_secrets(self.manifest, environment)  # before anything is made that would have to be undone
        self._token = read_token(self.manifest, environment)
        self._mask = Mask.of(self._secrets, self._token)
        self._clock = SystemClock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="shardwright-node", daemon=True)
        self._closed = False
        self._closing = threading.Lock()
        self._shutdown: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._shutting: asyncio.Task[None] | None = None
        self._client_closed = False
        self._journal: Journal | None = None
        self._failed = ""
        self._cleaning: asyncio.Future[None] | None = None  # after the keeper's death
        self._keeper: KeeperClient | None = None
        self._inproc: InprocLauncher | None = None
        self.ingress: Ingress | None = None  # the way in from outside
        self.events = EventLog(clock=self._clock)
        if options.log is not None:
            options.log.conceal = self._mask.text
            self.events.subscribe(EventLines(options.log))
        self.lost = threading.Event()  # set when the node cannot go on
        self.on_stop: Callable[[], None] = self._close_soon  # called on the node's loop when a client asks it to stop
        self.api: ApiServer | None = None
        self.notifier = Notifier()  # whoever supervises this process, where somebody does
        self._opening: asyncio.Task[None] | None = None
        self._reloader: Reloader | None = None
        self.core: Core
        self.bench: Bench  # where options.testing is set
        self.client: Client
        self._thread.start()
        try:
            self.submit(self._open()).result()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<node of {self.manifest.app}, {'closed' if self._closed else 'running'}>"

    # -- the loop's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        serves("the node's work")
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Run a coroutine on the node's loop."""
        if self._closed:
            coroutine.close()
            raise NodeError("the node has stopped")
        if self._failed:
            coroutine.close()
            raise NodeError(self._failed, remedy="start the node again")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _open(self) -> None:
        self._opening = asyncio.current_task()
        manifest = self.manifest
        state = self.options.state or state_folder(self._environment) / manifest.app
        self._journal = journal = Journal(state / "journal.sqlite3", f"{os.getpid()}")
        terminal = self._terminal_component()
        surroundings = Surroundings(self._environment, os.getcwd(), self.options.argv or (sys.argv[0],), self._secrets)
        reached: Mapping[str, tuple[str, ...]] = {}
        gpus = Gpus()
        if self.options.inproc:
            total = machine_capacity()
        else:
            form = "json" if self.options.log is not None and not self.options.log.pretty else "pretty"
            self._keeper = KeeperClient.start(manifest.policy.node_grace_s, self._keeper_gone, form)
            machines = {machine_backend(each.isolation, self._environment) for each in manifest.components} - {""}
            described = await self._keeper.describe(told=tuple(sorted(machines)))
            gpus = Gpus.of(manifest, self._environment)
            total = gpus.added_to(described.capacity)
            reached = described.transports
        problems = capacity_problems(manifest, total)
        if problems:
            raise ManifestError("the manifest asks for more than this machine has", problems=problems)
        if manifest.gateway is not None and self.options.testing is None:  # tests run beside a served application
            given = [sock.fileno() for _, sock in self.options.sockets]
            self.ingress = await Ingress.open(
                self.plan, self._told(manifest.gateway), self._keeper, state, given, self._token
            )
        capacity = Capacity(total, manifest.policy.reserve, manifest.policy.overcommit_cpu)
        wires = self._wires(reached)
        self.core = Core(
            manifest, self.plan, capacity=capacity, wires=wires, journal=journal, events=self.events,
            clock=self._clock, terminal=terminal, mask=self._mask, gateway=self.ingress is not None,
            recording=Recording(self.options.record, manifest.app) if self.options.record is not None else None,
        )  # fmt: skip
        if self._keeper is not None:
            keeper = self._keeper
            self.core.numbers.keeper_up = lambda: keeper.alive
        if journal.set_aside is not None:
            self.core.record("journal", f"its file could not be read, and is now {journal.set_aside}")
        own = wires.between(CLIENT.component)
        self.client = Client(self.plan, self.core, self._loop, own)
        if self._keeper is not None and self.options.testing is None:
            self.core.ahead.client = self.client
            self.client.hasten()
        self.onlooker = Client(self.plan, self.core, self._loop, own, data_alone=True)  # for other terminals
        self.core.control.retire_at_client = self.retire_at_clients
        if self.options.testing is not None:
            self.bench = Bench(self.plan, self.core, self.client, self._loop)
        launcher: Launcher
        if self._keeper is None:
            launcher = self._inproc = InprocLauncher(
                manifest, self.plan, surroundings, wires.between(CLIENT.component), self.core,
                testing=self.options.testing is not None, ingress=self.ingress,
            )  # fmt: skip
            self.core.record("limits", "all shards share this process: limits are booked, and not enforced")
        else:
            launcher = ProcessLauncher(
                self._keeper, manifest, self.plan, surroundings, self.core.logs, self.core,
                testing=self.options.testing, ingress=self.ingress, rings=RINGS in wires.names, gpus=gpus,
                auto=(auto := self._auto_isolations(self._keeper)),
            )  # fmt: skip
            await auto.settle(self.plan)
            self.core.control.limiting.enforced = frozenset(described.enforces)
            if described.reason:
                self.core.record("limits", described.reason)
            for line in not_enforced(
                manifest,
                (*described.enforces, *gpus.enforces, *(["links"] if Relays.possible() else [])),
                {each.component: auto.of(each) for each in self.plan.definitions},
            ):
                self.core.record("limits", line)
                self.notes.append(line)
            for line in withheld(manifest, self.plan, self._environment):
                self.core.record("environment", line)
                self.notes.append(line)
            if described.swept:
                self.core.record("swept", f"removed what earlier nodes left: {', '.join(described.swept)}")
        if (files := resource.getrlimit(resource.RLIMIT_NOFILE)[0]) < FEW_FILES:
            self.core.record(
                "limits",
                f"this process may have {files} open files, which bounds its shards and their links: ulimit -n",
            )
        self._reloader = Reloader(self)
        await self.core.open(launcher)
        if self.ingress is not None:
            self.notes.append(f"the gateway answers at {' and '.join(self.ingress.urls)}")
        if self.options.api:
            server = ApiServer(self, self.options.runtime or runtime_folder(self._environment))
            try:
                server.open()
                self.api = server
                if self._keeper is not None and server.path is not None:
                    await self._keeper.inherit(server.path)
            except NodeError as error:
                self.core.record("api", str(error))
                self.notes.append(f"other terminals cannot reach this node: {error}")

    def _auto_isolations(self, keeper: KeeperClient) -> AutoIsolations:
        async def try_walls() -> str:
            return (await keeper.describe((WALLS,))).troubles[WALLS]

        def tell(line: str) -> None:
            self.core.record("isolation", line)
            self.notes.append(line)

        testing = self.options.testing
        return AutoIsolations(try_walls, tell, "coverage is kept in files" if testing and testing.coverage else "")

    def _told(self, gateway: Gateway) -> Gateway:
        """Who wants to know everything hears of each request as well."""
        log = self.options.log
        return replace(gateway, access_log=True) if log is not None and log.level == "debug" else gateway

    @property
    def environment(self) -> Mapping[str, str]:
        """What it was started with."""
        return self._environment

    def retire_at_clients(self, shard: ShardId, lost: bool) -> None:
        """From now on this process's own calls, and those of other terminals, use another."""
        for client in (self.client, self.onlooker):
            client.router.retire(shard, lost=lost)

    async def reload(self) -> Reloaded:
        """Take up what changed in code and manifest. On the node's loop. See ``Reloader``."""
        assert self._reloader is not None
        self.notifier.reloading(f"{self.manifest.app} takes up what changed")
        try:
            return await self._reloader.reload()
        finally:
            self.notifier.ready(f"{self.manifest.app} is ready")

    @property
    def keeper_pid(self) -> int:
        """The process above all shards; 0 where everything is in this process."""
        return self._keeper.pid if self._keeper is not None else 0

    def _close_soon(self) -> None:
        threading.Thread(target=self.close, name="shardwright-stop", daemon=True).start()

    def _terminal_component(self) -> ComponentName | None:
        return self.main_component() if self.options.terminal else None

    def main_component(self) -> ComponentName | None:
        """The component whose shard runs ``app.main``; None when there is none."""
        module = self.manifest.main.partition(":")[0]
        if not module:
            return None
        for surface in self.plan.modules:
            if surface.module == module:
                return surface.owner
        return ComponentName("main")

    def run_main(self) -> Finished:
        """Run ``app.main``; blocks until it has ended. Without walls (inproc) it runs on the calling thread.

        Raises NodeError when the manifest names no main, ShardLost when its shard ends first.
        """
        component = self.main_component()
        if component is None:
            raise NodeError("the manifest names no app.main", remedy='add main = "module:function" to [app]')

        def begin() -> concurrent.futures.Future[Finished]:
            return self.submit(self.core.run_main(component, self.manifest.main))

        return begin().result() if self._inproc is None else self._inproc.lend_thread(begin)

    def _keeper_gone(self) -> None:
        if self._closed:
            return
        self._failed = "the keeper died, and every shard with it"
        if self._keeper is not None:
            self._cleaning = self._loop.run_in_executor(None, self._keeper.clean_up_after)
        if hasattr(self, "core"):
            self.core.fail(self._failed)
        self.lost.set()

    def _shut_once(self, grace_s: float) -> None:
        """On the node's loop, so that who asks may be interrupted at any moment and ask again."""
        if self._shutting is None:
            self._shutting = self._loop.create_task(self._shut(grace_s))
            self._shutting.add_done_callback(self._shut_down)

    def _shut_down(self, task: asyncio.Task[None]) -> None:
        error = NodeError("the node's end was cancelled") if task.cancelled() else task.exception()
        if error is None:
            self._shutdown.set_result(None)
        else:
            self._shutdown.set_exception(error)

    async def _shut(self, grace_s: float) -> None:
        try:
            await self._shut_all(grace_s)
        finally:
            if self.ingress is not None:
                self.ingress.close()
            for _, sock in self.options.sockets:
                sock.close()
            if self._journal is not None:
                self._journal.close()

    async def _shut_all(self, grace_s: float) -> None:
        if self._opening is not None and not self._opening.done():  # interrupted while it starts
            self._opening.cancel()
            await asyncio.wait({self._opening}, timeout=10)
        if self.api is not None:
            await self.api.close()
        if self._cleaning is not None:
            await self._cleaning
        core = getattr(self, "core", None)
        try:
            if core is not None:
                await core.close(grace_s)
        finally:
            if self._keeper is not None and (core is None or core.launcher is None):  # nobody had it to close
                await self._keeper.close()

    # -- sessions ----------------------------------------------------------------------------------------------

    def begin_soon(self, name: str | None, keys: Mapping[str, Any] | None, timeout_s: float | None) -> Beginning:
        """Begin a session, from any thread; who does not take it must give it up.

        Raises TypeError, ValueError where it cannot be called that.
        """
        if name is not None:
            check_name(name)
        return Beginning(self, name, keys, timeout_s)

    def begin_at_once(self, name: str | None, keys: Mapping[str, Any] | None) -> LiveSession | None:
        """Begin one that was composed ahead, from any thread; None where there is none: it is to be begun.

        Raises TypeError, ValueError where it cannot be called that, CompositionRefused where another is.
        """
        if name is not None:
            check_name(name)
        return None if keys or self._closed or self._failed else self.core.ahead.take(name)

    async def begin(self, name: str | None, keys: Mapping[str, Any] | None, timeout_s: float | None) -> LiveSession:
        return await self.core.begin_session(
            name if name is not None else unnamed(),
            dict(keys or {}),
            timeout_s=timeout_s,
        )

    def end(self, number: SessionNumber) -> None:
        """End a session, from any thread."""
        self.client.session_ended(number)
        self.onlooker.session_ended(number)
        if not self._closed:
            done: concurrent.futures.Future[None] = concurrent.futures.Future()

            def end() -> None:
                try:
                    self.core.end_session(number)
                except BaseException as error:
                    done.set_exception(error)
                else:
                    done.set_result(None)

            self._loop.call_soon_threadsafe(end)
            done.result(30)

    def _wires(self, reached: Mapping[str, tuple[str, ...]]) -> Wires:
        """What joins the parts of this node; ``reached`` says which transports reach into the sandboxes of each backend."""
        sockets = SocketTransport()
        if self.options.inproc:
            private = InprocTransport()
            # a gateway hears sockets alone
            return Wires(
                (private, sockets),
                lambda name: (sockets.name,) if name == GATEWAY_COMPONENT else (private.name, sockets.name),
            )
        wanted = self.manifest.policy.transport
        transports: list[Transport] = []
        wide: list[Transport] = []
        if wanted != sockets.name:
            if shm.available():
                transports.append(shm.RingTransport())
                wide.append(shm.RingTransport(capacity_bytes=shm.WIDE_BYTES))
            elif wanted != "auto":
                raise NodeError(f"[policy] transport is {wanted!r}, which is not to be had: {shm.reason()}")
        if wanted in ("auto", sockets.name):
            transports.append(sockets)
            machines = {name for names in reached.values() for name in names if name in BRIDGED}
            transports += [BridgedTransport(name) for name in BRIDGED if name in machines]
        names = tuple(transport.name for transport in transports)

        def reach(component: ComponentName) -> tuple[str, ...]:
            launcher = self.core.launcher
            if component == CLIENT.component or launcher is None:
                return names
            return reached.get(launcher.isolation(component), (sockets.name,))

        return Wires(transports, reach, wide)

    async def status(self) -> list[ShardStatus]:
        """All shards, with their usage now."""
        core = self.core
        assert core.launcher is not None
        records = core.records()
        names = {session.number: session.name for session in core.sessions()}
        usages = await core.launcher.usages([record.id for record in records])
        now = self._clock.monotonic_s()
        return [
            ShardStatus(
                id=r.id, component=r.component, status=str(r.status), pid=core.ports()[r.id].pid if r.id in core.ports() else 0,
                scope=str(self.plan.definition(r.component).scope), key=r.key,
                sessions=tuple(names[n] for n in r.sessions if n in names), start=core.launcher.how(r.component),
                isolation=kind_of(core.launcher.isolation(r.component)), transport=core.wires.between(r.component).name,
                guarantee_cpu=r.limits.guarantee.cpu,
                guarantee_memory_bytes=r.limits.guarantee.memory_bytes, ceiling_cpu=r.limits.ceiling.cpu,
                ceiling_memory_bytes=r.limits.ceiling.memory_bytes, usage=usages.get(r.id), age_s=now - r.created_s,
            )
            for r in records
        ]  # fmt: skip

    async def metrics(self, accept: str = "") -> Exposition:
        """All numbers of the node and its shards, as a scraper reads them; ``accept`` as in HTTP."""
        found = await self.core.numbers.families()
        return await self._loop.run_in_executor(None, lambda: exposition(found, accept=accept))

    def health(self) -> Health:
        """Whether the node can go on, and whether it serves all that it should. From any thread."""
        core = getattr(self, "core", None)
        return Health(True, False, ("the node is starting",)) if core is None else core.numbers.health()

    def close(self, grace_s: float = 2.0) -> None:
        """Stop everything; nothing remains. Idempotent; whoever calls it meanwhile waits as well.

        When it is interrupted, shards and keeper end at once, and the rest may be waited for by calling it again.
        """
        try:
            with self._closing:
                self._closed = True
                if not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._shut_once, grace_s)
            self._shutdown.exception(SHUT_TIMEOUT_S)
        except BaseException:
            if self._keeper is not None:
                self._keeper.cut_off()
            raise
        with self._closing:
            if self._loop.is_closed():
                return
            client = getattr(self, "client", None)
            if client is not None and not self._client_closed:
                self._client_closed = True
                client.close()
                self.onlooker.close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)
            self._loop.close()
        self._shutdown.result()


class Beginning:
    """A session that begins: ``future`` has it, or what hindered it."""

    def __init__(
        self, running: Running, name: str | None, keys: Mapping[str, Any] | None, timeout_s: float | None
    ) -> None:
        self._running = running
        self._begun: LiveSession | None = None
        self.future = running.submit(self._begin(name, keys, timeout_s))

    async def _begin(self, name: str | None, keys: Mapping[str, Any] | None, timeout_s: float | None) -> LiveSession:
        self._begun = await self._running.begin(name, keys, timeout_s)
        return self._begun

    def give_up(self) -> None:
        """Nobody waits for it any more: it does not begin, or it ends."""
        self.future.cancel()
        with contextlib.suppress(RuntimeError):  # the node has stopped, and all sessions with it
            self._running._loop.call_soon_threadsafe(self._end)  # after its task was told

    def _end(self) -> None:
        if self._begun is not None:
            self._running.core.end_session(self._begun.number)
