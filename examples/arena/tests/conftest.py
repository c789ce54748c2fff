"""What the tests of the arena share."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from arena import auth, inventory

_numbers = itertools.count(1)


@pytest.fixture
def name() -> Callable[[str], str]:
    """Names that no other test uses: accounts and worlds last as long as the program."""
    return lambda stem: f"{stem}-{next(_numbers)}"


@pytest.fixture
def token(name: Callable[[str], str]) -> str:
    """The token of a player who has just opened an account."""
    player = name("ann")
    auth.register(player, "secret")
    return auth.login(player, "secret")


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shop and chests as at the beginning."""
    monkeypatch.setattr(inventory, "_connection", None)
