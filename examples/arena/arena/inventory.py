"""Who owns what, and what the shop still has: in SQLite, in memory unless ARENA_INVENTORY names a file."""

from __future__ import annotations

import os
import sqlite3
import threading

from arena import auth, physics
from arena.models import Chest, NotInWorld, OutOfStock

FIRST_STOCK = {"apple": 100_000, "rope": 10_000, "sword": 3}
REACH = 1.5  # cells from which a chest can be opened

_SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (item TEXT PRIMARY KEY, count INTEGER NOT NULL CHECK (count >= 0));
CREATE TABLE IF NOT EXISTS owned (
    player TEXT, item TEXT, count INTEGER NOT NULL CHECK (count >= 0), PRIMARY KEY (player, item)
);
CREATE TABLE IF NOT EXISTS emptied (world TEXT, chest TEXT, player TEXT, PRIMARY KEY (world, chest, player));
"""
_GRANT = """INSERT INTO owned VALUES (?, ?, ?)
            ON CONFLICT (player, item) DO UPDATE SET count = count + excluded.count"""

_lock = threading.Lock()  # never held while another part is called: physics calls us, and we call it
_connection: sqlite3.Connection | None = None


def grant(player: str, item: str, count: int = 1) -> None:
    """Give the player something out of nothing."""
    with _lock, _database() as database:
        database.execute(_GRANT, (player, item, count))


def list_items(player: str) -> dict[str, int]:
    """What the player owns, by name."""
    with _lock:
        query = "SELECT item, count FROM owned WHERE player = ? AND count > 0 ORDER BY item"
        return dict(_database().execute(query, (player,)).fetchall())


def stock(item: str) -> int:
    """How many of it the shop has; 0 for what it never had."""
    with _lock:
        return _count("SELECT count FROM stock WHERE item = ?", item)


def reserve(token: str, item: str, count: int) -> int:
    """Take from the shop for the player whose token this is; answers how many are left there.

    Raises OutOfStock if there are too few, and takes none then. Raises AuthError for a bad token, ValueError for a
    count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    player = auth.verify(token)
    with _lock, _database() as database:
        left = _count("SELECT count FROM stock WHERE item = ?", item)
        if left < count:
            raise OutOfStock(item, count, left)
        database.execute("UPDATE stock SET count = count - ? WHERE item = ?", (count, item))
        database.execute(_GRANT, (player.name, item, count))
    return left - count


def transfer(giver: str, taker: str, item: str, count: int) -> None:
    """Pass things on. Raises OutOfStock if the giver has too few, ValueError for a count below 1."""
    if count < 1:
        raise ValueError(f"count must be at least 1, not {count}")
    with _lock, _database() as database:
        left = _count("SELECT count FROM owned WHERE player = ? AND item = ?", giver, item)
        if left < count:
            raise OutOfStock(item, count, left)
        database.execute("UPDATE owned SET count = count - ? WHERE player = ? AND item = ?", (count, giver, item))
        database.execute(_GRANT, (taker, item, count))


def collect(world: str, player: str, chest: Chest) -> bool:
    """Empty a chest into the player's hands; False if that player did so before, or is not within reach.

    Physics calls this when it sees someone at a chest. We ask it back where the player is: it is not our only caller.
    """
    try:
        body = physics.position(world, player)
    except NotInWorld:
        return False
    if (body.x - chest.x) ** 2 + (body.y - chest.y) ** 2 > REACH**2:
        return False
    with _lock, _database() as database:
        first = database.execute("INSERT OR IGNORE INTO emptied VALUES (?, ?, ?)", (world, chest.name, player)).rowcount
        if first:
            database.execute(_GRANT, (player, chest.item, chest.count))
    return bool(first)


def emptied(world: str, player: str) -> tuple[str, ...]:
    """The chests of the world that the player has emptied, by name."""
    with _lock:
        query = "SELECT chest FROM emptied WHERE world = ? AND player = ? ORDER BY chest"
        return tuple(chest for (chest,) in _database().execute(query, (world, player)).fetchall())


def _count(query: str, *names: str) -> int:
    row = _database().execute(query, names).fetchone()
    return int(row[0]) if row else 0


def _database() -> sqlite3.Connection:
    """The connection, opened at first use: a connection made at import would not survive a fork."""
    global _connection
    if _connection is None:
        _connection = sqlite3.connect(os.environ.get("ARENA_INVENTORY", ":memory:"), check_same_thread=False)
        _connection.executescript(_SCHEMA)
        with _connection:
            _connection.executemany("INSERT OR IGNORE INTO stock VALUES (?, ?)", FIRST_STOCK.items())
    return _connection
