"""Where notes are kept: a database in memory, which one connection has."""

import json
import os
import sqlite3
import threading

from notes.model import NoSuchNote, Note


class Store:
    """Notes, and a log of what was done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", check_same_thread=False)
        self._connection.execute(
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, owner TEXT, title TEXT, text TEXT, tags TEXT)"
        )
        self._done: list[str] = []

    def add(self, owner: str, title: str, text: str, tags: list[str]) -> int:
        with self._lock, self._connection:
            cursor = self._connection.execute(
                "INSERT INTO notes (owner, title, text, tags) VALUES (?, ?, ?, ?)",
                (owner, title, text, json.dumps(tags)),
            )
        return cursor.lastrowid or 0

    def rows(self, where: str = "1", *values: object) -> list[Note]:
        with self._lock:
            found = self._connection.execute(f"SELECT id, owner, title, text, tags FROM notes WHERE {where}", values)
            return [Note(row[0], row[1], row[2], row[3], json.loads(row[4])) for row in found]

    def delete(self, number: int) -> int:
        with self._lock, self._connection:
            return self._connection.execute("DELETE FROM notes WHERE id = ?", (number,)).rowcount

    def note_done(self, what: str) -> None:
        self._done.append(what)

    def done(self) -> list[str]:
        return list(self._done)


_store = Store()


def add(owner: str, title: str, text: str, tags: list[str]) -> Note:
    return get(_store.add(owner, title, text, tags))


def get(number: int) -> Note:
    found = _store.rows("id = ?", number)
    if not found:
        raise NoSuchNote(number)
    return found[0]


def of(owner: str) -> list[Note]:
    return _store.rows("owner = ?", owner)


def every() -> list[Note]:
    return _store.rows()


def remove(number: int) -> None:
    if not _store.delete(number):
        raise NoSuchNote(number)


def note_done(what: str) -> None:
    _store.note_done(what)


def done() -> list[str]:
    return _store.done()


def where() -> int:
    return os.getpid()
