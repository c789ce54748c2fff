"""The composer: decides which shards a request or session gets. Synchronous; one loop calls it and performs the rest.

Over 400 lines because it is one face: matching, the rules of the queue, the roster's bookkeeping and the invariants
live beside it, and what is left here is one short method per event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from shardwright.composition._books import Books, Composition, unique
from shardwright.composition._match import Lack, Match, match
from shardwright.composition._queue import PATIENCE, Fairness, Waiting, deadlocked, in_turn, never_fits
from shardwright.composition._roster import Entry, Roster, SessionEntry, Spec, label
from shardwright.composition._values import (
    Abort,
    Decision,
    Effect,
    Granted,
    Inputs,
    Launch,
    Lease,
    Loss,
    Need,
    Queued,
    Refused,
    ReturnToPool,
    ShardRecord,
    ShardStatus,
    Stop,
    Unbind,
)
from shardwright.errors import InternalError
from shardwright.model.ids import NO_SESSION, ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits
from shardwright.model.manifest import Component, implicit
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import ShardPlan
from shardwright.placement import Capacity

_CLOSE = "close sessions, raise the node's capacity, or lower the guarantees in the manifest"


def keep_below_maximum(component: Component, free: int) -> bool:
    """Whether the WarmPool, which holds ``free`` shards of the component, wants one more: below ``warm.max``."""
    return free < component.warm.max


class Composer(Books):
    """Decides launches, leases and their ends; keeps the roster that they leave behind.

    Give it what happens (``started``, ``start_failed``, ``exited``), perform what it returns in that order, and ask
    ``poll`` after anything was freed, and when a deadline may have passed. ``request`` numbers are the caller's, unique
    among those in progress. ``now`` and deadlines are seconds of one clock that never goes back. Not thread-safe.

    ``new_id`` makes shard ids; ``wanted`` says whether the WarmPool wants one more free shard of a component;
    ``patience`` is how often a queued request may be overtaken by younger ones. The capacity is the composer's own from
    here on. Raises InternalError when it is misused.
    """

    def __init__(
        self,
        plan: ShardPlan,
        components: Mapping[str, Component],
        capacity: Capacity,
        new_id: Callable[[ComponentName], ShardId],
        *,
        wanted: Callable[[Component, int], bool] = keep_below_maximum,
        patience: int = PATIENCE,
    ) -> None:
        specs = {}
        for definition in plan.definitions:
            name = definition.component
            # the implicit main component has no section in the manifest
            component = components.get(name) or implicit(name, definition.code.primary)
            specs[name] = Spec(component, definition)
        super().__init__(plan, Roster(specs, capacity))
        self._new_id = new_id
        self._wanted = wanted
        self._patience = patience

    def __repr__(self) -> str:
        return (
            f"<Composer {len(self._roster.shards)} shards, {len(self._roster.sessions)} sessions, "
            f"{len(self._queue)} queued>"
        )

    # -- taking ------------------------------------------------------------------------------------------------

    def compose(
        self,
        request: int,
        session: SessionNumber,
        needs: Sequence[Need],
        now: float,
        deadline_s: float | None = None,
        preferred: frozenset[ShardId] = frozenset(),
    ) -> Decision:
        """All that ``needs`` names, or nothing: granted at once, queued (holding nothing), or refused.

        What the session holds already is kept and counts as met. Refused when it could not be met even with the session
        alone on the node, when waiting would deadlock, or when the deadline has passed. Free shards that are ``preferred``
        are leased before others.
        """
        if request in self._compositions or any(waiting.request == request for waiting in self._queue):
            raise InternalError(f"request {request} is in progress already")
        self._validate(needs)
        waiting = Waiting(request, session, unique(needs, self._roster), now, deadline_s, preferred=preferred)
        if deadline_s is not None and now >= deadline_s:
            return self._refuse(waiting, now, "its deadline has passed", "allow more time")
        order = in_turn(self._roster, (*self._queue, waiting))
        older = order[: order.index(waiting)]
        found, reason = self._attempt(waiting, older, self._fairness(order))
        if found is not None and not found.waits:
            return self._grant(waiting, found, now, older)
        if never := never_fits(self._roster, session, waiting.needs):
            return self._refuse(waiting, now, f"it can never be met: {never}", _CLOSE)
        self._queue.append(waiting)
        if waiting in deadlocked(self._roster, self._queue):
            self._queue.remove(waiting)
            return self._refuse(waiting, now, f"it would wait for ever for sessions that wait for it: {reason}", _CLOSE)
        return self._wait(waiting, len(older) + 1, found, reason, now)

    def acquire(
        self,
        request: int,
        session: SessionNumber,
        component: ComponentName,
        key: str | None,
        now: float,
        deadline_s: float | None = None,
    ) -> Decision:
        """Late binding, during a session: that component, and what it may call of shared and session scope.

        A request-scoped component is leased for this one request: give it back with ``release_request``.
        """
        return self.compose(request, session, self._late_needs(component, key), now, deadline_s)

    def poll(self, now: float) -> tuple[Decision, ...]:
        """What has become of queued requests: granted, or refused by deadline or deadlock.

        A Queued among them is the news that it stops idle shards to make room: perform its effects.
        """
        decisions: list[Decision] = []
        for waiting in [w for w in self._queue if w.deadline_s is not None and now >= w.deadline_s]:
            self._queue.remove(waiting)
            waited = f"its deadline passed after {now - waiting.since_s:.3g} s in the queue"
            decisions.append(self._refuse(waiting, now, waited, _CLOSE))
        while stuck := deadlocked(self._roster, self._queue):
            self._queue.remove(stuck[-1])
            alone = never_fits(self._roster, stuck[-1].session, stuck[-1].needs)
            reason = f"it can never be met beside what its session holds by now: {alone}"
            reason = reason if alone else "it would wait for ever for sessions that wait for it"
            decisions.append(self._refuse(stuck[-1], now, reason, _CLOSE))
        older: list[Waiting] = []
        fairness = self._fairness(self._queue)
        for waiting in in_turn(self._roster, self._queue):
            found, reason = self._attempt(waiting, older, fairness)
            if found is not None and not found.waits:
                self._queue.remove(waiting)
                decisions.append(self._grant(waiting, found, now, older))
                fairness = self._fairness(self._queue)
                continue
            older.append(waiting)
            if found is not None and found.evict:
                decisions.append(self._wait(waiting, len(older), found, reason, now))
        return tuple(decisions)

    def launch(self, component: ComponentName, now: float, reason: str) -> Launch | Refused:
        """One more free shard (or shared instance), by the controller's word. Refused when a bound forbids it."""
        spec = self._roster.specs[component]
        exist = len(self._roster.by_component[component])
        inputs: Inputs = (("shards", exist), ("queued", len(self._queue)))
        if spec.most_shards is not None and exist >= spec.most_shards:
            return Refused(0, NO_SESSION, f"{component} may have {spec.most_shards} shards", inputs=inputs)
        if lack := self._roster.capacity.explain(spec.limits):
            return Refused(0, NO_SESSION, lack, _CLOSE, inputs)
        return self._launch(spec, now, reason, inputs)

    # -- other code for a component ----------------------------------------------------------------------------

    def take_up(self, plan: ShardPlan, components: Mapping[ComponentName, Component]) -> None:
        """From now on shards are launched by that plan, which has the same components with the same scopes."""
        self._plan = plan
        self._closures.clear()
        for definition in plan.definitions:
            name = definition.component
            component = components.get(name) or implicit(name, definition.code.primary)
            self._roster.specs[name] = Spec(component, definition)

    def replace(self, shard: ShardId, now: float, reason: str) -> Launch | Refused:
        """A shard to take the place of that one, which then no longer counts against ``scale.max``.

        Refused when the capacity or ``usage.max_instances`` does not permit both at once.
        """
        entry = self._roster.shards[shard]
        spec = self._roster.specs[entry.spec.name]
        inputs: Inputs = (("replaces", shard), ("shards", len(self._roster.by_component[spec.name])))
        most = spec.component.usage.max_instances
        if most is not None and len(self._roster.by_component[spec.name]) >= most:
            return Refused(0, NO_SESSION, f"{spec.name} may have {most} instances", inputs=inputs)
        if lack := self._roster.capacity.explain(spec.limits):
            return Refused(0, NO_SESSION, lack, _CLOSE, inputs)
        entry.replaced = True
        return self._launch(spec, now, reason, inputs)

    def keep(self, shard: ShardId) -> None:
        """Nothing takes its place after all."""
        if (entry := self._roster.shards.get(shard)) is not None:
            entry.replaced = False

    def supersede(self, shard: ShardId, now: float) -> tuple[SessionNumber, ...]:
        """Take a shard from all who hold it: they lease anew with their next use, and nobody is given it any more.

        Returns the sessions that held it. Afterwards it is for the caller to end it, and to say so by ``exited``.
        Compositions in progress that count on it are left alone, and with them the shard: ask again later.
        """
        entry = self._roster.shards.get(shard)
        if entry is None or entry.stopping:
            return ()
        holders = []
        entry.draining = True
        for number in tuple(entry.sessions):
            session = self._roster.sessions[number]
            mine = [need for need, hold in session.holds.items() if hold.shard == shard]
            if shard in session.requests or any(session.holds[need].claims for need in mine):
                continue
            for need in mine:
                del session.holds[need]
            self._roster.unhold(entry, number, now)
            holders.append(number)
        if not entry.sessions:
            self._roster.unkey(entry)
            entry.stopping = entry.replaced = True
            self._roster.stopping.add(shard)
        return tuple(holders)

    def resize(self, limits: Mapping[ShardId, Limits]) -> None:
        """Book other limits for these shards, all of them or none. Shards that are gone are left out.

        Raises ValueError that says what lacks when the guarantees do not fit together; then nothing has changed.
        """
        found = {shard: amount for shard, amount in limits.items() if shard in self._roster.shards}
        self._roster.capacity.change(found)
        for shard, amount in found.items():
            self._roster.shards[shard].resized = amount

    # -- what happened -----------------------------------------------------------------------------------------

    def started(self, shard: ShardId, now: float) -> tuple[int, ...]:
        """The shard is ready to serve. Returns the requests whose compositions are whole now."""
        entry = self._roster.shards.get(shard)
        if entry is None or entry.status is not ShardStatus.STARTING:
            return ()
        entry.status = ShardStatus.READY
        if entry.idle_since_s is not None:
            entry.idle_since_s = now
        whole = []
        for composition in tuple(self._compositions.values()):
            composition.waits_for.discard(shard)
            if not composition.waits_for:
                self._settle(composition)
                whole.append(composition.request)
        return tuple(whole)

    def start_failed(self, shard: ShardId, reason: str, now: float) -> tuple[Effect, ...]:
        """The shard did not become ready, and is gone. Every composition that counted on it is aborted."""
        return self.exited(shard, now, f"it did not start: {reason}").effects

    def exited(self, shard: ShardId, now: float, reason: str = "it exited") -> Loss:
        """The shard is gone: its leases are removed, so that the next use leases anew, and its guarantee is free.

        Compositions in progress that counted on it are aborted as a whole. Raises InternalError for an unknown shard.
        """
        entry = self._roster.shards.get(shard)
        if entry is None:
            raise InternalError(f"{shard} is not on the roster")
        before, expected = entry.record(), entry.stopping
        entry.stopping = True  # what is given back below must not go to the pool
        effects: list[Effect] = []
        for composition in tuple(self._compositions.values()):
            if any(leased == shard for _, leased in composition.needs):
                effects += self._abort(composition, now, f"{shard} was lost: {reason}")
        record = entry.record()
        for number in record.sessions:
            session = self._roster.sessions[number]
            for need in [need for need, hold in session.holds.items() if hold.shard == shard]:
                del session.holds[need]
            session.requests.pop(shard, None)
            self._roster.unhold(entry, number, now)
        self._roster.remove(entry)
        ended = ShardRecord(
            before.id, before.component, before.scope, ShardStatus.ENDED, before.limits, False, (), before.key,
            before.request, before.created_s, None, expected,
        )  # fmt: skip
        inputs: Inputs = (
            ("sessions", len(record.sessions)),
            ("expected", int(expected)),
            ("status", before.status.value),
        )
        return Loss(ended, record.sessions, before.key, before.request, expected, tuple(effects), reason, inputs)

    def touch(self, session: SessionNumber, now: float) -> None:
        """The session is alive; its shards do not go idle."""
        if entry := self._roster.sessions.get(session):
            entry.touched_s = max(entry.touched_s, now)

    # -- giving back -------------------------------------------------------------------------------------------

    def release_request(self, shard: ShardId, now: float) -> tuple[Effect, ...]:
        """The request that leased this request-scoped shard is over. Idempotent, also when the shard is gone."""
        entry = self._roster.shards.get(shard)
        if entry is None or entry.spec.kind is not ScopeKind.REQUEST or not entry.sessions:
            return ()
        number = next(iter(entry.sessions))
        effects: list[Effect] = []
        for composition in tuple(self._compositions.values()):
            if any(leased == shard for _, leased in composition.needs):
                effects += self._abort(composition, now, "it was given back before it was whole")
        session = self._roster.sessions.get(number)
        if session is not None and session.requests.pop(shard, None) is not None:
            effects += self._give_back(entry, number, now, "its request is over")
        return tuple(effects)

    def cancel(self, request: int, now: float) -> tuple[Effect, ...]:
        """Nobody waits for this request any more: it leaves the queue, or what it was granted is given back.

        The leases of a composition that was whole already are the session's and stay, but for request-scoped ones.
        """
        self._queue = [waiting for waiting in self._queue if waiting.request != request]
        composition = self._compositions.get(request)
        if composition is not None:
            return self._abort(composition, now, "it was cancelled")
        mine = [entry.id for entry in self._roster.shards.values() if entry.request == request]
        return tuple(effect for shard in mine for effect in self.release_request(shard, now))

    def end_session(self, session: SessionNumber, now: float) -> tuple[Effect, ...]:
        """Everything that the session holds or waits for is given back. Idempotent.

        A shard goes to the WarmPool when the manifest permits its reuse (or it never served anybody) and the pool wants
        it, and is stopped otherwise; a keyed shard that nobody holds any more is kept for its ``idle_timeout_s``.
        """
        effects: list[Effect] = []
        for waiting in [w for w in self._queue if w.session == session]:
            self._queue.remove(waiting)
            effects.append(Abort(waiting.request, session, "its session has ended"))
        for composition in [c for c in self._compositions.values() if c.session == session]:
            effects += self._abort(composition, now, "its session has ended")
        entry = self._roster.sessions.pop(session, None)
        for shard in entry.shards if entry else ():
            effects += self._give_back(self._roster.shards[shard], session, now, "its session has ended")
        return tuple(effects)

    def expire(
        self, now: float, spared: Callable[[ShardId, float], bool] = lambda shard, timeout_s: False
    ) -> tuple[Effect, ...]:
        """Give back what was idle for the component's ``idle_timeout_s``.

        That is: keys that nobody holds, and the session-scoped shards of sessions that were silent (see ``touch``), but
        for those that ``spared``, which is asked with each such shard and its timeout, leaves alone for now.
        """
        effects: list[Effect] = []
        for session in tuple(self._roster.sessions.values()):
            silence = now - session.touched_s
            for need, hold in tuple(session.holds.items()):
                entry = self._roster.shards[hold.shard]
                timeout = entry.spec.component.idle_timeout_s
                if entry.spec.kind is ScopeKind.SESSION and timeout is not None and silence >= timeout and hold.settled:
                    if hold.claims or spared(hold.shard, timeout):
                        continue
                    reason = f"session {session.number} was silent for {silence:.3g} s"
                    inputs: Inputs = (("silence_s", silence), ("idle_timeout_s", timeout))
                    del session.holds[need]
                    effects.append(Unbind(session.number, entry.id, entry.spec.name, reason, inputs))
                    effects += self._give_back(entry, session.number, now, reason)
        for entry in [e for entries in self._roster.unheld.values() for e in entries.values()]:
            timeout = entry.spec.component.idle_timeout_s
            if entry.key is None or not entry.accepting or timeout is None or entry.idle_since_s is None:
                continue
            if now - entry.idle_since_s >= timeout:
                effects += self._retire(entry, f"nobody held key {entry.key!r} for {now - entry.idle_since_s:.3g} s")
        return tuple(effects)

    def drain(self, shard: ShardId, now: float, reason: str = "it was told to drain") -> tuple[Effect, ...]:
        """No new leases; stopped once nobody holds it, which may be now."""
        entry = self._roster.shards.get(shard)
        if entry is None or not entry.accepting:
            return ()
        if not entry.sessions:
            return self._stop(entry, reason)
        entry.draining = True
        return ()

    def evict(self, shard: ShardId, now: float, reason: str) -> tuple[Effect, ...]:
        """Stop a shard that nobody holds, by the controller's word; nothing happens when somebody leased it since."""
        entry = self._roster.shards.get(shard)
        return self._stop(entry, reason) if entry and entry.accepting and not entry.sessions else ()

    # -- inside ------------------------------------------------------------------------------------------------

    def _validate(self, needs: Iterable[Need]) -> None:
        for need in needs:
            spec = self._roster.specs.get(need.component)
            if spec is None:
                raise InternalError(f"the plan has no component {need.component!r}")
            if (need.key is not None) is not (spec.kind is ScopeKind.KEY):
                raise InternalError(f"{need.component} has scope {spec.definition.scope}, the need is {need}")

    def _attempt(self, waiting: Waiting, older: Sequence[Waiting], fairness: Fairness) -> tuple[Match | None, str]:
        """A match when it may be served before ``older`` (now, or after evictions); else None and why not."""
        found = match(self._roster, waiting.session, waiting.needs, waiting.preferred)
        if isinstance(found, Lack):
            return None, found.reason
        blocker = fairness.blocker(waiting, found, older)
        if blocker is not None:
            return None, f"request {blocker.request} is older and was overtaken {blocker.overtaken} times"
        return found, found.waits

    def _fairness(self, queue: Sequence[Waiting]) -> Fairness:
        return Fairness(self._roster, queue, self._patience)

    def _inputs(self, waiting: Waiting, now: float) -> Inputs:
        return (
            ("needs", ", ".join(map(str, waiting.needs))),
            ("waited_s", now - waiting.since_s),
            ("queued", len(self._queue)),
            ("shards", len(self._roster.shards)),
            ("capacity", repr(self._roster.capacity)),
        )

    def _refuse(self, waiting: Waiting, now: float, reason: str, remedy: str) -> Refused:
        return Refused(waiting.request, waiting.session, reason, remedy, self._inputs(waiting, now))

    def _wait(self, waiting: Waiting, position: int, found: Match | None, reason: str, now: float) -> Queued:
        effects: list[Effect] = []
        for entry in found.evict if found else ():
            effects += self._stop(entry, f"request {waiting.request} needs the room: {reason}")
        return Queued(waiting.request, waiting.session, position, tuple(effects), reason, self._inputs(waiting, now))

    def _launch(self, spec: Spec, now: float, reason: str, inputs: Inputs) -> Launch:
        entry = Entry(self._new_id(spec.name), spec, now, idle_since_s=now)
        self._roster.add(entry)
        return Launch(spec.name, entry.id, spec.limits, reason, inputs)

    def _grant(self, waiting: Waiting, found: Match, now: float, older: Iterable[Waiting]) -> Granted:
        inputs = self._inputs(waiting, now)
        for each in older:
            each.overtaken += 1
        session = self._roster.sessions.get(waiting.session)
        if session is None:
            session = self._roster.sessions[waiting.session] = SessionEntry(waiting.session, now, now)
        session.touched_s = max(session.touched_s, now)
        launches: list[Launch] = []
        bound: list[tuple[Need, ShardId]] = []
        kept: list[ShardId] = []
        for need, entry in found.chosen:
            if entry is None:
                spec = self._roster.specs[need.component]
                why = f"no shard for {need} was free"
                launches.append(self._launch(spec, now, why, (("request", waiting.request), *inputs)))
                entry = self._roster.shards[launches[-1].shard]
            if entry.spec.kind is ScopeKind.REQUEST:
                session.requests[entry.id] = hold = self._roster.hold(entry, waiting.session, need, waiting.request)
            elif need in session.holds:
                hold = session.holds[need]
                kept.append(entry.id)
            else:
                session.holds[need] = hold = self._roster.hold(entry, waiting.session, need, None)
            hold.claims.add(waiting.request)
            bound.append((need, entry.id))
        starting = {shard for _, shard in bound if self._roster.shards[shard].status is ShardStatus.STARTING}
        composition = Composition(waiting.request, waiting.session, tuple(bound), starting)
        self._compositions[waiting.request] = composition
        if not starting:
            self._settle(composition)
        leases = tuple(Lease(need.component, shard, need.key) for need, shard in bound)
        reason = f"{len(leases) - len(launches)} leased, {len(launches)} launched"
        return Granted(
            waiting.request, waiting.session, leases, tuple(launches), tuple(sorted(starting)), reason, inputs,
            tuple(kept),
        )  # fmt: skip

    def _settle(self, composition: Composition) -> None:
        """The composition is whole: from now on its leases are the session's, and its shards may serve."""
        del self._compositions[composition.request]
        session = self._roster.sessions[composition.session]
        session.lived = True
        for need, shard in composition.needs:
            hold = session.requests[shard] if shard in session.requests else session.holds[need]
            hold.claims.discard(composition.request)
            hold.settled = True
            self._roster.shards[hold.shard].used = True

    def _abort(self, composition: Composition, now: float, reason: str) -> tuple[Effect, ...]:
        """Undo a composition that is not whole: leases that it alone made are given back."""
        effects: list[Effect] = [Abort(composition.request, composition.session, reason)]
        session = self._roster.sessions[composition.session]
        del self._compositions[composition.request]
        for need, shard in composition.needs:
            hold = session.requests[shard] if shard in session.requests else session.holds[need]
            hold.claims.discard(composition.request)
            if hold.settled or hold.claims:
                continue
            if session.requests.pop(shard, None) is None:
                del session.holds[need]
            entry = self._roster.shards[shard]
            if hold.marked and entry.spec.kind is not ScopeKind.KEY:  # others may hold the key
                # no call was routed to it: it has not served this trust domain
                entry.history.discard(label(entry.spec.kind, composition.session, need.key, composition.request))
            effects += self._give_back(entry, composition.session, now, f"request {composition.request} was aborted")
        # what is left of a session that never began; one that waits, or has begun, is forgotten by end_session
        if not session.lived and not any(c.session == session.number for c in self._compositions.values()):
            del self._roster.sessions[session.number]
        return tuple(effects)

    def _give_back(self, entry: Entry, session: SessionNumber, now: float, reason: str) -> tuple[Effect, ...]:
        self._roster.unhold(entry, session, now)
        if entry.sessions:
            return ()
        if not entry.accepting:
            return self._stop(entry, f"it was draining; {reason}")
        if entry.spec.kind is ScopeKind.SHARED:
            return ()
        if entry.spec.kind is ScopeKind.KEY and entry.used and entry.spec.component.idle_timeout_s is not None:
            return ()
        return self._retire(entry, reason)

    def _retire(self, entry: Entry, reason: str) -> tuple[Effect, ...]:
        """Nobody uses it any more: back to the WarmPool where permitted and wanted, else stop it."""
        component = entry.spec.component
        free = len([other for other in self._roster.free(entry.spec.name) if other is not entry])
        inputs: Inputs = (("reuse", int(component.reuse)), ("used", int(entry.used)), ("free", free))
        if entry.used and not component.reuse:
            return self._stop(entry, f"{reason}; a used shard may not be reused", inputs)
        if not self._wanted(component, free):
            return self._stop(entry, f"{reason}; the pool does not want it", inputs)
        self._roster.unkey(entry)
        if not entry.used:
            entry.history.clear()
        return (ReturnToPool(entry.id, entry.spec.name, reason, inputs),)

    def _stop(self, entry: Entry, reason: str, inputs: Inputs = ()) -> tuple[Effect, ...]:
        if entry.stopping:
            return ()
        entry.stopping = True
        self._roster.stopping.add(entry.id)
        return (Stop(entry.id, entry.spec.name, reason, inputs),)
