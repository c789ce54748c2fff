"""What a scan finds: who calls whom, where, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from msgspec import Struct

from shardwright.model.shard import Diagnostic, Site


class How(IntEnum):
    """Why a function is a candidate of a site; the smaller, the surer."""

    EXACT = 0  # the function itself, or a method of an object made here
    POSSIBLE = 1  # a method of a class whose subclass may override it, or the other way round
    GUESS = 2  # nothing is known of the object; few classes have a method of that name
    PATTERN = 3  # getattr with a name that is computed: "visit_" and something
    OUTSIDE = 4  # called by a library that it was handed to: there is no direct edge


class Candidate(Struct, frozen=True):
    """A function that a site may call. ``confidence``: the share of such candidates that runs showed to be called."""

    function: str
    how: How
    confidence: float


class Calling(Struct, frozen=True):
    """A place that calls, and what. ``kind``: call, attribute, operator, loop, enter, decorator, define, delegate."""

    caller: str
    site: Site
    kind: str
    name: str
    candidates: tuple[Candidate, ...]


class FunctionPlace(Struct, frozen=True):
    """A function: where it is. ``kind``: function, method, lambda, or module for the body of a module."""

    id: str
    module: str
    qualname: str
    path: str
    line: int
    code_line: int
    end_line: int
    kind: str
    owner: str = ""
    is_async: bool = False
    is_generator: bool = False


class CallGraph(Struct, frozen=True):
    """Functions by id, sites that have candidates, and files that could not be read."""

    functions: dict[str, FunctionPlace]
    sites: tuple[Calling, ...]
    sites_seen: int
    problems: tuple[Diagnostic, ...] = ()

    def edges(self) -> Iterator[tuple[str, str, float]]:
        """``(caller, callee, confidence)`` of direct edges, each once, by its best site, in order."""
        best: dict[tuple[str, str], float] = {}
        for site in self.sites:
            for candidate in site.candidates:
                if candidate.how is not How.OUTSIDE:
                    key = (site.caller, candidate.function)
                    best[key] = max(best.get(key, 0.0), candidate.confidence)
        for (caller, callee), confidence in sorted(best.items()):
            yield caller, callee, confidence

    @property
    def candidates_per_site(self) -> float:
        """The mean number of candidates of a site that has any."""
        return sum(len(site.candidates) for site in self.sites) / len(self.sites) if self.sites else 0.0
