"""Objects of stateful classes that live here and are reached from other shards through handles.

An object stays while somebody holds a handle to it. Holders are counted per link: every time a handle crosses a link the
count grows by one, and the other side releases as many as it received. A link that closes gives up its counts. Handles
that were passed on are counted as *floating* until their new holder releases them. An object also goes when the session
that made it ends, so its life is bounded even if a holder never releases.

What is dropped is returned to whoever caused it, for letting it go may run user code (``__del__``), which must happen
outside our lock and on a thread that may wait.
"""

from __future__ import annotations

import struct
import threading

from msgspec import Struct, field

from shardwright.errors import HandleExpired
from shardwright.guest._context import new_identifier
from shardwright.model.ids import NO_SESSION, ObjectId, SessionNumber

FLOATING = 0
HOLDERS = struct.Struct("<QI")
"""The payload of ADDREF and RELEASE: object id, number of handles."""


class Held(Struct):
    """An object and who holds it; ``value`` is to be cleared where user code may run."""

    value: object
    session: SessionNumber
    holders: dict[int, int] = field(default_factory=dict)


class Objects:
    """The table of exported objects of one shard. Ids are random: a peer cannot guess one that it was not given."""

    def __init__(self) -> None:
        self._mutex = threading.RLock()  # the collector may run user code inside, and that may come back here
        self._held: dict[ObjectId, Held] = {}
        self._ids: dict[int, ObjectId] = {}

    def __len__(self) -> int:
        return len(self._held)

    def export(self, value: object, holder: int, session: SessionNumber) -> ObjectId:
        """The id under which ``holder`` may reach ``value``; counts one more handle."""
        with self._mutex:
            object_id = self._ids.get(id(value))
            if object_id is None:
                held = Held(value, session)
                fresh = ObjectId(new_identifier())
                object_id = self._ids.setdefault(id(value), fresh)
                if object_id is fresh:
                    self._held[fresh] = held
            holders = self._held[object_id].holders
            holders[holder] = holders.get(holder, 0) + 1
            return object_id

    def get(self, object_id: int) -> object:
        """Raises HandleExpired."""
        held = self._held.get(ObjectId(object_id))
        if held is None:
            raise HandleExpired(
                "the object behind this handle was released",
                outcome="not started",
                remedy="a handle lives as long as the session that made it and somebody who holds it",
            )
        return held.value

    def add(self, object_id: int, holder: int, count: int) -> None:
        """``count`` more handles of a holder; unknown objects are ignored."""
        with self._mutex:
            held = self._held.get(ObjectId(object_id))
            if held is not None and count > 0:
                held.holders[holder] = held.holders.get(holder, 0) + count

    def release(self, object_id: int, holder: int, count: int) -> list[Held]:
        """``count`` handles less; what a holder gives back beyond its own count it had been passed on.

        Returns what was dropped, to be let go where user code may run.
        """
        with self._mutex:
            held = self._held.get(ObjectId(object_id))
            if held is None or count <= 0:
                return []
            for name in (holder, FLOATING):
                mine = min(count, held.holders.get(name, 0))
                count -= mine
                if mine and held.holders[name] == mine:
                    del held.holders[name]
                elif mine:
                    held.holders[name] -= mine
            return [] if held.holders else [self._drop(ObjectId(object_id))]

    def holder_gone(self, holder: int) -> list[Held]:
        """Returns what was dropped."""
        with self._mutex:
            released = [o for o, held in self._held.items() if held.holders.pop(holder, 0)]
            return [self._drop(object_id) for object_id in released if not self._held[object_id].holders]

    def session_ended(self, session: SessionNumber) -> list[Held]:
        """Returns what was dropped."""
        if session == NO_SESSION:
            return []
        with self._mutex:
            return [self._drop(object_id) for object_id, held in list(self._held.items()) if held.session == session]

    def _drop(self, object_id: ObjectId) -> Held:
        held = self._held.pop(object_id)
        self._ids.pop(id(held.value), None)
        return held
