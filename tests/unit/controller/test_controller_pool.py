"""Stories of the warm pool, stepping through time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from msgspec.structs import replace

from shardwright.controller import (
    ComponentPool,
    Evict,
    KeepMinimum,
    PooledShard,
    PoolPolicy,
    PoolState,
    Refill,
    backoff_s,
)
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import Component, Scale, UsageModel, Warm
from shardwright.model.scope import Scope, ScopeKind

POLICY: PoolPolicy = KeepMinimum()
ROOM = Resources(cpu=8.0)


def pool(
    name: str = "physics",
    kind: ScopeKind = ScopeKind.SESSION,
    *,
    warm: Warm = Warm(2, 4),  # noqa: B008
    scale: Scale = Scale(1, 3),  # noqa: B008
    cpu: float = 1.0,
    priority: int = 50,
    max_instances: int | None = None,
    exist: int | None = None,
    free: tuple[PooledShard, ...] = (),
) -> ComponentPool:
    limits = Limits(guarantee=Resources(cpu=cpu))
    component = Component(
        ComponentName(name), name, limits, Scope(kind), warm=warm, scale=scale,
        usage=UsageModel(priority=priority, max_instances=max_instances),
    )  # fmt: skip
    return ComponentPool(component, kind, limits, len(free) if exist is None else exist, free)


def shards(*idle_since_s: float, ready: bool = True) -> tuple[PooledShard, ...]:
    return tuple(PooledShard(ShardId(f"physics-{at:g}"), ready, at) for at in idle_since_s)


def counts(state: PoolState, now: float = 0.0) -> dict[str, int]:
    return {action.component: action.count for action in POLICY.decide(state, now) if isinstance(action, Refill)}


@pytest.mark.parametrize("kind", [ScopeKind.SESSION, ScopeKind.KEY, ScopeKind.REQUEST])
def test_an_empty_pool_is_filled_to_its_minimum_and_starting_shards_count(kind: ScopeKind) -> None:
    assert counts(PoolState((pool(kind=kind),), ROOM)) == {"physics": 2}
    assert counts(PoolState((pool(kind=kind, free=shards(1.0, ready=False)),), ROOM)) == {"physics": 1}
    assert counts(PoolState((pool(kind=kind, free=shards(1.0, 2.0, ready=False)),), ROOM)) == {}


def test_shards_that_serve_are_not_counted_as_free() -> None:
    assert counts(PoolState((pool(exist=5, free=shards(1.0)),), ROOM)) == {"physics": 1}


def test_shared_components_keep_their_least_number_of_instances() -> None:
    shared = pool("web", ScopeKind.SHARED, scale=Scale(2, 3), warm=Warm(5, 5))
    assert counts(PoolState((shared,), ROOM)) == {"web": 2}
    assert counts(PoolState((replace(shared, exist=1),), ROOM)) == {"web": 1}
    assert counts(PoolState((replace(shared, exist=2),), ROOM)) == {}


def test_above_the_maximum_the_longest_idle_go_and_the_ready_stay() -> None:
    crowded = pool(warm=Warm(0, 2), free=(*shards(5.0, 1.0, 9.0), *shards(7.0, ready=False)))
    actions = POLICY.decide(PoolState((crowded,), ROOM), 10.0)
    assert [action.shard for action in actions if isinstance(action, Evict)] == ["physics-1", "physics-7"]
    assert all(isinstance(action, Evict) and "warm.max is 2" in action.reason for action in actions)


def test_a_minimum_above_the_maximum_does_not_spin() -> None:
    odd = pool(warm=Warm(5, 1), free=shards(1.0))
    assert POLICY.decide(PoolState((odd,), ROOM), 0.0) == ()


def test_room_goes_to_the_important_first_and_is_never_exceeded() -> None:
    state = PoolState((pool("low", priority=10), pool("high", priority=90)), Resources(cpu=3.0))
    assert counts(state) == {"high": 2, "low": 1}
    assert counts(replace(state, left=Resources(cpu=0.5))) == {}


def test_restrictions_of_the_usage_model_bound_the_pool() -> None:
    assert counts(PoolState((pool(max_instances=3, exist=2),), ROOM)) == {"physics": 1}
    assert counts(PoolState((pool(max_instances=3, exist=3),), ROOM)) == {}


def test_while_requests_wait_nothing_is_taken_from_them() -> None:
    state = PoolState((pool(), pool("web", ScopeKind.SHARED)), ROOM, queued=1)
    assert POLICY.decide(state, 0.0) == ()
    assert counts(replace(state, queued=0)) == {"physics": 2, "web": 1}


def test_a_component_that_cannot_start_is_tried_ever_more_seldom() -> None:
    """Ten minutes in which every start fails at once, looked at ten times a second."""
    failing, tries = pool(warm=Warm(1, 1)), []
    for tick in range(6000):
        now = tick / 10
        if counts(PoolState((failing,), ROOM), now):
            tries.append(now)
            failing = replace(failing, failed_starts=failing.failed_starts + 1, failed_s=now)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert gaps[:5] == pytest.approx([1, 2, 4, 8, 16])
    assert set(gaps[5:]) == {30.0}
    assert len(tries) == 1 + 5 + 18


def test_one_that_fails_does_not_hold_up_the_others_and_success_forgets() -> None:
    failing = replace(pool("bad"), failed_starts=3, failed_s=10.0)
    state = PoolState((failing, pool("good")), ROOM)
    assert counts(state, 11.0) == {"good": 2}
    assert POLICY.next_s(state, 11.0) == 14.0
    assert counts(state, 14.0) == {"bad": 2, "good": 2}
    assert POLICY.next_s(PoolState((replace(failing, failed_starts=0),), ROOM), 11.0) is None
    assert counts(PoolState((replace(failing, failed_starts=0),), ROOM), 11.0) == {"bad": 2}


def test_backoff_is_bounded_for_ever() -> None:
    assert [backoff_s(n) for n in (0, 1, 2, 3, 6, 10_000)] == [0.0, 1.0, 2.0, 4.0, 30.0, 30.0]


def test_actions_carry_what_they_were_decided_from() -> None:
    (refill,) = POLICY.decide(PoolState((pool(),), ROOM), 0.0)
    assert refill.reason == "0 shards are free, warm.min is 2"
    assert dict(refill.inputs) == {"exist": 0, "free": 0, "failed_starts": 0}
