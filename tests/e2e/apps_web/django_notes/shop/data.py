"""The shop's database."""

import os
import sqlite3
from dataclasses import dataclass
from decimal import Decimal

_connection = sqlite3.connect(":memory:", check_same_thread=False)
_connection.executescript(
    """
    CREATE TABLE products (id INTEGER PRIMARY KEY, name TEXT UNIQUE, price TEXT, stock INTEGER);
    INSERT INTO products (name, price, stock) VALUES ('lamp', '12.50', 3), ('chair', '49.90', 1);
    """
)


@dataclass(frozen=True)
class Product:
    id: int
    name: str
    price: Decimal
    stock: int


class Duplicate(Exception):
    """There is a product of that name."""


def _products(found: sqlite3.Cursor) -> list[Product]:
    return [Product(row[0], row[1], Decimal(row[2]), row[3]) for row in found]


def products() -> list[Product]:
    return _products(_connection.execute("SELECT id, name, price, stock FROM products ORDER BY id"))


def product(number: int) -> Product | None:
    found = _products(_connection.execute("SELECT id, name, price, stock FROM products WHERE id = ?", (number,)))
    return found[0] if found else None


def add(name: str, price: Decimal, stock: int) -> Product:
    try:
        with _connection:
            cursor = _connection.execute(
                "INSERT INTO products (name, price, stock) VALUES (?, ?, ?)", (name, str(price), stock)
            )
    except sqlite3.IntegrityError:
        raise Duplicate(name) from None
    return Product(cursor.lastrowid or 0, name, price, stock)


def take(number: int, count: int) -> bool:
    with _connection:
        cursor = _connection.execute(
            "UPDATE products SET stock = stock - ? WHERE id = ? AND stock >= ?", (count, number, count)
        )
    return cursor.rowcount == 1


def where() -> int:
    return os.getpid()
