"""Accounts and tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from arena.auth import AuthError, login, register, verify
from arena.models import ArenaError, Player

from arena import auth


def test_a_token_tells_who_it_is_of(name: Callable[[str], str]) -> None:
    player = register(name("ann"), "secret")
    assert isinstance(player, Player)
    assert verify(login(player.name, "secret")) == player


@pytest.mark.parametrize(("password", "reason"), [("wrong", "password"), ("", "password")])
def test_a_wrong_password(name: Callable[[str], str], password: str, reason: str) -> None:
    player = register(name("bob"), "secret")
    with pytest.raises(AuthError, match=player.name) as caught:
        login(player.name, password)
    assert caught.value.reason == reason
    assert isinstance(caught.value, ArenaError)


def test_a_name_is_given_once(name: Callable[[str], str]) -> None:
    taken = name("cat")
    register(taken, "secret")
    with pytest.raises(AuthError, match="taken"):
        register(taken, "other")


def test_an_old_token_is_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    player = verify(token)
    monkeypatch.setattr(auth, "TOKEN_LIFETIME_S", -10)
    with pytest.raises(AuthError, match="token"):
        verify(login(player.name, "secret"))
    monkeypatch.undo()
    assert verify(login(player.name, "secret")) == player


def test_tokens_of_forgotten_accounts_are_refused(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    verify(token)
    monkeypatch.setattr(auth, "_accounts", {})
    with pytest.raises(AuthError, match="token"):
        verify(token)
    assert register("first", "secret") == Player("first", 1)
    assert list(auth._accounts) == ["first"]
    monkeypatch.undo()
    verify(token)
