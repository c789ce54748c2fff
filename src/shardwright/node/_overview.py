"""What there is, for the gateway's page: shards with what they may and do take, sessions, and the latest decisions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from shardwright.composition import ShardRecord
from shardwright.contracts.clock import Clock
from shardwright.errors import NodeError, SandboxError
from shardwright.model.ids import SessionNumber, ShardId
from shardwright.model.limits import Resources, Usage
from shardwright.node._journal import Journal
from shardwright.node._mask import Mask

if TYPE_CHECKING:
    from shardwright.node._shards import Shards

MOST = 500  # shards, and sessions, that are told; how many there are is told in any case
DECISIONS = 50
FRESH_S = 0.2  # whoever asks again within that gets the same answer


class Session(Protocol):
    """A session as it is shown."""

    @property
    def number(self) -> SessionNumber: ...

    @property
    def name(self) -> str: ...

    @property
    def begun_s(self) -> float: ...


class Overview:
    """Answers with one look for all who ask at about the same time. Use from the node's event loop alone."""

    def __init__(
        self, shards: Shards, sessions: Callable[[], Sequence[Session]], journal: Journal, mask: Mask, clock: Clock
    ) -> None:
        self._shards = shards
        self._sessions = sessions
        self._journal = journal
        self._mask = mask
        self._clock = clock
        self._one = asyncio.Lock()
        self._told = b""
        self._told_s = float("-inf")
        self._before: dict[ShardId, tuple[float, float]] = {}  # when it had taken how much processor time

    def __repr__(self) -> str:
        return f"<Overview, {len(self._before)} shards seen>"

    async def json(self) -> bytes:
        """All of it as JSON, without secrets."""
        async with self._one:
            if self._clock.monotonic_s() - self._told_s >= FRESH_S:
                self._told = msgspec.json.encode(_masked(await self._look(), self._mask))
                self._told_s = self._clock.monotonic_s()
            return self._told

    async def _look(self) -> dict[str, Any]:
        records = self._shards.composer.shards()
        sessions = self._sessions()
        names = {session.number: session.name for session in sessions}
        shown, usages = records[:MOST], await self._usages(records[:MOST])
        now_s = self._clock.monotonic_s()
        shards = [self._shard(record, usages.get(record.id), names, now_s) for record in shown]
        self._before = {
            id: (now_s, usage.cpu_s) for id, usage in usages.items() if usage is not None
        }  # what has ended is forgotten
        return {
            "counts": {"shards": len(records), "sessions": len(sessions)},
            "shards": shards,
            "sessions": _sessions(sessions[-MOST:], records),
            "decisions": self._decisions(),
        }

    async def _usages(self, records: Iterable[ShardRecord]) -> Mapping[ShardId, Usage | None]:
        launcher = self._shards.launcher
        if launcher is None:
            return {}
        try:
            found = await launcher.usages([record.id for record in records])
        except (NodeError, SandboxError):
            return {}  # the keeper is gone: that is told elsewhere
        return {ShardId(id): usage for id, usage in found.items()}

    def _shard(
        self, record: ShardRecord, usage: Usage | None, names: Mapping[SessionNumber, str], now_s: float
    ) -> dict[str, Any]:
        taken: dict[str, Any] = {}
        if usage is not None:
            before_s, before_cpu_s = self._before.get(record.id, (record.created_s, 0.0))
            cores = max(0.0, usage.cpu_s - before_cpu_s) / max(now_s - before_s, 1e-3)
            taken = {"cpu": round(cores, 3), "memory_bytes": usage.memory_bytes, "threads": usage.threads}
        return {
            "shard": record.id,
            "component": record.component,
            "status": "stopping" if record.stopping else str(record.status),
            "guarantee": _stated(record.limits.guarantee),
            "ceiling": _stated(record.limits.ceiling),
            "usage": taken,
            "sessions": [names[number] for number in record.sessions if number in names],
            "key": record.key,
            "age_s": round(now_s - record.created_s, 1),
        }

    def _decisions(self) -> list[dict[str, Any]]:
        """The newest first."""
        try:
            rows = self._journal.tail(DECISIONS)
        except NodeError:
            return []
        return [
            {
                "wall_s": row.wall_s,
                "kind": row.kind,
                "component": row.component,
                "shard": row.shard,
                "session": row.session,
                "reason": row.reason,
            }
            for row in reversed(rows)
        ]


def _sessions(sessions: Iterable[Session], records: Iterable[ShardRecord]) -> list[dict[str, Any]]:
    held: dict[SessionNumber, list[ShardId]] = {}
    for record in records:
        for number in record.sessions:
            held.setdefault(number, []).append(record.id)
    return [{"session": s.name, "begun_s": s.begun_s, "shards": sorted(held.get(s.number, ()))} for s in sessions]


def _stated(resources: Resources) -> dict[str, float]:
    found = {name: getattr(resources, name) for name in resources.__struct_fields__}
    return {name: amount for name, amount in found.items() if amount is not None}


def _masked(value: Any, mask: Mask) -> Any:
    if isinstance(value, dict):
        return {name: _masked(inner, mask) for name, inner in value.items()}
    if isinstance(value, list):
        return [_masked(inner, mask) for inner in value]
    return mask.value(value)
