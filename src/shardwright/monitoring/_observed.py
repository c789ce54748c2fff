"""What shards take, and what they were kept from taking: demand, observed once a tick.

Demand is usage + throttled + waiting + queued, never usage alone: who is capped looks idle. Whatever shards say of
themselves is their own word, and bounded by what the kernel saw.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping

import msgspec
from msgspec import Struct

from shardwright.model.ids import ShardId
from shardwright.model.limits import Usage
from shardwright.monitoring._node import CallCounts

LEAST_S = 1e-3  # between two looks
LONGEST_QUEUE_S = 10.0  # what is queued counts as if it had to be done within a second, and for no more cores than this
BUSY = 1e-3  # cores: who takes less is idle


class Observed(msgspec.Struct, frozen=True):
    """One shard over the time since it was last looked at. Amounts of CPU are in cores.

    ``waiting`` is for how long its threads were ready to run and did not (run delay); ``queued`` the work that waits in it,
    as if it were to be done within a second. ``arrivals_s`` and ``concurrency`` are NaN where it did not tell. ``lacked`` is
    what it was kept from taking, all together, and ``demand`` that and what it took: reckoned once, and read many times.
    """

    cpu: float
    throttled: float
    waiting: float
    queued: float
    memory_bytes: int
    measured_s: float
    arrivals_s: float
    concurrency: float
    lacked: float
    demand: float


class _Seen(Struct):
    at_s: float
    cpu_s: float
    throttled_s: float
    delays_ns: dict[str, int] | None = None  # by thread, if it was looked at
    received: int = -1
    received_s: float = 0.0
    received_cpu_s: float = 0.0
    call_s: float = 0.0  # CPU time of a call, on average
    arrivals_s: float = math.nan
    last: Observed | None = None


class Observer:
    """Remembers the last look at every shard."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._seen: dict[ShardId, _Seen] = {}

    def __repr__(self) -> str:
        return f"<Observer of {len(self._seen)} shards>"

    def look(
        self,
        now: float,
        usages: Mapping[str, Usage | None],
        began_s: Mapping[ShardId, float],
        waits: Mapping[ShardId, int],
        counts: Mapping[ShardId, CallCounts],
    ) -> dict[ShardId, Observed]:
        """What every shard did since the look before, or since it began. One of which nothing can be told is missing.

        ``waits`` are the processes of those whose threads are looked at one by one (a tenth of a millisecond each): it is
        of use where the machine is short of CPU. ``counts`` are the latest that shards told. Numbers that go back, or are
        none, leave a shard out.
        """
        found: dict[ShardId, Observed] = {}
        for name, usage in usages.items():
            shard = ShardId(name)
            if usage is None or not (math.isfinite(usage.cpu_s) and math.isfinite(usage.throttled_s)):
                continue
            before = self._seen.get(shard)
            if before is None:
                before = self._seen[shard] = _Seen(began_s.get(shard, now), 0.0, 0.0, {})
            observed = self._since(before, now, usage, waits.get(shard, 0), counts.get(shard))
            if observed is not None:
                found[shard] = observed
        return found

    def last(self, shard: ShardId) -> Observed | None:
        """The latest look at it."""
        seen = self._seen.get(shard)
        return None if seen is None else seen.last

    def keep(self, shards: Iterable[ShardId]) -> None:
        """Forget all others."""
        for shard in self._seen.keys() - set(shards):
            self.forget(shard)

    def forget(self, shard: ShardId) -> None:
        self._seen.pop(shard, None)

    def _since(self, seen: _Seen, now: float, usage: Usage, pid: int, counts: CallCounts | None) -> Observed | None:
        took_s = now - seen.at_s
        cpu_s, throttled_s = usage.cpu_s - seen.cpu_s, usage.throttled_s - seen.throttled_s
        if took_s < LEAST_S:
            return seen.last
        seen.at_s, seen.cpu_s, seen.throttled_s = now, usage.cpu_s, usage.throttled_s
        if cpu_s < 0 or throttled_s < 0:
            seen.last = None
            return None
        cpu = cpu_s / took_s
        waiting = 0.0
        if pid > 0:
            delays_ns = self._delays(pid)
            if seen.delays_ns is not None:
                grown = sum(max(0, ns - seen.delays_ns.get(thread, 0)) for thread, ns in delays_ns.items())
                waiting = grown / 1e9 / took_s
            seen.delays_ns = delays_ns
        else:
            seen.delays_ns = None
        throttled = throttled_s / took_s
        # the kernel counts the time in which it is throttled as waiting as well; shards run one call at a time
        waiting = min(max(0.0, waiting - throttled), 1.0 + cpu)
        queued, concurrency = 0.0, math.nan
        if counts is not None:
            self._told(seen, now, counts)
            concurrency = float(max(0, counts.running) + max(0, counts.queued))
            queued = min(max(0, counts.queued) * seen.call_s, LONGEST_QUEUE_S)
        lacked = throttled + waiting + queued
        seen.last = Observed(
            cpu, throttled, waiting, queued, max(0, usage.memory_bytes), now, seen.arrivals_s, concurrency, lacked,
            cpu + lacked,
        )  # fmt: skip
        return seen.last

    def _told(self, seen: _Seen, now: float, counts: CallCounts) -> None:
        if seen.received < 0:
            seen.received, seen.received_s, seen.received_cpu_s = counts.received, now, seen.cpu_s
            return
        more, took_s = counts.received - seen.received, now - seen.received_s
        if took_s < LEAST_S:
            return
        seen.arrivals_s = max(0, more) / took_s
        if more > 0:
            seen.call_s = max(0.0, seen.cpu_s - seen.received_cpu_s) / more
        seen.received, seen.received_s, seen.received_cpu_s = counts.received, now, seen.cpu_s

    def _delays(self, pid: int) -> dict[str, int]:
        """For how long each thread of a process was ready to run and did not, so far, in nanoseconds."""
        found: dict[str, int] = {}
        try:
            for thread in os.listdir(f"{self._proc}/{pid}/task"):
                with open(f"{self._proc}/{pid}/task/{thread}/schedstat", "rb", buffering=0) as file:
                    found[thread] = int(file.read(128).split()[1])
        except (OSError, ValueError, IndexError):
            pass  # a thread, or all of it, has ended, or the kernel tells nothing: then less is known
        return found


def pressure(proc: str = "/proc") -> dict[str, float]:
    """The share of the last ten seconds in which something waited for CPU, or memory; empty where the kernel tells none."""
    found: dict[str, float] = {}
    for name in ("cpu", "memory"):
        try:
            with open(f"{proc}/pressure/{name}", encoding="ascii") as file:
                line = file.readline()
            found[name] = float(line.split("avg10=", 1)[1].split(" ", 1)[0]) / 100
        except (OSError, ValueError, IndexError):
            continue
    return found


class Stalls:
    """The share of the time in which something waited for CPU, from look to look, by the kernel's own clock of stalls.

    ``pressure`` tells averages over ten seconds, anew each two: too late for who is to act within a half. One look is one read.
    """

    def __init__(self, proc: str = "/proc") -> None:
        try:
            self._descriptor = os.open(f"{proc}/pressure/cpu", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1
        self._total_us = -1
        self._at = 0.0

    def __repr__(self) -> str:
        return f"<Stalls, {self._total_us} us so far>"

    def share(self, now: float) -> float:
        """0 to 1; NaN at the first look, and where the kernel tells none."""
        try:
            text = os.pread(self._descriptor, 256, 0)
            total_us = int(text.split(b"\n", 1)[0].rsplit(b"total=", 1)[1])
        except (OSError, ValueError, IndexError):
            return math.nan
        before, self._total_us = self._total_us, total_us
        took_s, self._at = now - self._at, now
        if before < 0 or took_s < LEAST_S:
            return math.nan
        return min(max(0.0, (total_us - before) / 1e6 / took_s), 1.0)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
