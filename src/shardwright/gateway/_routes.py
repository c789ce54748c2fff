"""Which route of the manifest takes a request.

A literal segment is preferred to a parameter, a parameter to ``{rest:path}``, and any of them to the prefix under which an
application is mounted; among prefixes the longest wins. Segments are compared after percent-decoding, one by one, so that
``%2F`` never separates two. A trailing slash means what it says: ``/items/`` and ``/items`` are two paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes

from msgspec import Struct, field

from shardwright.gateway._problems import Problem
from shardwright.model.shard import EntryKind, RouteTarget

__all__ = ["ANY_METHOD", "Match", "RouteTable", "parameters"]

ANY_METHOD = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
"""What a function takes whose route names no methods."""
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}")


class Match(Struct, frozen=True):
    """A route takes the request. ``path`` are the values of its parameters, ``root_path`` where its application is mounted."""

    route: RouteTarget
    path: Mapping[str, str] = field(default_factory=dict)
    root_path: str = ""


def parameters(pattern: str) -> tuple[str, ...]:
    """The names of the parameters of a pattern, in order."""
    return tuple(found.group(1) for found in _PARAMETER.finditer(pattern))


class _Leaf(Struct, frozen=True):
    """A route, and where the values of its parameters are: name, index of the segment, whether all that follow belong to it."""

    route: RouteTarget
    places: tuple[tuple[str, int, bool], ...] = ()
    match: Match | None = None  # the same for all requests, where nothing of the path is a value

    def made(self, segments: list[str]) -> Match:
        if self.match is not None:
            return self.match
        values = {name: "/".join(segments[at:]) if rest else segments[at] for name, at, rest in self.places}
        return Match(self.route, values)


def _leaf(route: RouteTarget) -> _Leaf:
    if route.kind is EntryKind.APPLICATION:
        return _Leaf(route, match=Match(route, {}, route.path.rstrip("/")))
    found = [(at, _PARAMETER.fullmatch(segment)) for at, segment in enumerate(route.path.split("/")[1:])]
    places = tuple((each[1], at, each[2] is not None) for at, each in found if each is not None)
    return _Leaf(route, places, None if places else Match(route))


class _Branch(Struct):
    """One level of the tree of patterns."""

    literal: dict[str, _Branch] = field(default_factory=dict)
    parameter: _Branch | None = None
    rest: list[_Leaf] = field(default_factory=list)
    leaves: list[_Leaf] = field(default_factory=list)


class RouteTable:
    """All routes, ready to be asked. Immutable after it was made."""

    def __init__(self, routes: Iterable[RouteTarget]) -> None:
        self.routes = tuple(routes)
        self._root = _Branch()
        self._literal: dict[tuple[bytes, str], Match] = {}  # what the paths without parameters take, by method
        self._mounted: dict[tuple[str, ...], list[_Leaf]] = {}
        self._deepest = 0
        for route in self.routes:
            if route.kind is EntryKind.APPLICATION:
                where = tuple(part for part in route.path.rstrip("/").split("/")[1:])
                self._mounted.setdefault(where, []).append(_leaf(route))
                self._deepest = max(self._deepest, len(where))
            else:
                self._add(route)

    def __repr__(self) -> str:
        return f"<RouteTable of {len(self.routes)} routes>"

    def _add(self, route: RouteTarget) -> None:
        branch = self._root
        segments = route.path.split("/")[1:]
        leaf = _leaf(route)
        if leaf.match is not None:
            for method in _allowed(route):
                self._literal.setdefault((route.path.encode(), method), leaf.match)
        for segment in segments:
            found = _PARAMETER.fullmatch(segment)
            if found is None:
                branch = branch.literal.setdefault(segment, _Branch())
            elif found.group(2):
                branch.rest.append(leaf)
                return
            else:
                branch.parameter = branch.parameter or _Branch()
                branch = branch.parameter
        branch.leaves.append(leaf)

    def covered(self, path: str) -> bool:
        """Whether a mounted application, or a route, takes this literal path."""
        return bool(self._candidates(path.split("/")[1:]))

    def match(self, method: str, raw_path: bytes) -> Match:
        """The route for a request. Raises Problem: 400, 404, or 405 with the methods that the path allows."""
        fast = self._literal.get((raw_path, method))
        if fast is not None:
            return fast
        segments = _segments(raw_path)
        candidates = self._candidates(segments)
        for leaf in candidates:
            if _answers(leaf.route, method):
                return leaf.made(segments)
        if not candidates:
            raise Problem(404, "No route takes this path.")
        allowed = sorted({name for leaf in candidates for name in _allowed(leaf.route)})
        allow = ((b"allow", ", ".join(allowed).encode()),)
        if method == "OPTIONS":
            raise Problem(204, headers=allow)
        raise Problem(405, "This path takes other methods.", allow)

    def match_websocket(self, raw_path: bytes) -> Match:
        """The application for a WebSocket. Raises Problem: 400, 404; functions take no WebSockets."""
        segments = _segments(raw_path)
        for leaf in self._candidates(segments):
            if leaf.route.kind is EntryKind.APPLICATION:
                return leaf.made(segments)
        raise Problem(404, "No application takes WebSockets at this path.")

    def _candidates(self, segments: list[str]) -> list[_Leaf]:
        """Routes whose path fits, the most specific first."""
        found: list[_Leaf] = []
        _walk(self._root, segments, 0, found)
        if self._mounted:
            for depth in range(min(len(segments), self._deepest), -1, -1):
                found += self._mounted.get(tuple(segments[:depth]), ())
        return found


def _walk(branch: _Branch, segments: list[str], at: int, found: list[_Leaf]) -> None:
    """Adds what fits beneath ``branch``."""
    if at == len(segments):
        found += branch.leaves
        return
    segment = segments[at]
    literal = branch.literal.get(segment)
    if literal is not None:
        _walk(literal, segments, at + 1, found)
    if branch.parameter is not None and segment:
        _walk(branch.parameter, segments, at + 1, found)
    found += branch.rest


def _answers(route: RouteTarget, method: str) -> bool:
    if not route.methods:
        return method in ANY_METHOD or route.kind is EntryKind.APPLICATION
    return method in route.methods or (method == "HEAD" and "GET" in route.methods)


def _allowed(route: RouteTarget) -> tuple[str, ...]:
    if not route.methods:
        return ANY_METHOD
    return (*route.methods, "HEAD") if "GET" in route.methods else route.methods


def _segments(raw_path: bytes) -> list[str]:
    if not raw_path.startswith(b"/"):
        raise Problem(400, "The path does not begin with a slash.")
    if b"%" not in raw_path:
        return raw_path.decode("latin-1").split("/")[1:]
    try:
        return [unquote_to_bytes(part).decode() for part in raw_path.split(b"/")[1:]]
    except UnicodeDecodeError:
        raise Problem(400, "The path is not UTF-8 after percent-decoding.") from None
