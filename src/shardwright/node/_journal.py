"""The Journal: every decision with its reason and its inputs, appended to SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from shardwright.errors import NodeError

OPEN_TIMEOUT_S = 2.0
APPEND_TIMEOUT_S = 0.005  # another node of the same application writes as briefly as we do; the loop waits meanwhile
CLOSE_TIMEOUT_S = 1.0
MAX_WAITING = 10_000  # rows; then the oldest are dropped

_Row: TypeAlias = tuple[float, str, str, str, str, str, str, str]
_INSERT = (
    "INSERT INTO decisions (wall_s, node, kind, component, shard, session, reason, inputs) VALUES (?,?,?,?,?,?,?,?)"
)
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

    A row that cannot be written now (another process has the file locked, the disk is full) waits in memory, with those
    after it, for ``flush``: decisions are not to fail, nor to wait, because of their record. Use from one thread. Other
    processes may read the file at the same time.
    """

    def __init__(self, path: Path, node: str) -> None:
        """Raises NodeError when the file cannot be made or is no journal."""
        self.path = path
        self.trouble = ""  # why rows wait
        self.dropped = 0  # rows that had no place to wait
        self._node = node
        self._waiting: deque[_Row] = deque()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._database = sqlite3.connect(
                path, timeout=OPEN_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise _no_journal(path, error) from None
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=NORMAL")
            self._database.executescript(_SCHEMA)
            self._patience(APPEND_TIMEOUT_S)
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.Error):
                raise _no_journal(path, error) from None
            raise

    @property
    def waiting(self) -> int:
        """Rows that are not in the file yet."""
        return len(self._waiting)

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
    ) -> bool:
        """Whether the row is in the file already; else call ``flush`` soon, and again. Never raises, nor blocks."""
        texts = (kind, component, shard, session, reason, json.dumps(dict(inputs), default=str))
        kind, component, shard, session, reason, values = map(_storable, texts)
        row = (wall_s, self._node, kind, component, shard, session, reason, values)
        if not self._waiting:
            try:
                self._database.execute(_INSERT, row)
                return True
            except sqlite3.Error as error:
                self.trouble = str(error)
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1
        self._waiting.append(row)
        return False

    def flush(self) -> bool:
        """Write what waits, all or nothing; whether nothing waits any more."""
        if not self._waiting:
            return True
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.executemany(_INSERT, self._waiting)
                self._database.execute("COMMIT")
            except sqlite3.Error:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            self.trouble = str(error)
            return False
        self._waiting.clear()
        self.trouble = ""
        return True

    def tail(self, count: int = 100, *, kind: str | None = None) -> list[Decided]:
        """The latest rows, oldest first, with those that wait (their numbers may change). Raises NodeError."""
        self.flush()
        try:
            rows = self._database.execute(
                "SELECT sequence, wall_s, node, kind, component, shard, session, reason, inputs FROM decisions "
                "WHERE (? IS NULL OR kind = ?) ORDER BY sequence DESC LIMIT ?",
                (kind, kind, count),
            ).fetchall()
            (last,) = self._database.execute("SELECT COALESCE(MAX(sequence), 0) FROM decisions").fetchone()
        except sqlite3.Error as error:
            raise NodeError(f"the journal {self.path} cannot be read: {error}") from None
        rows.reverse()
        rows += [(last + n, *row) for n, row in enumerate(self._waiting, 1) if kind is None or row[2] == kind]
        return [Decided._make((*row[:8], json.loads(row[8]))) for row in rows[-count:]]

    def close(self) -> None:
        """Write what waits, if that is possible within a second; what is lost is said on standard error. Idempotent."""
        if self._waiting:
            with contextlib.suppress(sqlite3.Error):  # it was closed before
                self._patience(CLOSE_TIMEOUT_S)
            if not self.flush():
                print(
                    f"shardwright: {len(self._waiting)} records are lost: {self.path} cannot be written: {self.trouble}",
                    file=sys.stderr,
                )
                self._waiting.clear()
        self._database.close()

    def _patience(self, timeout_s: float) -> None:
        self._database.execute(f"PRAGMA busy_timeout={int(timeout_s * 1000)}")


def _storable(text: str) -> str:
    """What users' exceptions say need not be valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()


def _no_journal(path: Path, error: Exception) -> NodeError:
    return NodeError(f"the journal {path} cannot be opened: {error}", remedy="give another state folder, or remove it")
