"""Who is who: accounts in memory, passwords by argon2, tokens by JWT."""

from __future__ import annotations

import os
import secrets
import threading
import time

import jwt
from argon2 import PasswordHasher
from argon2.exceptions import VerifyMismatchError

from arena.models import ArenaError, Player

TOKEN_LIFETIME_S = 12 * 3600
ALGORITHM = "HS256"

# Without a key of its own the arena makes one up: fine for a game that forgets its accounts when it ends, anyway.
_KEY = os.environ.get("ARENA_JWT_KEY") or secrets.token_hex(32)
# A toy guards toys: raise the memory for accounts that matter.
_HASHER = PasswordHasher(time_cost=1, memory_cost=int(os.environ.get("ARENA_ARGON2_MEMORY_KIB", "64")), parallelism=1)

_accounts: dict[str, tuple[Player, str]] = {}
_lock = threading.Lock()


class AuthError(ArenaError):
    """The player is not who it says. ``reason`` is one of "taken", "unknown", "password", "token"."""

    def __init__(self, player: str, reason: str) -> None:
        super().__init__(f"{player}: {reason}")
        self.player = player
        self.reason = reason


def register(name: str, password: str) -> Player:
    """Open an account. Raises AuthError ("taken") if there is one of that name."""
    digest = _HASHER.hash(password)
    with _lock:
        if name in _accounts:
            raise AuthError(name, "taken")
        player = Player(name, len(_accounts) + 1)
        _accounts[name] = (player, digest)
    return player


def login(name: str, password: str) -> str:
    """A token for the account. Raises AuthError ("unknown" or "password")."""
    if name not in _accounts:
        raise AuthError(name, "unknown")
    player, digest = _accounts[name]
    try:
        _HASHER.verify(digest, password)
    except VerifyMismatchError as error:
        raise AuthError(name, "password") from error
    claims = {"sub": name, "number": player.number, "exp": int(time.time()) + TOKEN_LIFETIME_S}
    return jwt.encode(claims, _KEY, algorithm=ALGORITHM)


def verify(token: str) -> Player:
    """The player whose token this is. Raises AuthError ("token") if it is forged, out of date, or from another life."""
    try:
        claims = jwt.decode(token, _KEY, algorithms=[ALGORITHM])
    except jwt.InvalidTokenError as error:
        raise AuthError("?", "token") from error
    player = Player(claims["sub"], claims["number"])
    if _accounts.get(player.name, (None, ""))[0] != player:
        raise AuthError(player.name, "token")
    return player
