"""Who may be served next, and who waits for ever: the rules of the queue. Pure questions about a roster.

Why nothing deadlocks. A request that waits holds nothing by waiting, so sessions that compose at once cannot block each
other. A *late* request (of a session that holds shards already) is different: two sessions may each hold what the other
waits for. ``deadlocked`` finds that by reduction, as for any system of reusable resources: suppose that every session
that does not wait ends, which is the best that can happen; whoever can then be served is served and ends too; who is
left can never be served, and the youngest of them is refused at once.

Why nothing starves. Late requests are served before the others (sessions that have begun go on and end before more
begin; they are finitely many), otherwise it is first come, first served. One may overtake another that cannot be served
yet, so that a big request does not idle the machine, but only ``patience`` times: then that one blocks those behind it,
what sessions give back accumulates, and it is served after finitely many sessions have ended. Two kinds of requests
pass a blocking one all the same, because they cannot starve it: those that only join what others hold anyway, when the
blocking one fits beside all that is so held; and late requests while the blocking one cannot be met unless a session
that waits ends, since holding those up might hold it up too.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from shardwright.composition._match import Lack, Match, match
from shardwright.composition._roster import Roster
from shardwright.composition._values import Need
from shardwright.model.ids import SessionNumber, ShardId
from shardwright.model.scope import ScopeKind

PATIENCE = 16  # how often, unless told otherwise, a waiting request is overtaken before it blocks the queue


class Waiting(Struct):
    """A queued request. ``overtaken`` counts younger requests that were served before it.

    ``preferred`` are free shards that it is given before others.
    """

    request: int
    session: SessionNumber
    needs: tuple[Need, ...]
    since_s: float
    deadline_s: float | None
    overtaken: int = 0
    preferred: frozenset[ShardId] = frozenset()


def is_late(roster: Roster, session: SessionNumber) -> bool:
    """Whether that session holds anything: what it waits with may be what others wait for."""
    entry = roster.sessions.get(session)
    return entry is not None and any(True for _ in entry.shards)


def never_fits(roster: Roster, session: SessionNumber, needs: Sequence[Need]) -> str:
    """Why these needs cannot be met even when that session is alone on the node; empty when they can."""
    alone = match(roster.restricted((session,)), session, needs)
    if isinstance(alone, Lack):
        return alone.reason
    return alone.waits


def in_turn(roster: Roster, queue: Sequence[Waiting]) -> list[Waiting]:
    """The queue in the order of service: late requests, then the others; each first come, first served."""
    return sorted(queue, key=lambda waiting: not is_late(roster, waiting.session))


class Fairness:
    """Answers who may overtake whom, for one state of the roster: make a new one after every grant.

    ``late`` are the sessions of all queued requests that hold anything. Answers about a blocker are kept: with hundreds
    of requests queued they would be asked hundreds of times.
    """

    def __init__(self, roster: Roster, queue: Sequence[Waiting], patience: int = PATIENCE) -> None:
        self._roster = roster
        self._patience = patience
        self._late = {waiting.session for waiting in queue if is_late(roster, waiting.session)}
        self._turns: dict[int, bool] = {}
        self._starved: dict[int, bool] = {}
        self._dependent: dict[int, bool] = {}

    def blocker(self, younger: Waiting, found: Match, older: Sequence[Waiting]) -> Waiting | None:
        """Who of ``older`` must be served before ``younger``, which could be met by ``found``; None: nobody."""
        for place, each in enumerate(older):
            if each.overtaken < self._patience or self._waits_its_turn(each, older[:place]):
                continue
            if not found.consumes and not self._starves(each):
                continue
            if is_late(self._roster, younger.session) and self._depends_on_late(each):
                continue
            return each
        return None

    def _waits_its_turn(self, each: Waiting, older: Sequence[Waiting]) -> bool:
        """Whether it is not what it lacks that keeps it, but one before it, who is judged in its own right."""
        if each.request not in self._turns:
            found = match(self._roster, each.session, each.needs)
            self._turns[each.request] = isinstance(found, Match) and self.blocker(each, found, older) is not None
        return self._turns[each.request]

    def _starves(self, blocker: Waiting) -> bool:
        """Whether the shared instances and keys that are held now, if held for ever, would keep it waiting."""
        if blocker.request not in self._starved:
            lasting = [
                entry.id
                for entry in self._roster.shards.values()
                if entry.sessions and entry.spec.kind in (ScopeKind.SHARED, ScopeKind.KEY)
            ]
            left = self._roster.restricted((blocker.session,), also=lasting)
            self._starved[blocker.request] = not _could(left, blocker)
        return self._starved[blocker.request]

    def _depends_on_late(self, blocker: Waiting) -> bool:
        """Whether it cannot be met while all the sessions that wait keep what they hold."""
        if blocker.request not in self._dependent:
            left = self._roster.restricted({*self._late, blocker.session})
            self._dependent[blocker.request] = not _could(left, blocker)
        return self._dependent[blocker.request]


def deadlocked(roster: Roster, queue: Sequence[Waiting]) -> list[Waiting]:
    """The late requests that can never be served while all of them wait."""
    late = {waiting.session for waiting in queue if is_late(roster, waiting.session)}
    progress = True
    while late and progress:
        progress = False
        left = roster.restricted(late)
        for session in sorted(late):
            mine = [waiting for waiting in queue if waiting.session == session]
            if all(_could(left, waiting) for waiting in mine):
                late.discard(session)
                progress = True
        # those found in one round were judged against a roster that still holds them all: cautious, never wrong
    return [waiting for waiting in queue if waiting.session in late]


def _could(roster: Roster, waiting: Waiting) -> bool:
    found = match(roster, waiting.session, waiting.needs)
    return isinstance(found, Match) and not found.waits
