"""Buying, giving and finding."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
from arena.models import Body, Chest, OutOfStock

from arena import auth, inventory, physics

pytestmark = pytest.mark.usefixtures("shop")


def test_the_shop_has_three_swords(token: str) -> None:
    assert inventory.FIRST_STOCK["sword"] == 3
    assert inventory.reserve(token, "sword", 2) == 1
    with pytest.raises(OutOfStock) as caught:
        inventory.reserve(token, "sword", 2)
    assert (caught.value.wanted, caught.value.left) == (2, 1)
    assert inventory.list_items(auth.verify(token).name) == {"sword": 2}


def test_every_test_has_a_shop_of_its_own() -> None:
    assert inventory.stock("sword") == 3


def test_only_known_players_buy() -> None:
    with (
        mock.patch("arena.auth.verify", side_effect=auth.AuthError("?", "token")) as verify,
        pytest.raises(auth.AuthError),
    ):
        inventory.reserve("forged", "apple", 1)
    verify.assert_called_once_with("forged")


def test_whoever_has_too_few_cannot_give(name: Callable[[str], str]) -> None:
    ann, bob = name("ann"), name("bob")
    inventory.grant(ann, "rope", 3)
    inventory.transfer(ann, bob, "rope", 2)
    assert inventory.list_items(bob) == {"rope": 2}
    with pytest.raises(OutOfStock):
        inventory.transfer(ann, bob, "rope", 2)
    with pytest.raises(ValueError, match="at least 1"):
        inventory.transfer(ann, bob, "rope", 0)


@pytest.mark.parametrize(("x", "expected"), [(4.0, True), (9.0, False)])
def test_a_chest_is_emptied_by_who_stands_there(monkeypatch: pytest.MonkeyPatch, x: float, expected: bool) -> None:
    asked = []

    def position(world: str, player: str) -> Body:
        asked.append((world, player))
        return Body(player, x, 4.0)

    monkeypatch.setattr(physics, "position", position)
    chest = Chest("box", 4.0, 4.0, "apple", 5)
    assert inventory.collect("moor", "zoe", chest) is expected
    assert inventory.collect("moor", "zoe", chest) is False
    assert asked == [("moor", "zoe")] * 2
    assert inventory.emptied("moor", "zoe") == (("box",) if expected else ())
