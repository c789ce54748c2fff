"""The pool by counted needs, as stories: what is asked for again soon is there, what is not goes, and bounds hold."""

from __future__ import annotations

import itertools
import json

import pytest
from msgspec.structs import replace

from shardwright.controller import ComponentPool, CountedNeeds, Evict, KeepMinimum, PooledShard, PoolState, Refill
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Cost, Warm
from shardwright.model.scope import Scope, ScopeKind

LIMITS = Limits(Resources(cpu=0.01, memory_bytes=64 * 2**20))


class Story:
    """One session-scoped component in virtual time; starts take ``start_s``, shards serve one session each."""

    def __init__(self, *, cost: Cost | None = None, warm: Warm | None = None, reuse: bool = False) -> None:
        name = ComponentName("game")
        self.component = Component(
            name, "game", scope=Scope(ScopeKind.SESSION), warm=warm or Warm(0, 16), reuse=reuse, limits=LIMITS
        )
        self.policy = CountedNeeds(cost or Cost())
        self.now = 0.0
        self.free: list[PooledShard] = []
        self.starting: list[float] = []
        self.met = {"warm": 0, "starting": 0, "cold": 0}
        self.launched = 0
        self.left = Resources(cpu=4.0, memory_bytes=8 * 2**30)
        self._ids = itertools.count()

    def tick(self, queued: int = 0) -> None:
        pool = ComponentPool(self.component, ScopeKind.SESSION, LIMITS, len(self.free), tuple(self.free))
        state = PoolState((pool,), self.left, queued)
        for action in self.policy.decide(state, self.now):
            if isinstance(action, Evict):
                self.free = [shard for shard in self.free if shard.id != action.shard]
            elif isinstance(action, Refill):
                for _ in range(action.count):
                    self.launched += 1
                    self.free.append(PooledShard(ShardId(f"game-{next(self._ids)}"), True, self.now))
                    self.policy.started(self.component, LIMITS, 0.02)

    def arrive(self, at: float) -> None:
        self.pass_until(at)
        source = "warm" if self.free else "cold"
        if self.free:
            self.free.pop()
        self.met[source] += 1
        self.policy.leased(self.component, LIMITS, source, self.now)
        self.tick()

    def pass_until(self, at: float) -> None:
        while self.now < at:
            self.now = min(at, self.now + 10.0)
            self.tick()


def test_regular_demand_finds_a_spare() -> None:
    story = Story()
    for number in range(40):
        story.arrive(number * 30.0)
    assert story.met["warm"] >= 37
    assert story.launched <= 40, "one hidden start for each, and none in vain"
    [cost] = story.policy.costs()
    assert cost.saved > cost.spent > 0
    assert cost.warm == story.met["warm"]


def test_what_nobody_asks_for_again_goes() -> None:
    story = Story()
    for number in range(10):
        story.arrive(number * 20.0)
    assert story.free
    story.pass_until(100_000.0)
    assert not story.free


def test_prewarming_is_off_where_it_does_not_pay() -> None:
    cheap = Story(cost=Cost(cold_start=1e-12))
    for number in range(40):
        cheap.arrive(number * 30.0)
    assert cheap.launched == 0


def test_bursts_find_as_many_as_they_need() -> None:
    story = Story()
    for burst in range(20):
        for number in range(4):
            story.arrive(burst * 60.0 + number * 0.001)
    assert story.met["warm"] >= 80 * 0.8


def test_bounds_of_the_manifest_and_the_room_hold() -> None:
    story = Story(warm=Warm(2, 3))
    story.tick()
    assert len(story.free) == 2, "the minimum is there before anybody asks"
    for burst in range(10):
        for number in range(8):
            story.arrive(burst * 60.0 + number * 0.001)
        assert len(story.free) <= 3
    story.pass_until(100_000.0)
    assert len(story.free) == 2
    full = Story()
    full.left = Resources(cpu=0.0, memory_bytes=0)
    for number in range(10):
        full.arrive(number * 10.0)
    assert full.launched == 0
    waiting = Story()
    for number in range(10):
        waiting.arrive(number * 10.0)
    waiting.free.clear()
    before = waiting.launched
    waiting.tick(queued=1)
    assert waiting.launched == before, "what others wait for is not taken"


@pytest.mark.parametrize("seed", range(5))
def test_it_never_keeps_fewer_than_the_minimum(seed: int) -> None:
    import random

    source = random.Random(seed)
    story = Story(warm=Warm(source.randint(0, 3), 4))
    at = 0.0
    for _ in range(100):
        at += source.expovariate(1 / source.choice((0.01, 5.0, 300.0)))
        story.arrive(at)
        pool = ComponentPool(story.component, ScopeKind.SESSION, LIMITS, len(story.free), tuple(story.free))
        minimum = KeepMinimum().decide(PoolState((pool,), story.left), story.now)
        assert not [action for action in minimum if isinstance(action, Refill)]


def test_free_of_charge_is_worth_keeping_for_ever() -> None:
    story = Story(cost=replace(Cost(), gib_hour=0.0))
    for number in range(5):
        story.arrive(number * 1000.0)
    story.pass_until(20_000.0)
    assert story.free


def test_what_was_learnt_outlives_the_node_and_absurd_files_do_not_matter() -> None:
    before = Story()
    for burst in range(30):
        for number in range(4):
            before.arrive(burst * 3600.0 + number * 0.001)
    kept = json.loads(json.dumps(before.policy.learnt()))
    after, fresh, fooled = Story(), Story(), Story()
    after.policy.take_up(kept)
    fooled.policy.take_up({"game": {"lain": [float("nan")] * 22, "sizes": "none"}, "other": 3})
    for story in (after, fresh, fooled):
        for number in range(2):
            story.arrive(number * 0.001)
    assert after.launched > fresh.launched, "it does not know that they come by fours"
    assert fooled.launched == fresh.launched
