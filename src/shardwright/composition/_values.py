"""What composition takes and gives: frozen values. Every one that decides carries its reason and its inputs."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec
from msgspec import Struct

from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.limits import Limits
from shardwright.model.scope import ScopeKind

Inputs: TypeAlias = tuple[tuple[str, str | int | float], ...]


class ShardStatus(StrEnum):
    """``draining`` takes no new leases: it was told to drain, or it was told to stop and has not exited yet."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    ENDED = "ended"


class ShardRecord(msgspec.Struct, frozen=True):
    """What composition knows of one shard, at one moment.

    ``free`` says that it is in the WarmPool: bound to nobody, and ready (or starting) to be leased. ``key`` is set
    while it serves a key, ``request`` while it serves one request. Times are seconds of the clock that ``now`` is read
    from. ``idle_since_s`` is None while anybody holds it. ``stopping`` says that Stop was decided for it.
    """

    id: ShardId
    component: ComponentName
    scope: ScopeKind
    status: ShardStatus
    limits: Limits
    free: bool
    sessions: tuple[SessionNumber, ...]
    key: str | None
    request: int | None
    created_s: float
    idle_since_s: float | None
    stopping: bool

    @property
    def held(self) -> bool:
        return bool(self.sessions)

    @property
    def spare(self) -> bool:
        """Whether the controller may count on it or drop it: in the WarmPool, or an instance that serves no session."""
        return not self.sessions and self.key is None and self.status in (ShardStatus.STARTING, ShardStatus.READY)


class Need(Struct, frozen=True):
    """A component that a composition cannot do without; ``key`` exactly for keyed components."""

    component: ComponentName
    key: str | None = None

    def __str__(self) -> str:
        return self.component if self.key is None else f"{self.component}[{self.key}]"


class Lease(Struct, frozen=True):
    component: ComponentName
    shard: ShardId
    key: str | None = None


class Launch(Struct, frozen=True):
    """A shard to be started now; its guarantee is reserved. Answer with ``started`` or ``start_failed``."""

    component: ComponentName
    shard: ShardId
    limits: Limits
    reason: str
    inputs: Inputs = ()


class SessionRecord(Struct, frozen=True):
    """``leases`` are those for the session's life; ``requests`` those of its request-scoped shards."""

    number: SessionNumber
    leases: tuple[Lease, ...]
    requests: tuple[Lease, ...]
    since_s: float
    touched_s: float


# -- effects: what the loop performs, in the order given ----------------------------------------------------------


class ReturnToPool(Struct, frozen=True):
    """The shard serves nobody any more and waits in the WarmPool: close the channels of whom it served."""

    shard: ShardId
    component: ComponentName
    reason: str
    inputs: Inputs = ()


class Stop(Struct, frozen=True):
    """End the shard; its guarantee stays reserved until ``exited`` says that it is gone.

    It may still be starting: then end it as soon as it can be ended, or answer ``start_failed``.
    """

    shard: ShardId
    component: ComponentName
    reason: str
    inputs: Inputs = ()


class Unbind(Struct, frozen=True):
    """The session no longer holds this shard, although it goes on: its next use leases anew."""

    session: SessionNumber
    shard: ShardId
    component: ComponentName
    reason: str
    inputs: Inputs = ()


class Abort(Struct, frozen=True):
    """A request that was queued, or granted and still waiting for its shards, gets nothing: answer it so."""

    request: int
    session: SessionNumber
    reason: str
    remedy: str = ""
    inputs: Inputs = ()


Effect: TypeAlias = ReturnToPool | Stop | Unbind | Abort


# -- decisions ---------------------------------------------------------------------------------------------------


class Granted(Struct, frozen=True):
    """All of it. ``launches`` are to be started, and are among the leases.

    ``waits_for`` are the leased shards that are still starting; the composition is whole when ``started`` names its
    request, at once when there are none. No call may be routed over it before. ``kept`` were the session's before.
    """

    request: int
    session: SessionNumber
    leases: tuple[Lease, ...]
    launches: tuple[Launch, ...]
    waits_for: tuple[ShardId, ...]
    reason: str
    inputs: Inputs = ()
    kept: tuple[ShardId, ...] = ()

    @property
    def ready(self) -> bool:
        return not self.waits_for


class Queued(Struct, frozen=True):
    """Nothing yet, and nothing is held for it. ``effects`` make room by stopping shards that nobody uses."""

    request: int
    session: SessionNumber
    position: int
    effects: tuple[Effect, ...]
    reason: str
    inputs: Inputs = ()


class Refused(Struct, frozen=True):
    """Nothing, now or later."""

    request: int
    session: SessionNumber
    reason: str
    remedy: str = ""
    inputs: Inputs = ()


Decision: TypeAlias = Granted | Queued | Refused


class Loss(Struct, frozen=True):
    """What went with a shard: the sessions that held it, the key that it served, the request that it ran.

    ``expected`` is true when it had been told to stop. ``effects`` abort the compositions that counted on it.
    """

    shard: ShardRecord
    sessions: tuple[SessionNumber, ...]
    key: str | None
    request: int | None
    expected: bool
    effects: tuple[Effect, ...]
    reason: str
    inputs: Inputs = ()
