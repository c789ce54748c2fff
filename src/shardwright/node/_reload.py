"""A running node takes up other code: shards of what changed are replaced, everything else runs on.

Nothing is touched until the new code was read, planned and, where components start from templates, imported. Then one
turn of the loop swaps plan and templates, and from there on each shard of a changed component is replaced:

- without state, a new instance is ready before the old one is taken out of use: callers begin no call there any more,
  what runs ends, and the old shard ends when its last caller has let go of it. No call fails.
- with state, the old one is taken out of use first, for there are never two; sessions that used it hear of the loss with
  their next call (ShardLost), and what runs there ends. The new one starts from its template.
- one that runs the program itself goes on with its old code.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from shardwright.composition import Launch, ShardRecord, ShardStatus
from shardwright.manifest import load
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.manifest import Manifest
from shardwright.model.scope import ScopeKind, StateKind
from shardwright.model.shard import GATEWAY_COMPONENT, ShardPlan
from shardwright.node._checks import plan_to_start
from shardwright.node._launcher import Secrets, read_secrets
from shardwright.node._reload_plan import Fingerprints, check_replaceable, with_stable_numbers
from shardwright.node._retire import DRAIN_S, LOOK_S, take_out, tell_callers
from shardwright.sharding import cut_components

if TYPE_CHECKING:
    from shardwright.node._running import Running

ANSWER_S = 1.0  # for shards to say which sessions had state in one that they called
START_S = 120.0  # a new shard has its own, shorter time to start


class Reloaded(Struct, frozen=True):
    """What a reload did. ``replaced``: by component, the shards that were; ``told``: sessions that lost state in them;
    ``failed``: components whose old code goes on, because a shard with the other code did not start.
    """

    replaced: Mapping[str, tuple[ShardId, ...]]
    kept: tuple[str, ...]
    told: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    took_s: float = 0.0
    failed: tuple[str, ...] = ()


class _Read(Struct, frozen=True):
    manifest: Manifest
    plan: ShardPlan
    secrets: Secrets
    prints: Fingerprints


class _Losses:
    """Shards with state that are replaced. Only their callers know whose state it was, so these must live until they said."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._known: set[ShardId] = set()
        self._all = asyncio.Event()
        if not count:
            self._all.set()

    def known(self, shard: ShardId) -> None:
        self._known.add(shard)
        if len(self._known) == self._count:
            self._all.set()

    async def all_known(self) -> None:
        await self._all.wait()


class Reloader:
    """Reloads one node; one at a time. To be made when it starts, before anybody may change its code."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._prints = Fingerprints(running.manifest, running.plan)
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Reloader of {len(self._prints.texts)} components>"

    async def reload(self) -> Reloaded:
        """Take up what changed. Raises ManifestError, PlanError, NodeError, ComponentImportError, StartFailed; then
        the node goes on as it was.
        """
        async with self._turn:
            begun_s = time.monotonic()
            core = self._running.core
            try:
                read = await asyncio.get_running_loop().run_in_executor(None, self._read)
                changed = [name for name, text in read.prints.texts.items() if self._prints.texts.get(name) != text]
                if not changed:
                    return Reloaded({}, tuple(sorted(read.prints.texts)), took_s=time.monotonic() - begun_s)
                check_replaceable(self._running.manifest, read.manifest, self._running.plan, read.plan)
                plan = with_stable_numbers(read.plan, self._running.plan)
                assert core.launcher is not None
                read.prints.tree.forget_compiled(self._prints.tree)
                staged = await core.launcher.stage(read.manifest, plan, read.secrets, changed)
            except Exception as error:
                core.record("reload", f"refused, the old code goes on: {error!s:.2000}")
                raise
            lossy = {
                name
                for name in changed
                if name != GATEWAY_COMPONENT and self._running.plan.definition(name).state is not StateKind.NONE
            }
            staged.commit()
            self._take_up(read, plan, changed)
            old = [record for record in core.records() if record.component in changed and not record.stopping]
            core.record("reload", f"other code for {', '.join(changed)}", inputs=(("shards", len(old)),))
            losses = _Losses(sum(record.component in lossy for record in old))
            results = await asyncio.gather(
                *(self._replace(r, losses if r.component in lossy else None, losses, changed) for r in old)
            )
            core.shards.freed()
            replaced: dict[str, tuple[ShardId, ...]] = dict.fromkeys(changed, ())
            told: set[str] = set()
            notes: list[str] = []
            failed: set[str] = set()
            for record, (done, sessions, note) in zip(old, results, strict=True):
                if note.startswith("!"):
                    failed.add(record.component)
                    note = note[1:]
                if done:
                    replaced[record.component] += (record.id,)
                told.update(sessions)
                notes += [note] if note else []
            kept = tuple(sorted(set(map(str, read.prints.texts)) - set(changed)))
            return Reloaded(
                replaced, kept, tuple(sorted(told)), tuple(notes), time.monotonic() - begun_s, tuple(sorted(failed))
            )

    def _read(self) -> _Read:
        running = self._running
        environment = running.environment
        manifest = load(running.manifest.path, profile=running.options.profile, environment=environment)
        plan = plan_to_start(manifest, environment, inside=not running.options.inproc)
        manifest = cut_components(manifest, plan)
        return _Read(manifest, plan, read_secrets(manifest, environment), Fingerprints(manifest, plan))

    def _take_up(self, read: _Read, plan: ShardPlan, changed: list[ComponentName]) -> None:
        running, core = self._running, self._running.core
        self._prints = read.prints
        components = core.components_of(read.manifest, plan)
        running.manifest = core.manifest = read.manifest
        running.plan = core.plan = plan
        core.shards.take_up(plan, components, changed)
        core.bindings.take_up(plan)
        running.client.take_up(plan)
        running.onlooker.take_up(plan)
        if running.ingress is not None:
            running.ingress.take_up(plan)

    # -- one shard ---------------------------------------------------------------------------------------------

    async def _replace(
        self, record: ShardRecord, loss: _Losses | None, losses: _Losses, changed: list[ComponentName]
    ) -> tuple[bool, tuple[str, ...], str]:
        """Whether it was replaced, the sessions that lost state in it, and what to say of it (``!``: it is a failure).

        ``loss``: it has state, and is one of ``losses``, all of which must be known before any caller goes.
        """
        try:
            return await self._replaced(record, loss, losses, changed)
        finally:
            if loss is not None:
                loss.known(record.id)

    async def _replaced(
        self, record: ShardRecord, loss: _Losses | None, losses: _Losses, changed: list[ComponentName]
    ) -> tuple[bool, tuple[str, ...], str]:
        core, shard = self._running.core, record.id
        shards, composer = core.shards, core.shards.composer
        while (now := composer.shard(shard)) is not None and now.status is ShardStatus.STARTING:
            await asyncio.sleep(LOOK_S)
        if now is None or now.stopping:
            return True, (), ""
        if core.runs_program(shard):
            return False, (), f"{shard} runs the program, which goes on with its old code until it is run again"
        if now.scope is not ScopeKind.SHARED and now.spare:
            shards.perform(composer.evict(shard, shards.now(), "its code was replaced"))
            return True, (), ""
        if now.scope is ScopeKind.REQUEST:
            shards.perform(composer.drain(shard, shards.now(), "its code was replaced"))
            return True, (), ""
        note = ""
        lost: tuple[str, ...] = ()
        if loss is None:
            await losses.all_known()
            if now.scope is ScopeKind.SHARED:
                note = await self._begin_another(shard)
                if note.startswith("!"):
                    return False, (), note
            await take_out(core, shard)
            tell_callers(core, record.component, shard, self._running.retire_at_clients)
        else:
            sessions = set(await take_out(core, shard))
            self._running.retire_at_clients(shard, True)
            sessions.update(await core.bindings.retire(now, changed, ANSWER_S))
            core.shards.freed()
            names = (name for name in map(core.session_name, sessions) if name and not name.startswith("("))
            lost = tuple(sorted(names))
            loss.known(shard)
            await losses.all_known()  # it may be a caller as well
        reason = "its code was replaced" + (f"; sessions that had state in it: {', '.join(lost)}" if lost else "")
        core.record("reload", reason, component=record.component, shard=shard)
        await shards.drain_shard(shard, DRAIN_S)
        return True, lost, note

    async def _begin_another(self, shard: ShardId) -> str:
        """Have another instance ready. A note when there is no room for both; one with ``!`` when it does not start."""
        core = self._running.core
        decision = core.shards.composer.replace(shard, core.shards.now(), f"it takes the place of {shard}")
        if not isinstance(decision, Launch):
            return f"{shard} ended before its successor began, so calls had to wait: {decision.reason}"
        core.shards.begin(decision)
        end_s = time.monotonic() + START_S
        while decision.shard not in core.ports():
            if core.shards.composer.shard(decision.shard) is None or time.monotonic() > end_s:
                core.shards.composer.keep(shard)
                rows = core.journal.tail(200, kind="failure")
                why = next((row.reason for row in reversed(rows) if row.shard == decision.shard), "see the journal")
                return f"!{shard} goes on with its old code: {why}"
            await asyncio.sleep(LOOK_S)
        return ""
