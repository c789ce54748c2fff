"""What was measured of a program, and what a call across costs on one machine.

Plain data: profiles are stored as JSON beside the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct
from msgspec.structs import replace

_LEAST_AT_ONCE = 0.75  # of the cores


class CostConstants(Struct, frozen=True):
    """What a call to another shard costs on one machine, in seconds: measured once (``bench`` measures it too).

    ``round_trip_s`` of an empty call; ``byte_s`` for each further byte of argument or result; ``fork_s`` until one more
    shard answers. ``cores``: what shards may use at once; ``at_once`` how much more that many processes do together than one
    does alone, 0 where that was not measured. ``host`` names the machine.
    """

    round_trip_s: float
    byte_s: float
    fork_s: float
    cores: int
    host: str = ""
    at_once: float = 0.0

    @property
    def parallel(self) -> float:
        """How many times as much all cores do as one; three quarters of them at least: less is a moment's load."""
        whole = float(max(1, self.cores))
        return min(whole, max(self.at_once, _LEAST_AT_ONCE * whole, 1.0)) if self.at_once > 0 else whole

    def call_s(self, item: Measured) -> float:
        """What the calls of a function cost that cross: the way, the bytes, and their encoding."""
        return item.calls * (self.round_trip_s + item.bytes_per_call * self.byte_s + item.encode_per_call_s)


class Measured(Struct, frozen=True):
    """One function, as a run showed it. Seconds are inclusive, of all calls together.

    ``sampled`` of the calls were looked at closely: ``request_bytes``, ``result_bytes`` and ``encode_s`` are theirs;
    ``shadowed`` were run twice and came to the same.
    ``veto`` says what a look at them found that forbids a cut (an effect, or a value that does not cross); empty for none.
    """

    function: str
    calls: int
    total_s: float
    own_s: float
    sampled: int = 0
    request_bytes: int = 0
    result_bytes: int = 0
    encode_s: float = 0.0
    veto: str = ""
    shadowed: int = 0
    streams: bool = False  # it gives a generator: ``total_s`` is with what that does
    counted: int = 0  # calls as they were counted; of a generator each time it went on
    short: bool = False  # so many calls that take so little that they were no longer seen

    @property
    def bytes_per_call(self) -> float:
        """Of arguments and result together."""
        return (self.request_bytes + self.result_bytes) / self.sampled if self.sampled else 0.0

    @property
    def encode_per_call_s(self) -> float:
        """What encoding takes, and decoding about as long again on the other side."""
        return 2 * self.encode_s / self.sampled if self.sampled else 0.0


class MeasuredEdge(Struct, frozen=True):
    """How often one function called another directly, exactly, and for how many seconds in all (inclusive)."""

    caller: str
    callee: str
    calls: int
    total_s: float


class Context(Struct, frozen=True):
    """Calls of a function that was looked at, by what they are made within: ``within`` numbers the context of the next one out.

    ``within`` is -1 where nothing that was looked at is around it; calls within the function itself do not count. A context
    comes after the one it is within.
    """

    function: str
    within: int
    calls: int
    total_s: float


class Profile(Struct, frozen=True):
    """What runs of one version of an application showed. ``sources`` are the hashes of the modules it is true of.

    ``runs`` were merged into it; ``commands`` are theirs. ``wall_s`` and ``cpu_s`` are sums over the runs, and so is
    ``inside_s``: what calls of the application's functions from outside of it took, tests among the outside.
    """

    version: int
    sources: dict[str, str]
    runs: int
    commands: tuple[str, ...]
    wall_s: float
    cpu_s: float
    functions: tuple[Measured, ...]
    edges: tuple[MeasuredEdge, ...]
    inside_s: float = 0.0
    contexts: tuple[Context, ...] = ()

    def function(self, name: str) -> Measured | None:
        """What was measured of ``module:qualname``."""
        return next((item for item in self.functions if item.function == name), None)


def of_tests(name: str) -> bool:
    """Whether a module, or a function ``module:qualname``, is of a package's own tests: what they do is not what it does."""
    parts = name.partition(":")[0].split(".")
    return any(part in ("tests", "test", "conftest") or part.startswith("test_") for part in parts)


def united(*several: Iterable[Context]) -> tuple[Context, ...]:
    """The contexts of several runs as those of one."""
    rows: list[Context] = []
    numbers: dict[tuple[int, str], int] = {}
    for contexts in several:
        homes: list[int] = []
        for context in contexts:
            within = homes[context.within] if context.within >= 0 else -1
            number = numbers.setdefault((within, context.function), len(rows))
            homes.append(number)
            if number == len(rows):
                rows.append(replace(context, within=within))
            else:
                known = rows[number]
                calls, total_s = known.calls + context.calls, known.total_s + context.total_s
                rows[number] = replace(known, calls=calls, total_s=total_s)
    return tuple(rows)
