"""Shards in the user's own process: for debuggers, notebooks, and systems that have no control groups.

The same plan, the same calls by copy over channels, modules private to each shard; but no walls, no limits, and no
output of its own: ``print`` goes to the user's terminal, and ``breakpoint()`` in a component works. Control messages
between node and shard are direct calls. Code that still runs when its shard is ended cannot be stopped: it runs on to
its end, cut off from everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

import psutil

from shardwright.contracts.sandbox import Exit
from shardwright.contracts.transport import Transport
from shardwright.errors import ChannelClosed, ComponentImportError, StartFailed
from shardwright.guest import (
    Because,
    Bind,
    Bound,
    ControlBinder,
    Finished,
    ImportFailed,
    Link,
    Load,
    Mailbox,
    Note,
    Route,
    Runtime,
    Unbind,
    Why,
    import_modules,
    install_policy,
    run_program,
)
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.model.manifest import Manifest, Start, implicit
from shardwright.model.shard import ShardPlan
from shardwright.node._launcher import Launcher, Surroundings
from shardwright.node._port import PortEvents, ShardPort

T = TypeVar("T")
Job = Callable[[], None]


def machine_capacity() -> Resources:
    """The cores that this process may run on, and the machine's memory."""
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
                self.bound(Bound(message.request, f"{self.shard} has ended", "SW301"))
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
            case Finished():
                events.on_finished(self, message)
            case Note():
                events.on_note(self, message)
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
        if self._closed:
            self._transport.dispose(endpoint)
            return None
        return self.runtime.connect(self._transport.open(endpoint), peer, outgoing=outgoing)

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

    def run_main(self, target: str, session: SessionNumber) -> None:
        def job() -> None:
            finished = run_program(self.runtime, target, session)
            with contextlib.suppress(ChannelClosed):
                self.send(finished)

        self._run(job)

    def stop(self, grace_s: float) -> None:
        if self._stopping is None:
            self._stopping = self._loop.create_task(self._stop(grace_s), name=f"{self.shard} stops")

    async def _stop(self, grace_s: float) -> None:
        end_s = time.monotonic() + grace_s
        while self.runtime.responder.busy and time.monotonic() < end_s:
            await asyncio.sleep(0.005)
        self.close("it was told to stop")

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
    ) -> None:
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

    async def launch(self, component: ComponentName, shard: ShardId, limits: Limits, terminal: bool) -> InprocPort:
        runtime = Runtime(self._plan, component, inproc=True)
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
            raise ComponentImportError(
                f"component {component} cannot be imported: {failed}", user_traceback=failed.user_traceback
            ) from None
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

    def _start_timeout_s(self, name: ComponentName) -> float:
        try:
            return self._manifest.component(name).start_timeout_s
        except KeyError:
            return implicit(name, self._plan.definition(name).code.primary).start_timeout_s

    async def end(self, port: ShardPort) -> Exit | None:
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
