"""One call of a function that a shard runs, as the gateway waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from shardwright.errors import (
    ChannelClosed,
    DeadlineExceeded,
    ProtocolViolation,
    ShardLost,
    ShardwrightError,
)
from shardwright.gateway._deadlines import Deadlines
from shardwright.gateway._hub import LoopLink
from shardwright.gateway._replies import answer_in, lost_call
from shardwright.guest import Answer, FunctionReply, Route, Router
from shardwright.model.envelope import Envelope
from shardwright.model.ids import SessionNumber

__all__ = ["Heard", "OpenCall", "Ways"]

Heard = Callable[[Answer | ShardwrightError], None]
"""Is told how a call ended: what it gave, or the error that stands for what came of it. Must not raise."""


class Ways:
    """What the calls of one gateway have in common."""

    __slots__ = ("deadlines", "failed", "made", "router")

    def __init__(self, router: Router[LoopLink], deadlines: Deadlines) -> None:
        self.router = router
        self.deadlines = deadlines
        self.made = 0
        self.failed: Counter[str] = Counter()  # calls that ended in an error of ours, by its code


class OpenCall:
    """A call that was sent. ``heard`` is told its outcome, once and from the loop, unless it was cancelled before."""

    __slots__ = ("_call_id", "_heard", "_link", "_over", "_session", "_slot", "_way", "_ways", "_what")

    def __init__(
        self,
        ways: Ways,
        link: LoopLink,
        envelope: Envelope,
        way: Route,
        what: str,
        heard: Heard,
    ) -> None:
        """Sends it. Raises ChannelClosed, MessageTooLarge: then ``heard`` is told nothing."""
        self._ways = ways
        self._link = link
        self._call_id = envelope.call_id
        self._session: SessionNumber = envelope.session
        self._way = way
        self._what = what
        self._heard = heard
        self._over = False
        self._slot = -1
        link.begin(envelope, self)
        ways.made += 1
        if envelope.deadline_ns:
            self._slot = ways.deadlines.add(envelope.deadline_ns, self)

    def __repr__(self) -> str:
        return f"<OpenCall of {self._what}, {'over' if self._over else 'running'}>"

    def cancel(self) -> None:
        """Nobody waits for it any more. Idempotent; nothing happens when it is over."""
        if not self._over:
            self._end()
            self._link.abandon(self._call_id)

    def late(self) -> None:
        if not self._over:
            self._link.abandon(self._call_id)
            self._tell(DeadlineExceeded(f"{self._what}: no reply within the deadline"))

    # -- the waiter of the link ------------------------------------------------------------------------------------

    def replied(self, envelope: Envelope) -> None:
        self._tell(answer_in(envelope))

    def arrived(self, envelope: Envelope) -> None:
        raise ProtocolViolation(f"a {envelope.kind.name} of a call that is no exchange")

    def lost(self, reason: ChannelClosed) -> None:
        self._tell(lost_call(self._what, self._link.peer.shard, reason))

    def _end(self) -> None:
        self._over = True
        if self._slot >= 0:
            self._ways.deadlines.drop(self, self._slot)

    def _tell(self, found: Answer | ShardwrightError) -> None:
        if self._over:
            return
        self._end()
        if type(found) is FunctionReply:
            pass
        elif isinstance(found, ShardLost):
            self._ways.router.told(self._way, self._session)
            self._ways.failed[ShardLost.code] += 1
        elif isinstance(found, DeadlineExceeded):
            self._ways.failed[DeadlineExceeded.code] += 1
        self._heard(found)
