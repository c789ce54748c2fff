"""The Journal: every decision with its reason and its inputs, appended to SQLite."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, TypeAlias

from shardwright.errors import NodeError
from shardwright.node._state import REMEDY, open_folder, prepare_file, unusable

OPEN_TIMEOUT_S = 2.0
APPEND_TIMEOUT_S = 0.005  # another node of the same application writes as briefly as we do; the loop waits meanwhile
CLOSE_TIMEOUT_S = 1.0
MAX_WAITING = 10_000  # rows; then the oldest are dropped
KEPT = 200_000  # rows; older ones go when a journal is opened
_CHUNK = 5000  # rows deleted at a time: others who write wait no longer
_PRUNE_S = 2.0  # then the rest stays until the next time

_Row: TypeAlias = tuple[float, str, str, str, str, str, str, str]
_INSERT = (
    "INSERT INTO decisions (wall_s, node, kind, component, shard, session, reason, inputs) VALUES (?,?,?,?,?,?,?,?)"
)
_TABLE = """CREATE TABLE decisions (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    wall_s REAL NOT NULL,
    node TEXT NOT NULL,
    kind TEXT NOT NULL,
    component TEXT NOT NULL DEFAULT '',
    shard TEXT NOT NULL DEFAULT '',
    session TEXT NOT NULL DEFAULT '',
    reason TEXT NOT NULL,
    inputs TEXT NOT NULL DEFAULT '{}'
) STRICT"""
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


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

    The file and its folder are this user's alone, or nothing is written there. A file that SQLite cannot read is moved
    aside, to ``set_aside``, and a new one begun. Of an old journal the newest 200,000 rows are kept.
    """

    def __init__(self, path: Path, node: str) -> None:
        """Raises NodeError when the file cannot be had, is not ours alone, or holds anything but a journal's table."""
        self.path = path = Path(os.path.abspath(path))
        self.set_aside: Path | None = None  # where a file went that could not be read
        self.trouble = ""  # why rows wait
        self.dropped = 0  # rows that had no place to wait
        self._node = node
        self._waiting: deque[_Row] = deque()
        folder = open_folder(path.parent)
        try:
            prepare_file(folder, path)
            try:
                self._database = _opened(path)
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode & 0xFF not in _CORRUPT:
                    raise
                self.set_aside = _move_aside(folder, path)
                prepare_file(folder, path)
                self._database = _opened(path)
        except (OSError, sqlite3.Error) as error:
            raise unusable(path, str(error)) from None
        finally:
            os.close(folder)
        self._prune()
        self._patience(APPEND_TIMEOUT_S)

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
        texts = (kind, component, shard, session, reason, _json(inputs))
        kind, component, shard, session, reason, values = map(_storable, texts)
        row = (float(wall_s), self._node, kind, component, shard, session, reason, values)
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

    def find(self, sequence: int) -> Decided:
        """The row of that number. Raises NodeError."""
        self.flush()
        try:
            row = self._database.execute(
                "SELECT sequence, wall_s, node, kind, component, shard, session, reason, inputs FROM decisions "
                "WHERE sequence = ?",
                (sequence,),
            ).fetchone()
        except (sqlite3.Error, OverflowError) as error:
            raise NodeError(f"the journal {self.path} cannot be read: {error}") from None
        if row is None:
            raise NodeError(f"there is no decision {sequence}", remedy="`shardwright decisions` lists them")
        return Decided._make((*row[:8], json.loads(row[8])))

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

    def _prune(self) -> None:
        """Let old rows go. What cannot be deleted now stays."""
        end_s = time.monotonic() + _PRUNE_S
        with contextlib.suppress(sqlite3.Error):
            first, last = self._database.execute("SELECT MIN(sequence), MAX(sequence) FROM decisions").fetchone()
            while first is not None and first <= last - KEPT and time.monotonic() < end_s:
                upto = min(first + _CHUNK - 1, last - KEPT)
                self._database.execute("DELETE FROM decisions WHERE sequence <= ?", (upto,))
                first = upto + 1

    def _patience(self, timeout_s: float) -> None:
        self._database.execute(f"PRAGMA busy_timeout={int(timeout_s * 1000)}")


def _storable(text: object) -> str:
    """What users' exceptions say need not be valid Unicode, and what they give need not be text."""
    try:
        return str(text).encode("utf-8", "backslashreplace").decode()
    except Exception as error:  # of their own __str__
        return f"<{type(text).__name__} that cannot be shown: {type(error).__name__}>"


def _json(inputs: Iterable[tuple[str, object]]) -> str:
    try:
        return json.dumps(dict(inputs), default=_storable)
    except (TypeError, ValueError, RecursionError) as error:  # keys that are no text, circles
        return json.dumps({"not recorded": f"{type(error).__name__}: {error}"})


def _opened(path: Path) -> sqlite3.Connection:
    """The database, with its table. Nothing of what the file's schema says is run before it was found to be ours."""
    database = sqlite3.connect(path, timeout=OPEN_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA trusted_schema=OFF")
        _refuse_foreign(database, path)
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute(_TABLE.replace("TABLE", "TABLE IF NOT EXISTS", 1))
        database.execute("SELECT MAX(sequence) FROM decisions").fetchone()
    except BaseException:
        database.close()
        raise
    return database


def _refuse_foreign(database: sqlite3.Connection, path: Path) -> None:
    """Triggers, views, and tables of others would run, or hold, what is not ours. Raises NodeError."""
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_schema"):
        if (kind, name) == ("table", "sqlite_sequence"):
            continue
        if (kind, name) != ("table", "decisions") or " ".join(str(sql).split()) != " ".join(_TABLE.split()):
            raise NodeError(
                f"{path} is no journal of this version: it has the {kind} {name!r}",
                remedy=f"move it away, or {REMEDY}",
            )


def _move_aside(folder: int, path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for number in range(1, 1000):
        target = f"{path.name}.corrupt-{stamp}{'' if number == 1 else f'-{number}'}"
        if not os.path.lexists(path.parent / target):
            break
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path.name + suffix, target + suffix, src_dir_fd=folder, dst_dir_fd=folder)
    return path.with_name(target)
