"""Shards in processes of their own: forked from a template of their component, or spawned.

Beyond 400 lines: templates, forking, spawning and reload of one launcher, which share what they clean up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Collection, Mapping

import msgspec
from msgspec.structs import replace

from shardwright.contracts.sandbox import Exit, SandboxHandle, Sight
from shardwright.errors import ComponentImportError, NodeError, SandboxError, ShardwrightError, StartFailed
from shardwright.guest import Enter, Init, Ready, Testing
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources, Usage
from shardwright.model.manifest import Manifest
from shardwright.model.scope import ScopeKind, Start
from shardwright.model.shard import GATEWAY_COMPONENT, ShardPlan
from shardwright.node._ahead import Ahead, Nobody
from shardwright.node._auto import AutoIsolations
from shardwright.node._frames import control_pair
from shardwright.node._gpus import Gpus
from shardwright.node._ingress import Ingress
from shardwright.node._keeper_client import GUEST_CONTROL, GUEST_LIFELINE, KeeperClient, python_command
from shardwright.node._launch_code import LaunchCode
from shardwright.node._launcher import Launcher, Secrets, Staged, Surroundings, end_in_words
from shardwright.node._logs import Logs
from shardwright.node._parents import parent_of
from shardwright.node._port import GuestPort, ShardPort
from shardwright.node._relays import Relays
from shardwright.node._sight import sight_of, walls_of, within_changing
from shardwright.node._starts import LaunchEvents, Starts
from shardwright.node._templates import Template, TemplateEnded
from shardwright.sandbox import outside_of, process_start_ticks
from shardwright.sandbox.namespace import walls_trouble

FORKS_BYTES = 16 * 2**30  # far more than all forks of a template ever touch too early
MAX_REASON = 300  # characters of what a guest gives as a reason
FORK_ATTEMPTS = 3
FORKS_OF_A_TEMPLATE = (
    1000  # then another takes its place: what all forks of one share (address layout, hash seed) changes
)
TEMPLATE_END_S = 0.5
LOOKS, LOOK_S = 3, 0.02  # at a fork that seems to be elsewhere


class ProcessLauncher(Launcher):
    """Shards in processes: forked from a template of their component, or spawned."""

    def __init__(
        self,
        keeper: KeeperClient,
        manifest: Manifest,
        plan: ShardPlan,
        surroundings: Surroundings,
        logs: Logs,
        events: LaunchEvents,
        *,
        testing: Testing | None = None,
        ingress: Ingress | None = None,
        rings: bool = False,
        gpus: Gpus | None = None,
        auto: AutoIsolations,
    ) -> None:
        self._relays = Relays(self._relay_lost)
        self._links = False  # whether shards that may reach places get a network of their own
        self._rings = rings
        self._testing = testing
        self._events = events
        self._keeper = keeper
        self._ingress = ingress
        self._code = LaunchCode(manifest, plan, surroundings, auto, gpus or Gpus())
        self._logs = logs
        self._templates: dict[ComponentName, Template] = {}
        self._spawned: dict[ComponentName, str] = {}  # component -> why it has no template
        self._importing = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self._making: dict[ComponentName, asyncio.Lock] = {}
        self._pidfds: set[int] = set()
        self._closing = False
        self._numbers = 0  # of code that was staged, and of templates that were renewed
        self._renewing: dict[ComponentName, asyncio.Task[None]] = {}
        self._ahead = Ahead(self._begin_fork, self._end_nobody)
        self._starts = Starts(events, logs, self.end, lambda name: self._code.component(name).start_timeout_s)

    async def prepare(self) -> None:
        asked = {self._code.isolation_of(definition.component) for definition in self._code.plan.definitions}
        if containers := asked - {"process", "namespace"}:
            for name, trouble in (await self._keeper.describe(tuple(sorted(containers)))).troubles.items():
                if trouble:
                    raise StartFailed(f"isolation {name} cannot be had: {trouble}", remedy="see `shardwright doctor`")
        await self._look_for_links()
        wanted = [
            d.component
            for d in self._code.plan.definitions
            if self._code.start_of(d.component) is not Start.SPAWN
            and (d.component != GATEWAY_COMPONENT or self._ingress is not None)
        ]
        results = await asyncio.gather(*(self._template(component) for component in wanted), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _look_for_links(self) -> None:
        if self._links or not any(self._code.places_of(d.component) for d in self._code.plan.definitions):
            return
        trouble = "it takes root, and pyroute2 (pip install 'shardwright[network]')"
        if self._relays.possible():
            trouble = await self._relays.trouble()
        self._links = not trouble
        if trouble:
            why = f"shards that reach places share the machine's network, held to ports alone: {trouble}"
            self._events.record("limits", why)

    def _relay_lost(self, shards: int) -> None:
        why = f"the relay of networks ended: {shards} shards reach nothing any more; those that start now have another"
        self._events.record("failure", why)

    async def _link(self, component: ComponentName, name: ShardId, pid: int, limits: Limits) -> None:
        """Raises SandboxError."""
        if self._links and (places := self._code.places_of(component)):
            await self._relays.link(name, pid, places, limits.ceiling.network_bits_s)

    def how(self, component: ComponentName) -> str:
        if component in self._spawned:
            return f"spawn: {self._spawned[component]}"
        return "template" if component in self._templates else "spawn"

    def isolation(self, component: ComponentName) -> str:
        return self._code.isolation_of(component)

    async def launch(self, component: ComponentName, shard: ShardId, limits: Limits, terminal: bool) -> ShardPort:
        for _ in range(FORK_ATTEMPTS):
            template = None
            if self._code.start_of(component) is not Start.SPAWN and component not in self._spawned:
                template = await self._template(component)
            if template is None:
                return await self._spawn(component, shard, limits, terminal)
            if template.forks >= FORKS_OF_A_TEMPLATE and component not in self._renewing:
                self._renewing[component] = asyncio.create_task(
                    self._renew(component, template), name=f"renew {component}"
                )
            try:
                return await self._fork(template, shard, limits, terminal)
            except TemplateEnded as ended:
                reason = ended.message
        raise StartFailed(reason, remedy="its template ends again and again: see the journal")

    async def end(self, port: ShardPort) -> Exit | None:
        if isinstance(port, GuestPort):
            port.close("it was ended")
        try:
            found = await self._keeper.delete(port.shard)
        finally:
            self._code.gpus.give_back(port.shard)
            await self._relays.unlink(port.shard)
            self._logs.drain()
        forked = isinstance(port, GuestPort) and port.forked_as is not None
        if (found is None and forked) or (found is not None and found.status is None and not found.out_of_memory):
            # a forked shard is its template's child: that one knows, and says so about now
            template = self._templates.get(port.component)
            name = (isinstance(port, GuestPort) and port.forked_as) or port.shard
            status = await template.exit_of(name) if template is not None else None
            return Exit(status)
        return found

    async def usages(self, shards: list[ShardId]) -> Mapping[str, Usage | None]:
        return await self._keeper.usages(shards)

    async def resize(self, shard: ShardId, limits: Limits) -> Limits:
        found = await self._keeper.resize(shard, limits)
        if limits.ceiling.network_bits_s is not None and self._relays.has(shard):
            rate = await self._relays.set_rate(shard, limits.ceiling.network_bits_s)
            found = replace(found, ceiling=replace(found.ceiling, network_bits_s=rate))
        return found

    async def close(self) -> None:
        self._closing = True
        for task in self._renewing.values():
            task.cancel()
        await asyncio.gather(*self._renewing.values(), return_exceptions=True)
        await self._ahead.close()
        for template in list(self._templates.values()):
            template.port.close("the node ends")
        await self._relays.close()
        await self._keeper.close()
        for pidfd in self._pidfds:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
        self._pidfds.clear()

    # -- templates ---------------------------------------------------------------------------------------------

    async def _template(self, component: ComponentName) -> Template | None:
        """The running template of a component; None when its shards must be spawned."""
        async with self._making.setdefault(component, asyncio.Lock()):
            found = self._templates.get(component)
            if found is not None:
                if not found.port.closed:
                    return found
                await self.end(found.port)
            if component in self._spawned:
                return None
            made = await self._make(component, self._code)
            if isinstance(made, str):
                self._spawned[component] = made
                return None
            self._templates[component] = made
            return made

    async def _make(self, component: ComponentName, code: LaunchCode, number: int = 0) -> Template | str:
        """A template of that code, running; or why its shards must be spawned."""
        async with self._importing:
            # its pages are the shards' as well, so what a shard may not take, importing may not
            ceiling = Resources(memory_bytes=code.plan.definition(component).limits.ceiling.memory_bytes)
            number = number or code.number
            name = ShardId(f"template-{component}{f'-{number}' if number else ''}")
            port, ready = await self._begin(component, name, "template", Limits(ceiling=ceiling), False, code)
        # from here on no user code runs in it, but what its forks touch before they are in control groups of their own
        # is charged to it, and stays so: with the import's ceiling it would be killed for its shards
        roomy = Resources(memory_bytes=(ceiling.memory_bytes or 0) + FORKS_BYTES)
        if ceiling.memory_bytes is not None:
            with contextlib.suppress(SandboxError):
                await self._keeper.resize(name, Limits(ceiling=roomy))
        if not ready.forkable:
            await self.end(port)
            if code.start_of(component) is Start.TEMPLATE:
                raise StartFailed(
                    f"{component} cannot start from a template: {ready.reason}",
                    remedy='use start = "auto" or "spawn"',
                )
            return ready.reason[:MAX_REASON]
        declared = code.component(component)
        own_network = self._links or not declared.network.egress
        made = Template(port, self._template_gone, self._events.on_note, code.isolation_of(component), own_network)
        made.again = component != GATEWAY_COMPONENT and (
            code.plan.definition(component).scope.kind is not ScopeKind.SHARED or declared.scale.max > 1
        )
        made.watch()
        return made

    async def stage(
        self, manifest: Manifest, plan: ShardPlan, secrets: Secrets, components: Collection[ComponentName]
    ) -> Staged:
        """Other code, its templates made for those components: nothing is launched of it before ``commit``."""
        self._numbers += 1
        surroundings = replace(self._code.surroundings, secrets=secrets)
        code = replace(self._code, manifest=manifest, plan=plan, surroundings=surroundings, number=self._numbers)
        await code.auto.settle(plan)
        wanted = [name for name in components if code.start_of(name) is not Start.SPAWN]
        made = await asyncio.gather(*(self._make(name, code) for name in wanted), return_exceptions=True)
        failures = [each for each in made if isinstance(each, BaseException)]
        if failures:
            for each in made:
                if isinstance(each, Template):
                    each.replaced = True
                    await self.end(each.port)
            raise failures[0]
        templates = {name: each for name, each in zip(wanted, made, strict=True) if isinstance(each, Template)}
        spawned = {name: each for name, each in zip(wanted, made, strict=True) if isinstance(each, str)}
        return Staged(lambda: self._commit(code, components, templates, spawned))

    def _commit(
        self,
        code: LaunchCode,
        components: Collection[ComponentName],
        templates: Mapping[ComponentName, Template],
        spawned: Mapping[ComponentName, str],
    ) -> None:
        self._code = code
        for name in components:
            old = self._templates.pop(name, None)
            self._spawned.pop(name, None)
            if old is not None:
                old.replaced = True
                self._ahead.drop(old)
                old.port.close("its code was replaced")
        self._templates.update(templates)
        self._spawned.update(spawned)

    async def _renew(self, component: ComponentName, old: Template) -> None:
        """Another template in place of one that forked often enough; its shards live on, and it serves until then."""
        code = self._code
        self._numbers += 1
        try:
            made = await self._make(component, code, self._numbers)
        except (ShardwrightError, OSError) as error:
            self._events.record("template kept", f"another could not be made: {error}", component=component)
            old.forks = 0  # asked again after as many
            return
        finally:
            del self._renewing[component]
        if isinstance(made, str):
            old.forks = 0
            return
        if self._templates.get(component) is not old or self._code is not code:
            made.replaced = True
            made.port.close("its code was replaced meanwhile")
            return
        self._templates[component] = made
        old.replaced = True
        self._ahead.drop(old)
        old.port.close("it forked often enough")
        self._events.record("template renewed", f"after {old.forks} forks", component=component, shard=made.port.shard)

    async def _template_gone(self, template: Template) -> None:
        """It ended, or was cut off: the next start makes another."""
        port = template.port
        self._ahead.drop(template)
        if self._closing:
            return
        reason = port.closed
        with contextlib.suppress(SandboxError, NodeError):
            reason = end_in_words(reason, await self.end(port))
        if template.replaced:
            return
        self._events.record("template lost", reason, component=port.component, shard=port.shard)

    async def _fork(self, template: Template, shard: ShardId, limits: Limits, terminal: bool) -> ShardPort:
        ahead = None if terminal else self._ahead.take(template, limits)
        nobody = ahead if ahead is not None else await self._begin_fork(template, shard, limits)
        port = nobody.port
        port.shard = shard
        try:
            await self._name(nobody, limits, terminal)
        except BaseException as error:
            await self._clean_up(port, nobody.name)
            again = isinstance(error, StartFailed) and (ahead is not None or await template.has_ended(TEMPLATE_END_S))
            if isinstance(error, StartFailed) and again:  # one that waited may have come to harm meanwhile
                raise TemplateEnded(f"{shard} was not forked: {error.message}") from error
            raise
        finally:
            nobody.held.close()
        if template.again and not terminal:
            self._ahead.soon(template, limits)
        return port

    async def _name(self, nobody: Nobody, limits: Limits, terminal: bool) -> None:
        """Tell a fork who it is; it is ready then, behind its walls. Raises StartFailed, SandboxError."""
        port, template = nobody.port, nobody.template
        entrances, nobody.entrances = tuple(nobody.entrances), []
        self._enter(port, terminal, entrances)  # gives them away
        handle = SandboxHandle(1, template.backend, port.shard, port.pid, process_start_ticks(port.pid) or 0)
        adopted = await self._keeper.adopt(handle, limits, nobody.held.fileno(), nobody.name)
        if adopted is None:  # it has ended; if it was ready before, that is told as any other end
            await self._starts.ready(port)
            await self._keeper.delete(nobody.name)
            return
        self._watch(port, adopted[1])
        await self._starts.ready(port)
        for _ in range(LOOKS):
            if not (trouble := self._outside(port, template, adopted[0].control_groups)):
                await self._link(port.component, port.shard, port.pid, limits)
                return
            await asyncio.sleep(LOOK_S)  # threads that end are listed for a moment, and in no group any more
            if not port.alive():  # there was nothing left to look at, and its end is told as any other
                return
        raise StartFailed(f"{port.shard} {trouble}", remedy="its template is not to be trusted")

    @staticmethod
    def _outside(port: GuestPort, template: Template, control_groups: Collection[str]) -> str:
        """What is wrong with where a fork is, seen from here; empty when it is where it should be."""
        if folder := outside_of(port.pid, control_groups):
            return f"did not enter its control group {folder}"
        if template.backend != "namespace":
            return ""
        walls = walls_trouble(port.pid, template.port.pid, own_network=template.own_network)
        return f"did not close its walls: {walls}" if walls else ""

    async def _begin_fork(self, template: Template, name: ShardId, limits: Limits) -> Nobody:
        """A fork that said hello, and control groups for it. Raises StartFailed, TemplateEnded, SandboxError, OSError."""
        ours, theirs = control_pair()
        try:
            held, lifeline = socket.socketpair()  # ours until the keeper holds it
        except OSError:
            ours.close()
            theirs.close()
            raise
        port = GuestPort(name, template.port.component, ours)
        port.forked_as = name
        # its control groups are made while it is forked
        reserving = asyncio.ensure_future(self._keeper.reserve(name, limits, template.backend))
        try:
            forked = template.fork(name, theirs.detach(), lifeline.detach())
            await self._starts.hello(port, forked)
            if parent_of(port.pid) != template.port.pid:  # it may say that it is somebody else
                raise StartFailed(f"{name} is no child of its template")
            return Nobody(template, port, name, limits, held, await reserving)
        except BaseException as error:
            held.close()
            await self._close_reserved(reserving)
            await self._clean_up(port)
            if isinstance(error, StartFailed) and await template.has_ended(TEMPLATE_END_S):
                raise TemplateEnded(f"{name} was not forked: {error.message}") from error
            raise
        finally:
            template.forked(name)

    async def _end_nobody(self, nobody: Nobody) -> None:
        nobody.held.close()
        for entrance in nobody.entrances:
            os.close(entrance)
        await self._clean_up(nobody.port)

    @staticmethod
    async def _close_reserved(reserving: asyncio.Future[list[int]]) -> None:
        """Whatever came of it, nobody will use its descriptors."""
        reserving.cancel()  # the client closes what comes late
        with contextlib.suppress(asyncio.CancelledError, SandboxError, NodeError):
            for descriptor in await reserving:
                os.close(descriptor)

    async def _spawn(self, component: ComponentName, shard: ShardId, limits: Limits, terminal: bool) -> ShardPort:
        async with self._importing:
            port, _ = await self._begin(component, shard, "shard", limits, terminal)
        return port

    async def _begin(
        self,
        component: ComponentName,
        shard: ShardId,
        role: str,
        limits: Limits,
        terminal: bool,
        code: LaunchCode | None = None,
    ) -> tuple[GuestPort, Ready]:
        """A fresh interpreter that has imported the component; behind walls that nobody stated only if it starts there."""
        code = code or self._code
        begun_s = time.monotonic()
        try:
            found = await self._begin_isolated(component, shard, role, limits, terminal, code)
        except (SandboxError, ComponentImportError) as error:
            hangs = time.monotonic() - begun_s >= code.component(component).start_timeout_s
            declared = code.component(component)
            if within_changing((*declared.files.read, *declared.files.write), code.manifest):
                # a shard could make its own walls fail
                raise
            if hangs or not code.auto.give_up(code.plan.definition(component), error.message):
                raise
            return await self._begin_isolated(component, shard, role, limits, terminal, code)
        code.auto.started(component)
        return found

    async def _begin_isolated(
        self, component: ComponentName, shard: ShardId, role: str, limits: Limits, terminal: bool, code: LaunchCode
    ) -> tuple[GuestPort, Ready]:
        surroundings = code.surroundings
        declared = code.component(component)
        environment = surroundings.environment_of(declared)
        backend, sight, walls = code.isolation_of(component), Sight(), None
        if backend != "process":
            environment.pop("TMPDIR", None)  # it has a temporary folder of its own
            sight = sight_of(
                declared, code.manifest, code.plan.root, environment, surroundings.working_directory, linked=self._links
            )
        if (access := code.gpus.take(declared, shard, limits)) is not None:
            environment |= access.environment
            sight = access.seen(sight) if role == "shard" else sight  # forks have control groups of their own
        if backend != "process":
            walls = walls_of(sight, declared.network.egress)
        ours, theirs = control_pair()
        port = GuestPort(shard, component, ours)
        log = errors = -1
        try:
            with theirs:
                log, errors = self._logs.pipes(shard)
                handle, pidfd = await self._keeper.launch(
                    shard,
                    python_command("shardwright.guest", str(GUEST_CONTROL), str(GUEST_LIFELINE)),
                    environment,
                    surroundings.working_directory,
                    {GUEST_CONTROL: theirs.fileno(), 1: log, 2: errors},
                    limits,
                    backend=backend,
                    sight=sight,
                    template=role == "template",
                )
            self._watch(port, pidfd)
            await self._link(component, shard, handle.pid, limits)
            await self._starts.hello(port)
            # the gateway runs no code of the application, and must not find any
            paths = () if component == GATEWAY_COMPONENT else (code.plan.root,)
            port.send(
                Init(code.plan_bytes, component, role, paths, surroundings.argv, self._testing, walls, self._rings)
            )
            if role == "shard":
                self._enter(port, terminal)
            return port, await self._starts.ready(port)
        except BaseException:
            await self._clean_up(port)
            raise
        finally:
            for descriptor in (log, errors):
                if descriptor >= 0:
                    os.close(descriptor)

    def _enter(self, port: GuestPort, terminal: bool, entrances: tuple[int, ...] = ()) -> None:
        """Who it is, and what it is to have. ``entrances`` are given away, whatever comes of it. Raises OSError."""
        secrets = dict(self._code.surroundings.secrets.get(port.component, {}))
        settings, sockets = b"", tuple[int, ...]()
        streams: list[int] = []
        try:
            if terminal:
                for stream in (0, 1, 2):
                    streams.append(os.dup(stream))
            else:
                streams += self._logs.pipes(port.shard)
            if port.component == GATEWAY_COMPONENT and self._ingress is not None:
                settings = msgspec.msgpack.encode(self._ingress.settings)
                sockets = self._ingress.copies()
        except BaseException:
            for descriptor in (*streams, *entrances):
                os.close(descriptor)
            raise
        message = Enter(port.shard, secrets, terminal, settings, len(entrances), self._rings)
        port.send(message, (*streams, *sockets, *entrances))

    def _watch(self, port: GuestPort, pidfd: int) -> None:
        """The pidfd tells of the end even when a child of the shard keeps its control socket open."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            self._pidfds.discard(pidfd)
            # what it sent last comes first
            loop.call_soon(port.close, "it ended")

        self._pidfds.add(pidfd)
        loop.add_reader(pidfd, ended)

    async def _clean_up(self, port: GuestPort, reserved: ShardId | None = None) -> None:
        with contextlib.suppress(SandboxError, NodeError):
            await asyncio.shield(self.end(port))
        if reserved is not None and reserved != port.shard:
            with contextlib.suppress(SandboxError, NodeError):
                await asyncio.shield(self._keeper.delete(reserved))
