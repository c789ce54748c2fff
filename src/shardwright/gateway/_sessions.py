"""Which session a request belongs to: a signed name, in a cookie or in a header.

The name of a session is its only key, so clients are given it with a signature and an expiry, and nothing else is believed.
The value is ``1.NAME.EXPIRES.SIGNATURE``; it is bound to the application, and a new gateway of the same node believes it.
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from hashlib import sha256

from msgspec import Struct
from msgspec.structs import replace

from shardwright.gateway._backend import OWN_SESSION, Backend
from shardwright.gateway._problems import Problem

__all__ = ["COOKIE", "HEADER", "Seal", "Sessions", "Visit", "without_session"]

COOKIE = b"sw_session"
HEADER = b"shardwright-session"
NEW = b"new"
"""The value of the header with which a client without cookies asks for a session; the answer's header holds it."""
_VALUE = re.compile(rb"1\.([A-Za-z0-9_-]{16,64})\.([0-9a-f]{8,12})\.([A-Za-z0-9_-]{43})")
_IN_COOKIES = re.compile(rb"(?:^|;)[ \t]*sw_session=\"?([^;\"]*)")
_STRIP = re.compile(rb"(^|;)[ \t]*sw_session=[^;]*")


class Seal:
    """Signs names and checks what comes back. ``now_s`` is the wall clock; values expire ``lasting_s`` after they were made."""

    def __init__(self, key: bytes, app: str, lasting_s: float, now_s: Callable[[], float] = time.time) -> None:
        if len(key) < 16:
            raise ValueError(f"a key of {len(key)} bytes signs nothing")
        self._key = hmac.digest(key, b"shardwright session of " + app.encode(), "sha256")
        self._lasting_s = lasting_s
        self._now_s = now_s

    def __repr__(self) -> str:
        return "<Seal>"

    def _signature(self, name: bytes, expires: bytes) -> bytes:
        return urlsafe_b64encode(hmac.new(self._key, name + b"." + expires, sha256).digest()).rstrip(b"=")

    def value(self, name: str) -> bytes:
        """What a client shall send back."""
        expires = b"%08x" % int(self._now_s() + self._lasting_s)
        return b"1.%s.%s.%s" % (name.encode(), expires, self._signature(name.encode(), expires))

    def name(self, value: bytes) -> tuple[str, bool] | None:
        """The session that ``value`` names, and whether the value should be renewed; None: forged, expired or nonsense."""
        found = _VALUE.fullmatch(value) if len(value) < 256 else None
        if found is None:
            return None
        name, expires, signature = found.groups()
        if not hmac.compare_digest(signature, self._signature(name, expires)):
            return None
        left_s = int(expires, 16) - self._now_s()
        return None if left_s <= 0 else (name.decode(), left_s < self._lasting_s / 2)


class Visit(Struct, frozen=True):
    """The session of one request. ``headers`` go into its response."""

    number: int
    name: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()


_NOBODY = Visit(OWN_SESSION)


class Sessions:
    """The sessions of clients. The node ends one that nobody used for long; its name then begins another."""

    def __init__(self, seal: Seal, backend: Backend, *, lasting_s: float, secure: bool) -> None:
        self._seal = seal
        self._backend = backend
        self._attributes = b"; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax" % int(lasting_s)
        if secure:
            self._attributes += b"; Secure"

    def __repr__(self) -> str:
        return "<Sessions>"

    async def enter(self, needed: bool, headers: Mapping[bytes, bytes]) -> Visit:
        """The session of a request with these headers; ``needed``: its component has shards for sessions.

        A wrong header is refused by Problem(401); a wrong cookie counts as none. Raises SessionRefused.
        """
        asked = self._asked(needed, headers)
        if asked is None:
            return _NOBODY
        name, tell = asked
        number = self._backend.session(name)
        if number is None:
            number = await self._backend.begin_session(name)
        return self._visit(number, name, tell)

    def known(self, needed: bool, headers: Mapping[bytes, bytes]) -> Visit | None:
        """The same where no session is to be begun; None where one is. Raises Problem(401)."""
        if not needed and HEADER not in headers:
            return _NOBODY
        asked = self._asked(needed, headers)
        if asked is None:
            return _NOBODY
        name, tell = asked
        number = self._backend.session(name)
        return None if number is None else self._visit(number, name, tell)

    def _asked(self, needed: bool, headers: Mapping[bytes, bytes]) -> tuple[str, bytes | None] | None:
        """The session that a request asks for, and the header by which it is told; None: it needs none."""
        given = headers.get(HEADER)
        if given is not None and given != NEW:
            known = self._seal.name(given)
            if known is None:
                raise Problem(401, "This session is unknown or has expired.", ((b"www-authenticate", b"Session"),))
            return known[0], HEADER if known[1] else None
        if given is None:
            if not needed:
                return None
            for value in _IN_COOKIES.findall(headers.get(b"cookie", b"")):
                known = self._seal.name(value.strip())
                if known is not None:
                    return known[0], COOKIE if known[1] else None
        return f"web-{secrets.token_urlsafe(16)}", HEADER if given else COOKIE

    def _visit(self, number: int, name: str, tell: bytes | None) -> Visit:
        return Visit(number, name, () if tell is None else (self._told(name, tell),))

    def _told(self, name: str, tell: bytes) -> tuple[bytes, bytes]:
        value = self._seal.value(name)
        return (HEADER, value) if tell == HEADER else (b"set-cookie", COOKIE + b"=" + value + self._attributes)

    async def again(self, visit: Visit) -> Visit:
        """The session ended under a request's feet: begin it anew, by the same name."""
        return replace(visit, number=await self._backend.begin_session(visit.name))


def without_session(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """The headers of a request as an application may see them: it could act for the session's owner if it saw the value."""
    if not any(name == HEADER or (name == b"cookie" and COOKIE in value) for name, value in headers):
        return headers
    kept = []
    for name, value in headers:
        if name == HEADER:
            continue
        if name == b"cookie" and COOKIE in value:
            value = _STRIP.sub(b"", value).lstrip(b"; \t")
            if not value:
                continue
        kept.append((name, value))
    return kept
