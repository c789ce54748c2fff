"""The Journal: every decision with its reason and its inputs, appended to SQLite."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_SCHEMA = """
CREATE TABLE IF NOT EXISTS decisions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    wall_s REAL NOT NULL,
    node TEXT NOT NULL,
    kind TEXT NOT NULL,
    component TEXT NOT NULL DEFAULT '',
    shard TEXT NOT NULL DEFAULT '',
    session TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL,
    inputs TEXT NOT NULL DEFAULT '{}'
) STRICT;
"""


class Decided(NamedTuple):
    """One row. ``kind`` is launch, lease, ready, failure, loss, return, stop, evict, refuse, resize, node, ..."""

    sequence: int
    wall_s: float
    node: str
    kind: str
    component: str
    shard: str
    session: str
    reason: str
    inputs: dict[str, object]


class Journal:
    """Append-only. Survives the death of the process (WAL, each row its own transaction); not of the machine's power.

    Use from one thread. Other processes may read the file at the same time.
    """

    def __init__(self, path: Path, node: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self.path = path
        self._node = node
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute("PRAGMA busy_timeout=2000")
        self._database.executescript(_SCHEMA)

    def append(
        self,
        wall_s: float,
        kind: str,
        reason: str,
        *,
        component: str = "",
        shard: str = "",
        session: str = "",
        inputs: Iterable[tuple[str, object]] = (),
    ) -> None:
        self._database.execute(
            "INSERT INTO decisions (wall_s, node, kind, component, shard, session, reason, inputs) VALUES (?,?,?,?,?,?,?,?)",
            (wall_s, self._node, kind, component, shard, session, reason, json.dumps(dict(inputs), default=str)),
        )

    def tail(self, count: int = 100, *, kind: str | None = None) -> list[Decided]:
        """The latest rows, oldest first."""
        rows = self._database.execute(
            "SELECT sequence, wall_s, node, kind, component, shard, session, reason, inputs FROM decisions "
            "WHERE (? IS NULL OR kind = ?) ORDER BY sequence DESC LIMIT ?",
            (kind, kind, count),
        ).fetchall()
        return [Decided._make((*row[:8], json.loads(row[8]))) for row in reversed(rows)]

    def close(self) -> None:
        self._database.close()
