"""Any one shard may die at any moment: it costs the calls in flight in it, and nothing else.

``SWT_LONG=1`` kills a thousand times.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import ShardLost
from shardwright.node import Node, Session
from shardwright.testing._faults import Failure, Kill, Place, Verdicts

LEDGER = Path(__file__).parent / "apps" / "ledger"
PATHS = ("front", "account", "vault", "tally", "sums")
NAMES = ("north", "south", "east", "west")
KILLS = 1000 if os.environ.get("SWT_LONG") else 100
CALL_LIMIT_S = 20.0  # a call that takes longer hangs
Record = Callable[[str, int], None]


class Customer(threading.Thread):
    """One session that calls without pause and keeps account of every count that it was told."""

    def __init__(self, node: Node, number: int, verdicts: Verdicts, stop: threading.Event, seed: int) -> None:
        super().__init__(name=f"customer-{number}", daemon=True)
        self.node = node
        self.verdicts = verdicts
        self.stopped = stop
        self.random = random.Random(seed * 1000 + number)
        self.calls = 0
        self.trouble: list[str] = []
        self.last: dict[str, tuple[str, int]] = {}
        self.told: dict[str, bool] = {}

    def run(self) -> None:
        try:
            with self.node.session(self.name) as session:
                while not self.stopped.is_set():
                    self.one_call(session)
                for path, name in itertools.product(PATHS, NAMES):  # nobody is killed any more
                    debts = len(self.places(path, name))  # of each loss it is told once
                    if not any([self.one_call(session, path, name) for _ in range(debts + 1)][-1:]):
                        self.trouble.append(f"{path} {name} still fails: {self.verdicts.failures[-debts:]}")
        except BaseException as error:
            self.trouble.append(f"{self.name}: {type(error).__name__}: {error}")

    def one_call(self, session: Session, path: str = "", name: str = "") -> bool:
        path, name = path or self.random.choice(PATHS), name or self.random.choice(NAMES)
        places = self.places(path, name)
        begun = time.monotonic()
        self.calls += 1
        call = session.with_timeout(CALL_LIMIT_S).call
        try:
            match path:
                case "front":
                    counts = call("front.step", self.name, name, 7)
                    counts["safe-" + name] = counts.pop("safe")
                case "account":
                    counts = {"account": call("account.bump", self.name)}
                case "vault":
                    counts = {"vault-" + name: call("vault.bump", name, self.name)}
                case "tally":
                    counts = {"tally": call("tally.bump", self.name)}
                case _:
                    counts = {"sums": call("sums.square", 7)}
        except ShardLost as lost:
            ended = time.monotonic()
            self.verdicts.failed(Failure(self.name, places, begun, ended, lost.outcome == "unknown", str(lost)))
            for component, _ in places:
                for key in [*self.last, path]:
                    if key.partition("-")[0] == component:
                        self.told[key] = True
            return False
        for what, (process, count) in counts.items():
            self.check(what, process, count)
        return True

    def places(self, path: str, name: str) -> frozenset[Place]:
        match path:
            case "front":
                return frozenset({("front", self.name), ("safe", name), ("counter", ""), ("sums", "")})
            case "account":
                return frozenset({("account", self.name)})
            case "vault":
                return frozenset({("vault", name)})
            case _:
                return frozenset({(path, "")})

    def check(self, what: str, process: str, count: int) -> None:
        if what == "sums":
            if count != 49:
                self.trouble.append(f"7 * 7 is {count}")
            return
        before = self.last.get(what)
        told = self.told.pop(what, False)
        if before is not None:
            if process != before[0] and not told:
                self.trouble.append(f"{what} began anew (process {before[0]} -> {process}) and nobody said so")
            elif process == before[0] and count <= before[1]:
                self.trouble.append(f"{what} went back from {before[1]} to {count}")
        self.last[what] = process, count


def place_of(shard: shardwright.node.ShardStatus) -> Place:
    if shard.scope.startswith("key"):
        return str(shard.component), (shard.key or "").strip("'")
    return str(shard.component), shard.sessions[0] if shard.scope == "session" else ""


def told_of(state: Path, failures: list[Failure]) -> list[str]:
    """What the journal has of the shards that these failures name, and of the sessions that met them."""
    named = {failure.session for failure in failures}
    named |= {word.strip(":,.") for failure in failures for word in failure.why.split() if "-" in word}
    rows = [row for path in state.rglob("*.sqlite3") for row in _rows(path)]
    return [f"  {row}" for row in rows if named & {str(each) for each in row}]


def _rows(journal: Path) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(journal)) as database:
        return list(database.execute("SELECT sequence, wall_s, kind, component, shard, session, reason FROM decisions"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.slow
@pytest.mark.timeout(140 + KILLS)
@pytest.mark.parametrize("seed", [3])
def test_one_shard_killed_a_hundred_times_under_load(seed: int, tmp_path: Path, record_exercised: Record) -> None:
    chance = random.Random(seed)
    verdicts, stop = Verdicts(), threading.Event()
    with shardwright.start(LEDGER, state=tmp_path) as node:
        customers = [Customer(node, number, verdicts, stop, seed) for number in range(20)]
        for customer in customers:
            customer.start()
        try:
            end = time.monotonic() + 50 + KILLS
            while len(verdicts.kills) < KILLS and time.monotonic() < end:
                time.sleep(chance.uniform(0.01, 0.12))
                candidates = [
                    s for s in node.shards() if s.pid and s.status == "ready" and (s.sessions or s.scope == "shared")
                ]
                if not candidates:
                    continue
                victim = chance.choice(candidates)
                kill = Kill(place_of(victim), time.monotonic())
                try:
                    os.kill(victim.pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue  # the last one was not yet buried
                verdicts.killed(kill)
        finally:
            stop.set()
            for customer in customers:
                customer.join(60)
        hanging = [customer.name for customer in customers if customer.is_alive()]
        usable = node.session("afterwards")
        with usable:
            assert usable.call("sums.square", 5)[1] == 25
    trouble = [line for customer in customers for line in customer.trouble]
    record_exercised("shards killed under load", len(verdicts.kills))
    record_exercised("kills that hit calls in flight", verdicts.hits())
    record_exercised("calls while shards were killed", sum(customer.calls for customer in customers))
    record_exercised("calls that failed with ShardLost", len(verdicts.failures))
    assert not hanging
    assert not trouble, verdicts.story()
    assert len(verdicts.kills) == KILLS
    assert verdicts.hits() >= KILLS // 10, "the kills must hit calls, or this tests nothing"
    assert verdicts.unexplained() == [], "\n".join([verdicts.story(), *told_of(tmp_path, verdicts.unexplained())])
