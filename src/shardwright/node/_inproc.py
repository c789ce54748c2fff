"""Shards in the user's own process: for debuggers, notebooks, and systems that have no control groups.

The same plan, the same calls by copy over channels, modules private to each shard; but no walls, no limits, and no
output of its own: ``print`` goes to the user's terminal, and ``breakpoint()`` in a component works. Control messages
between node and shard are direct calls. Code that still runs when its shard is ended cannot be stopped: it runs on to
its end, cut off from everybody.

A little beyond 400 lines: port and launcher of one process, which know each other's threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from shardwright.contracts.sandbox import Exit
from shardwright.contracts.transport import Transport
from shardwright.errors import ChannelClosed, StartFailed
from shardwright.gateway import GatewayThread
from shardwright.guest import (
    AskStacks,
    Because,
    Bind,
    Bound,
    ControlBinder,
    Counts,
    Doubt,
    Finished,
    ImportFailed,
    Link,
    Load,
    Mailbox,
    Note,
    Patch,
    Patched,
    Patches,
    Retire,
    Route,
    Runtime,
    Stacks,
    Unbind,
    Unsaid,
    Why,
    import_modules,
    install_policy,
    run_program,
    stacks,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.model.manifest import Manifest, implicit
from shardwright.model.scope import Start
from shardwright.model.shard import GATEWAY_COMPONENT, ShardPlan
from shardwright.node._frames import control_pair
from shardwright.node._import_errors import import_error
from shardwright.node._ingress import Ingress
from shardwright.node._launcher import Launcher, Secrets, Staged, Surroundings
from shardwright.node._port import GuestPort, PortEvents, ShardPort
from shardwright.transport.socket import SocketTransport

T = TypeVar("T")
_SOCKETS = SocketTransport()  # for what comes from a gateway
GATEWAY_END_S = 2.0
Job = Callable[[], None]


def machine_capacity() -> Resources:
    """The cores that this process may run on, and the machine's memory."""
    import psutil  # on every system; nodes of processes never need it

    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        cores = os.cpu_count() or 1
    return Resources(cpu=float(cores), memory_bytes=psutil.virtual_memory().total)


class EarlyEvents(Protocol):
    """Who answers a shard that is not ready yet: the node."""

    def on_bind(self, port: ShardPort, bind: Bind) -> None: ...

    def on_unbind(self, port: ShardPort, unbind: Unbind) -> None: ...

    def on_why(self, port: ShardPort, why: Why) -> None: ...


class InprocPort(ShardPort):
    """A shard of this process, as the node sees it. Use from the node's event loop alone, but for ``send``."""

    def __init__(
        self, runtime: Runtime, shard: ShardId, transport: Transport, early: EarlyEvents, run: Callable[[Job], None]
    ) -> None:
        self.shard = shard
        self.component = runtime.component
        self.pid = os.getpid()
        self.runtime = runtime
        self.binder = ControlBinder(self)
        self._transport = transport
        self._run = run
        self._loop = asyncio.get_running_loop()
        self._early = early
        self._events: PortEvents | None = None
        self._heard: list[Any] = []  # before anybody listened
        self._closed = ""
        self._stopping: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<InprocPort {self.shard}{' closed: ' + self._closed if self._closed else ''}>"

    @property
    def closed(self) -> str:
        """Why it is closed; empty while it is open."""
        return self._closed

    # -- what the shard says -----------------------------------------------------------------------------------

    def send(self, message: Any) -> None:
        """A message of the shard to the node, from any thread. Raises ChannelClosed."""
        if self._closed:
            raise ChannelClosed(f"the shard has ended: {self._closed}")
        try:
            self._loop.call_soon_threadsafe(self._hear, message)
        except RuntimeError:
            raise ChannelClosed("the node has stopped") from None

    def attach(self, events: PortEvents) -> None:
        self._events = events
        heard, self._heard = self._heard, []
        for message in heard:
            self._hear(message)

    def _hear(self, message: Any) -> None:
        events = self._events
        match message:
            case Bind() if self._closed:
                self.bound(Bound(message.request, f"{self.shard} has ended", "SW411"))
            case Bind():  # it may call others while it is imported
                self._early.on_bind(self, message)
            case Unbind():
                self._early.on_unbind(self, message)
            case Why():
                self._early.on_why(self, message)
            case _ if events is None:
                self._heard.append(message)
            case Load():
                events.on_load(self, message)
            case Counts():
                events.on_counts(self, message)
            case Unsaid():
                events.on_unsaid(self, message)
            case Finished():
                events.on_finished(self, message)
            case Note():
                events.on_note(self, message)
            case Stacks():
                events.on_look(self, message)
            case Patched():
                events.on_patched(self, message)
            case None:
                events.on_gone(self, self._closed)

    # -- what the node says ------------------------------------------------------------------------------------

    def accept(self, peer: Peer, endpoint: Endpoint) -> None:
        self._connect(peer, endpoint, outgoing=False)

    def offer(self, request: int, peer: Peer, endpoint: Endpoint) -> None:
        link = self._connect(peer, endpoint, outgoing=True)
        if link is None:
            return
        if request:
            self.binder.offered(request, link)
        else:
            self.runtime.router.offered(Route(peer.component), link)

    def _connect(self, peer: Peer, endpoint: Endpoint, *, outgoing: bool) -> Link | None:
        transport = self._transport if endpoint.transport == self._transport.name else _SOCKETS
        if self._closed:
            transport.dispose(endpoint)
            return None
        return self.runtime.connect(transport.open(endpoint), peer, outgoing=outgoing)

    def bound(self, answer: Bound) -> None:
        self.binder.answered(answer)

    def because(self, answer: Because) -> None:
        self.binder.told_why(answer)

    def session_begins(self, number: SessionNumber, name: str) -> None:
        self.runtime.session_begins(number, name)

    def session_ends(self, number: SessionNumber) -> None:
        self.runtime.session_ends(number)

    def forget(self, component: ComponentName, session: SessionNumber) -> None:
        self.runtime.forget(component, session)

    def ask_load(self, request: int) -> None:
        with contextlib.suppress(ChannelClosed):
            self.send(Load(request, *self.runtime.load()))

    def ask_counts(self, request: int) -> None:
        with contextlib.suppress(ChannelClosed):
            # of the processor time of one process nobody can tell whose it is
            self.send(msgspec.structs.replace(self.runtime.counts(request), cpu_s=0.0))

    def patch(self, patch: Patch) -> None:
        with contextlib.suppress(ChannelClosed):
            self.send(self.runtime.patched(patch))

    def run_main(self, target: str, session: SessionNumber) -> None:
        def job() -> None:
            finished = run_program(self.runtime, target, session)
            with contextlib.suppress(ChannelClosed):
                self.send(finished)

        self._run(job)

    def tell(self, message: Any, descriptors: tuple[int, ...] = ()) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(message, Retire):
            unsaid = self.runtime.router.retire(ShardId(message.shard), lost=message.lost)
            if message.request:
                with contextlib.suppress(ChannelClosed):
                    self.send(Unsaid(message.request, tuple(unsaid)))
        elif isinstance(message, Doubt):
            self.runtime.router.doubt(ComponentName(message.component), map(SessionNumber, message.sessions))
        elif isinstance(message, AskStacks):
            with contextlib.suppress(ChannelClosed):
                self.send(stacks(message.request, self.runtime.doing()))

    def stop(self, grace_s: float, *, drain: bool = False) -> None:
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(grace_s, drain), name=f"{self.shard} stops")

    async def _stop(self, grace_s: float, drain: bool) -> None:
        end_s = time.monotonic() + grace_s
        while (self.runtime.responder.busy or (drain and self.runtime.called)) and time.monotonic() < end_s:
            await asyncio.sleep(0.005)
        self.ask_counts(0)  # its last word is heard before its end
        self._loop.call_soon(self.close, "it was told to stop")

    def stop_hoarding(self) -> None:
        """Nothing is sent to it: it takes what it is given, in this process."""

    def close(self, reason: str) -> None:
        """Cut it off from everybody; the node hears of it once, through ``on_gone``."""
        if not self._closed:
            self._closed = reason
            self.binder.node_gone()
            self.runtime.close_links()
            self._hear(None)


class InprocLauncher(Launcher):
    """Shards as threads of this process; their limits are booked, and not enforced."""

    def __init__(
        self,
        manifest: Manifest,
        plan: ShardPlan,
        surroundings: Surroundings,
        transport: Transport,
        events: EarlyEvents,
        *,
        testing: bool = False,
        ingress: Ingress | None = None,
    ) -> None:
        self._testing = testing
        self._ingress = ingress
        self._gateways: dict[ShardId, GatewayThread] = {}
        self._manifest = manifest
        self._plan = plan
        self._surroundings = surroundings
        self._transport = transport
        self._events = events
        self._ports: dict[ShardId, InprocPort] = {}
        self._jobs: SimpleQueue[Job | None] | None = None  # of the thread that lends itself to the program
        self._replaced: dict[str, str | None] = {}
        self._undo: list[Callable[[], None]] = []

    def how(self, component: ComponentName) -> str:
        return "inproc"

    async def prepare(self) -> None:
        importlib.invalidate_caches()
        for values in self._surroundings.secrets.values():
            for name, value in values.items():
                self._replaced.setdefault(name, os.environ.get(name))
                os.environ[name] = value
        self._undo.append(install_policy(self._baton))

    async def launch(self, component: ComponentName, shard: ShardId, limits: Limits, terminal: bool) -> ShardPort:
        if component == GATEWAY_COMPONENT and self._ingress is not None:
            return self._launch_gateway(shard, self._ingress)
        runtime = Runtime(self._plan, component, inproc=True)
        if self._testing:
            runtime.patches = Patches(runtime)
        runtime.secrets = tuple(filter(None, self._surroundings.secrets.get(component, {}).values()))
        port = InprocPort(runtime, shard, self._transport, self._events, self._run)
        # what must be imported into a template has no peers then: the same here
        peers_first = runtime.definition.start is not Start.TEMPLATE
        if peers_first:
            runtime.activate(shard, port.binder)
        timeout_s = self._start_timeout_s(component)
        try:
            await asyncio.wait_for(_on_a_thread(lambda: import_modules(runtime), f"{shard}-import"), timeout_s)
        except ImportFailed as failed:
            await _on_a_thread(runtime.close, f"{shard}-close")
            raise import_error(component, str(failed), failed.user_traceback) from None
        except TimeoutError:
            await _on_a_thread(runtime.close, f"{shard}-close")
            raise StartFailed(
                f"{component} did not become ready within {timeout_s:g} s (hangs during import?)",
                remedy="raise start_timeout in its section of the manifest, or look at what its import waits for",
            ) from None
        except BaseException:
            runtime.close()
            raise
        if not peers_first:
            runtime.activate(shard, port.binder)
        self._ports[shard] = port
        return port

    def _launch_gateway(self, shard: ShardId, ingress: Ingress) -> GuestPort:
        """It talks with the node as one in a process of its own does, from a thread with an event loop."""
        ours, theirs = control_pair()
        port = GuestPort(shard, GATEWAY_COMPONENT, ours)
        port.pid = os.getpid()
        gateway = GatewayThread(self._plan, ingress.settings, theirs.detach(), list(ingress.copies()))
        self._gateways[shard] = gateway
        gateway.start()
        return port

    async def stage(
        self, manifest: Manifest, plan: ShardPlan, secrets: Secrets, components: Collection[ComponentName]
    ) -> Staged:
        def commit() -> None:
            self._manifest, self._plan = manifest, plan
            self._surroundings = replace(self._surroundings, secrets=secrets)
            importlib.invalidate_caches()

        for component in set(components) - {GATEWAY_COMPONENT}:
            # does it import? what it did to this process stays done
            trial = Runtime(plan, component, inproc=True)
            try:
                await asyncio.wait_for(
                    _on_a_thread(partial(import_modules, trial), f"{component}-trial"), self._start_timeout_s(component)
                )
            except ImportFailed as failed:
                if not trial.unbound.refused:  # else it needs peers, and will have them
                    raise import_error(component, str(failed), failed.user_traceback) from None
            except TimeoutError:
                raise StartFailed(f"importing {component} takes too long") from None
            finally:
                await _on_a_thread(trial.close, f"{component}-trial-close")
        return Staged(commit)

    def _start_timeout_s(self, name: ComponentName) -> float:
        try:
            return self._manifest.component(name).start_timeout_s
        except KeyError:
            return implicit(name, self._plan.definition(name).code.primary).start_timeout_s

    async def end(self, port: ShardPort) -> Exit | None:
        gateway = self._gateways.pop(port.shard, None)
        if gateway is not None:
            port.close("it was ended")
            await _on_a_thread(partial(gateway.join, GATEWAY_END_S), f"{port.shard}-end")
            return Exit(None)
        if self._ports.pop(port.shard, None) is None or not isinstance(port, InprocPort):
            return None
        port.close("it was ended")
        await _on_a_thread(port.runtime.close, f"{port.shard}-close")
        return Exit(None)

    async def usages(self, shards: list[ShardId]) -> Mapping[str, Usage | None]:
        return dict.fromkeys(shards)  # of threads in one process nobody can tell

    async def resize(self, shard: ShardId, limits: Limits) -> Limits:
        return limits

    async def close(self) -> None:
        for port in list(self._ports.values()):
            await self.end(port)
        for undo in self._undo:
            undo()
        self._undo.clear()
        for name, value in self._replaced.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self._replaced.clear()

    def _baton(self) -> Mailbox | None:
        """The mailbox whose baton the calling thread has."""
        mailboxes = [port.runtime.mailbox for port in list(self._ports.values())]
        return next((mailbox for mailbox in mailboxes if mailbox.holds()), None)

    # -- the program -------------------------------------------------------------------------------------------

    def _run(self, job: Job) -> None:
        if self._jobs is not None:
            self._jobs.put(job)
        else:
            threading.Thread(target=job, name="shardwright-main", daemon=True).start()

    def lend_thread(self, begin: Callable[[], Future[T]]) -> T:
        """Run the program on the calling thread, where debuggers expect it, until the future is done; its result.

        ``begin`` asks for the program, once this thread is there to run it. Ctrl-C is the program's: it ends it as it
        would end it uncut.
        """
        jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._jobs = jobs
        future = begin()
        future.add_done_callback(lambda _: jobs.put(None))
        argv = sys.argv[:]
        sys.argv[:] = self._surroundings.argv
        try:
            while (job := jobs.get()) is not None:
                job()
        finally:
            sys.argv[:] = argv
            self._jobs = None
        return future.result()


async def _on_a_thread(work: Callable[[], T], name: str) -> T:
    """A thread of its own: imports may take long, and may call shards that are to be launched first."""
    done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type]
        else:
            done.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the node has stopped meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
