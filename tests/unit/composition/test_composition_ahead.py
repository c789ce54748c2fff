"""What a session would be granted now, looked at and not decided; and free shards that are preferred."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.composition import Granted, Need, Queued
from shardwright.model.ids import ComponentName, SessionNumber, ShardId

BASE, STATE = ComponentName("base"), ComponentName("state")
NEEDS = (Need(BASE), Need(STATE))


@pytest.fixture
def pool(story: Any, make: Any) -> Any:
    """A shared component, and one with a shard for each session, of which two are warm."""
    found = story(4.0, [make("base"), make("state", "session")], ["state>base"])
    for component in (BASE, STATE, STATE):
        found.composer.launch(component, found.now, "warm")
    return found


def at_hand(pool: Any) -> dict[str, str] | None:
    found = pool.composer.at_hand(NEEDS)
    pool.composer.check()
    return None if found is None else {str(need.component): str(shard) for need, shard in found}


def test_what_is_at_hand_is_ready_and_nobodys(pool: Any) -> None:
    assert at_hand(pool) is None, "they start still"
    pool.all_started()
    first = at_hand(pool)
    assert first is not None and set(first) == {"base", "state"} and at_hand(pool) == first, "nothing was decided"
    granted = pool.compose(1, "state")
    assert isinstance(granted, Granted) and {str(lease.shard) for lease in granted.leases} == set(first.values())
    second = at_hand(pool)
    assert second is not None and second["base"] == first["base"] and second["state"] != first["state"]
    pool.compose(2, "state")
    assert at_hand(pool) is None, "one would have to be launched"


def test_nothing_is_at_hand_while_somebody_waits(story: Any, make: Any) -> None:
    full = story(2.0, [make("base"), make("state", "session")])
    full.composer.launch(STATE, 0.0, "warm")
    full.all_started()
    full.compose(1, "base", "state")
    full.all_started()
    assert isinstance(full.compose(2, "base", "state"), Queued)
    assert full.composer.at_hand((Need(BASE),)) is None


def test_free_shards_that_are_preferred_come_first(pool: Any) -> None:
    pool.all_started()
    usual = at_hand(pool)
    assert usual is not None
    (other,) = {str(s.id) for s in pool.composer.shards() if s.component == STATE} - {usual["state"]}
    granted = pool.composer.compose(
        77, SessionNumber(7), NEEDS, pool.now, None, frozenset({ShardId(other), ShardId("gone-9")})
    )
    pool.composer.check()
    assert isinstance(granted, Granted) and other in {str(lease.shard) for lease in granted.leases}
    assert pool.composer.held_by(SessionNumber(7)) == tuple(lease.shard for lease in granted.leases)
    assert pool.composer.held_by(SessionNumber(8)) == ()


def test_a_session_that_has_what_it_asks_for_was_heard_of(story: Any, make: Any) -> None:
    pool = story(4.0, [make("base"), make("state", "session", idle_timeout_s=10.0)], ["state>base"])
    pool.compose(1, "state")
    has = pool.composer.has
    assert has(SessionNumber(1), STATE, None, 0.0) is None, "they start still"
    pool.all_started()
    assert has(SessionNumber(1), STATE, None, 5.0) == pool.holds(1)[-1]
    assert has(SessionNumber(1), BASE, None, 8.0) == pool.holds(1)[0] and has(SessionNumber(2), BASE, None, 8.0) is None
    assert pool.composer.expire(17.0) == (), "nine seconds of silence"
    assert len(pool.composer.expire(18.0)) == 2 and has(SessionNumber(1), STATE, None, 18.0) is None
