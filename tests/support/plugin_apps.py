"""A small shop with tests of its own, for tests of the pytest plugin. Neither the shop nor its tests know of shards."""

from __future__ import annotations

import textwrap
from pathlib import Path

__all__ = ["SHOP_TESTS", "write_shop"]

_FILES = {
    "shardwright.toml": """
        [app]
        name = "shop"
        root = "."
        [components.store]
        code = "shop.store"
        state = "memory"
        [components.orders]
        code = "shop.orders"
        state = "memory"
        depends_on = ["store"]
        [components.cart]
        code = "shop.cart"
        scope = "session"
        state = "memory"
        """,
    "shop/__init__.py": "",
    "shop/models.py": '''
        """Common code: every shard has a copy."""
        from dataclasses import dataclass

        RATE = 2

        @dataclass
        class Item:
            name: str
            price: int

        class Missing(Exception):
            pass

        def taxed(price):
            return price * RATE
        ''',
    "shop/store.py": """
        import logging
        import os
        import platform
        import threading

        from shop.models import Item, Missing, taxed

        LIMIT = 3
        logger = logging.getLogger(__name__)
        items: dict[str, Item] = {}
        _lock = threading.Lock()

        def add(name, price):
            if len(items) >= LIMIT:
                raise Missing(f"no room for {name}")
            items[name] = Item(name, price)
            print("added", name)
            logger.info("added %s", name)
            return len(items)

        def price(name):
            with _lock:
                if name not in items:
                    logger.warning("no %s", name)
                    raise Missing(name)
                return taxed(items[name].price)

        def _send(text):
            raise OSError("no network")

        def notify(text):
            return _send(text)

        def each(function):
            return [function(name) for name in items]

        async def fetch(name):
            return await _get(name)

        async def _get(name):
            raise OSError("no network")

        def whereabouts():
            return os.getpid()

        def machine():
            return platform.node(), platform.system()

        class Till:
            def __init__(self):
                self.sum = 0

            def take(self, amount):
                self.sum += amount
                return self.sum

            def total(self):
                return self.rounded()

            def rounded(self):
                return round(self.sum)
        """,
    "shop/orders.py": """
        from shop import store

        def order(name):
            return store.price(name) + store.LIMIT

        def place(name):
            store.add(name, 5)
            return store.notify(f"ordered {name}")
        """,
    "shop/cart.py": """
        _inside = []

        def put(name):
            _inside.append(name)
            return list(_inside)
        """,
    "pytest.ini": "[pytest]\npythonpath = .\naddopts = -p no:cacheprovider\n",
}

SHOP_TESTS = """
import asyncio
import logging
from unittest import mock

import pytest

from shop import cart, models, orders, store
from shop.models import Item, Missing
from shop.store import Till, add, items


@pytest.fixture(autouse=True)
def stocked():
    items.clear()
    add("apple", 1)
    yield
    store.items.clear()


def test_calls():
    assert add("pear", 3) == 2
    assert store.price("pear") == 6
    assert store.items == {"apple": Item("apple", 1), "pear": Item("pear", 3)}
    assert type(store.items["pear"]) is Item


def test_errors():
    with pytest.raises(Missing, match="^pear$"):
        store.price("pear")


def test_constant(monkeypatch):
    monkeypatch.setattr(store, "LIMIT", 1)
    assert orders.order("apple") == 3
    with pytest.raises(Missing, match="no room"):
        add("x", 1)
    monkeypatch.undo()
    assert orders.order("apple") == 5


def test_common_module(monkeypatch):
    monkeypatch.setattr(models, "RATE", 7)
    assert store.price("apple") == models.taxed(1) == 7
    monkeypatch.undo()
    assert store.price("apple") == 2


def test_state(monkeypatch):
    mine = {"a": Item("a", 9)}
    monkeypatch.setattr(store, "items", mine)
    assert store.price("a") == 18
    add("rope", 2)
    assert mine["rope"].price == 2 and store.items is mine
    monkeypatch.undo()
    assert list(store.items) == ["apple"] and store.items is items
    assert store.price("apple") == 2


def test_setitem(monkeypatch):
    monkeypatch.setitem(store.items, "rope", Item("rope", 4))
    assert orders.order("rope") == 11
    monkeypatch.undo()
    with pytest.raises(Missing):
        store.price("rope")


def test_patch_dict():
    with mock.patch.dict("shop.store.items", {"rope": Item("rope", 4)}, clear=True):
        assert store.price("rope") == 8
        with pytest.raises(Missing):
            store.price("apple")
    assert store.price("apple") == 2


def test_what_is_held_is_live():
    add("pear", 3)
    assert items["pear"].price == 3
    items["pear"].price = 5
    assert store.price("pear") == 10


def test_fake(monkeypatch):
    sent = []
    monkeypatch.setattr(store, "_send", lambda text: sent.append(text) or len(sent))
    assert store.notify("hello") == 1
    assert orders.place("rope") == 2
    assert sent == ["hello", "ordered rope"]
    monkeypatch.undo()
    with pytest.raises(OSError, match="no network"):
        store.notify("hello")


def test_mock():
    with mock.patch("shop.store._send", return_value=5) as send:
        assert store.notify("x") == 5
    send.assert_called_once_with("x")


@mock.patch.object(store, "_send", side_effect=ValueError("bad"))
def test_mock_raises(send):
    with pytest.raises(ValueError, match="bad"):
        store.notify("x")


@mock.patch("shop.store._send", autospec=True)
def test_mock_with_specification(send):
    assert store.notify("x") is send.return_value
    with pytest.raises(TypeError):
        store._send()


def test_mock_as_context_manager():
    with mock.patch.object(store, "_lock", mock.MagicMock()) as lock:
        assert store.price("apple") == 2
    lock.__enter__.assert_called_once()
    assert store.price("apple") == 2


def test_spy():
    with mock.patch.object(store, "price", wraps=store.price) as spy:
        assert orders.order("apple") == 5
    spy.assert_called_once_with("apple")


def test_wrapped(monkeypatch):
    original = store.price
    monkeypatch.setattr(store, "price", lambda name: original(name) * 10)
    assert (orders.order("apple"), store.price("apple")) == (23, 20)


def test_fake_that_calls_back(monkeypatch):
    monkeypatch.setattr(store, "_send", lambda text: store.price("apple"))
    assert store.notify("x") == 2


def test_callback():
    assert store.each(lambda name: name.upper()) == ["APPLE"]
    found = []
    store.each(found.append)
    assert found == ["apple"]


def test_deleted(monkeypatch):
    monkeypatch.delattr(store, "_send")
    with pytest.raises(NameError):
        store.notify("x")


def test_module_of_a_module(monkeypatch):
    with mock.patch("shop.store.platform.node", return_value="here") as node:
        assert store.machine() == ("here", "Linux")
    node.assert_called_once_with()
    monkeypatch.setattr("shop.store.platform.system", lambda: "Plan 9")
    assert store.machine()[0] != "here" and store.machine()[1] == "Plan 9"
    with pytest.raises(AttributeError):
        monkeypatch.setattr("shop.store.platform.sistem", None)


def test_method(monkeypatch):
    till = Till()
    till.take(1.5)
    monkeypatch.setattr(Till, "rounded", lambda self: f"about {self.sum}")
    assert till.total() == "about 1.5"
    monkeypatch.undo()
    assert till.total() == 2


def test_logging(caplog):
    with pytest.raises(Missing):
        store.price("nothing")
    assert "no nothing" in caplog.text
    add("quiet", 1)
    with caplog.at_level(logging.INFO, logger="shop.store"):
        add("loud", 1)
    assert [record.getMessage() for record in caplog.records] == ["no nothing", "added loud"]


def test_printing(capsys):
    add("pear", 1)
    assert capsys.readouterr().out == "added pear\\n"


def test_awaited():
    async def body():
        with pytest.raises(OSError, match="no network"):
            await store.fetch("x")
        with mock.patch("shop.store._get") as get:
            get.return_value = 3
            assert await store.fetch("x") == 3
        get.assert_awaited_once_with("x")
        loop = asyncio.get_running_loop()

        async def slow(name):
            assert asyncio.get_running_loop() is loop
            await asyncio.sleep(0)
            return name * 2

        with mock.patch("shop.store._get", slow):
            assert await store.fetch("y") == "yy"

    asyncio.run(body())


@pytest.fixture(scope="module")
def till():
    till = Till()
    till.take(5)
    yield till
    assert till.take(0) == 6


def test_lasting_fixture(till):
    assert till.take(0) == 5


def test_lasting_fixture_again(till):
    assert till.take(1) == 6
"""


def write_shop(folder: Path, **tests: str) -> None:
    """The shop, and for each name a test file ``tests/NAME.py``."""
    files = _FILES | {f"tests/{name}.py": source for name, source in tests.items()}
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
