"""What may be bought, and what it costs."""

import os
from decimal import ROUND_HALF_UP, Decimal

from shop import data

VAT = Decimal("0.19")


class SoldOut(Exception):
    """There are fewer left than were asked for."""


def priced(number: int) -> dict[str, object] | None:
    found = data.product(number)
    if found is None:
        return None
    gross = (found.price * (1 + VAT)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    return {"id": found.id, "name": found.name, "net": found.price, "gross": gross, "stock": found.stock}


def catalogue() -> list[dict[str, object]]:
    return [priced(product.id) or {} for product in data.products()]


def offer(name: str, price: Decimal, stock: int) -> int:
    return data.add(name, price, stock).id


def buy(basket: dict[str, int]) -> Decimal:
    total = Decimal(0)
    for number, count in basket.items():
        if not data.take(int(number), count):
            raise SoldOut(number)
        product = data.product(int(number))
        assert product is not None
        total += product.price * count
    return total


def numbers() -> list[int]:
    return [product.id for product in data.products()]


def line(number: int) -> str:
    product = data.product(number)
    assert product is not None
    return f"{product.name},{product.price},{product.stock}\n"


def imported(text: str) -> int:
    count = 0
    for line in text.splitlines():
        name, price, stock = line.split(",")
        offer(name, Decimal(price), int(stock))
        count += 1
    return count


def where() -> dict[str, int]:
    return {"logic": os.getpid(), "data": data.where()}
