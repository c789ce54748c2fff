"""Stories of the queue: who makes room, who overtakes, who would wait for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shardwright.composition import Composer, Queued, Refused
from shardwright.composition._queue import Waiting
from shardwright.errors import InternalError
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.scope import ScopeKind

Make = Any
StoryType = Any


def test_idle_shards_are_stopped_to_make_room_the_longest_idle_first(story: StoryType, make: Make, word: Any) -> None:
    tale = story(3.0, [make("a", "session", reuse=True), make("b", "session", 1.5)])
    for tale.now in (0.0, 1.0, 2.0):
        tale.composer.launch(ComponentName("a"), tale.now, "warm.min")
    waits = tale.compose(1, "b")
    assert word(waits) == "queued 1 Stop a-1 Stop a-2"
    assert word(tale.compose(2, "a")) == "granted 2", "what is left of the pool serves on"
    assert tale.poll() == [], "room is coming, no more is stopped"
    tale.gone("a-1", "a-2")
    assert tale.poll() == ["granted 1"]


def test_only_as_many_are_stopped_as_help(story: StoryType, make: Make, word: Any) -> None:
    tale = story(3.0, [make("small", "session", 0.5), make("large", "session", 2.5), make("new", "session", 2.0)])
    tale.composer.launch(ComponentName("small"), 0.0, "warm.min")
    tale.composer.launch(ComponentName("large"), 1.0, "warm.min")
    assert word(tale.compose(1, "new")) == "queued 1 Stop large-2"


def test_an_idle_key_makes_room_for_another_where_instances_are_restricted(
    story: StoryType, make: Make, word: Any
) -> None:
    tale = story(8.0, [make("world", "key", max_instances=1, idle_timeout_s=60.0)])
    tale.acquire(1, "world", "north")
    tale.all_started()
    tale.end(1)
    assert word(tale.acquire(2, "world", "south")) == "queued 2 Stop world-1"
    tale.gone("world-1")
    assert tale.poll() == ["granted 2"]


def test_the_pool_goes_before_idle_shared_instances(story: StoryType, make: Make, word: Any) -> None:
    tale = story(2.0, [make("web"), make("a", "session"), make("b", "session")])
    tale.composer.launch(ComponentName("web"), 0.0, "scale.min")
    tale.composer.launch(ComponentName("a"), 1.0, "warm.min")
    assert word(tale.compose(1, "b")) == "queued 1 Stop a-2"


def test_two_sessions_that_hold_what_the_other_waits_for(story: StoryType, make: Make, word: Any) -> None:
    tale = story(8.0, [make("red", "key", max_instances=1), make("blue", "key", max_instances=1)])
    tale.acquire(1, "red", "x"), tale.acquire(2, "blue", "x")
    tale.all_started()
    assert word(tale.acquire(1, "blue", "y")) == "queued 3"
    refused = tale.acquire(2, "red", "y")
    assert isinstance(refused, Refused) and "for ever" in refused.reason and refused.remedy
    assert tale.end(2) == ["Stop blue-2"]
    tale.gone("blue-2")
    assert tale.poll() == ["granted 3"]


def test_three_in_a_ring_over_capacity_alone(story: StoryType, make: Make, word: Any) -> None:
    tale = story(3.0, [make("state", "session"), make("image", "request")])
    for session in (1, 2, 3):
        tale.compose(session, "state")
    tale.all_started()
    assert [word(tale.acquire(n, "image")) for n in (1, 2)] == ["queued 4", "queued 5"]
    assert word(tale.acquire(3, "image")) == "refused 6", "the last of them to wait"
    tale.end(3)
    tale.gone("state-3")
    assert tale.poll() == ["granted 4"]


def test_a_session_that_waits_for_what_it_holds_itself(story: StoryType, make: Make) -> None:
    tale = story(2.0, [make("world", "key", max_instances=1)])
    tale.acquire(1, "world", "north")
    refused = tale.acquire(1, "world", "south")
    assert isinstance(refused, Refused) and "never" in refused.reason


def test_a_session_that_blocks_its_own_queued_request_later_is_found_by_poll(
    story: StoryType, make: Make, word: Any
) -> None:
    tale = story(2.0, [make("big", "session", 2.0), make("small", "session", 1.0), make("other", "session", 1.0)])
    tale.compose(1, "small")
    assert word(tale.compose(2, "big")) == "queued 2"
    assert word(tale.compose(2, "other")) == "granted 3", "it overtakes its own, and now stands in its way"
    (refused,) = tale.composer.poll(0.0)
    assert isinstance(refused, Refused) and "beside what its session holds" in refused.reason


def test_a_big_one_is_overtaken_so_often_and_no_more(story: StoryType, make: Make, word: Any) -> None:
    tale = story(3.0, [make("big", "session", 3.0), make("small", "session")], patience=2)
    tale.compose(1, "small")
    assert word(tale.compose(2, "big")) == "queued 2"
    assert [word(tale.compose(n, "small")) for n in (3, 4)] == ["granted 3", "granted 4"]
    tale.all_started()
    tale.end(3)
    tale.gone("small-2")
    blocked = tale.compose(5, "small")
    assert isinstance(blocked, Queued) and blocked.reason == "request 2 is older and was overtaken 2 times"
    tale.end(1), tale.end(4)
    tale.gone("small-1", "small-3")
    assert tale.poll() == ["granted 2"]
    tale.all_started()
    tale.end(2)
    tale.gone("big-4")
    assert tale.poll() == ["granted 5"]


def test_who_only_joins_what_others_hold_passes_a_blocking_one(story: StoryType, make: Make, word: Any) -> None:
    made = [make("web"), make("big", "session", 3.0), make("giant", "session", 4.0)]
    tale = story(4.0, made, patience=0)
    tale.compose(1, "web"), tale.compose(2, "big")
    assert word(tale.compose(3, "big")) == "queued 3"
    assert word(tale.compose(4, "web")) == "granted 4", "the big one fits beside web: nothing is taken from it"
    assert word(tale.compose(5, "giant")) == "queued 5"
    assert word(tale.compose(6, "web")) == "queued 6", "the giant needs web's room, which this would prolong"


def test_one_that_only_waits_its_turn_holds_up_nobody_for_itself(story: StoryType, make: Make, word: Any) -> None:
    """Found by random events: 3 waits for its turn behind 2, which waits for session 2, which must not wait for 3."""
    tale = story(8.0, [make("a"), make("b")], patience=0)
    tale.compose(2, "b")
    tale.composer.drain(ShardId("b-1"), 0.0)
    assert word(tale.acquire(1, "b")) == "queued 2"
    assert word(tale.acquire(1, "a")) == "queued 3"
    assert word(tale.compose(2, "a")) == "granted 4"


def test_sessions_that_have_begun_go_before_those_that_have_not(story: StoryType, make: Make, word: Any) -> None:
    tale = story(2.0, [make("state", "session"), make("image", "request")])
    tale.compose(1, "state"), tale.compose(2, "state")
    tale.all_started()
    assert word(tale.compose(3, "state")) == "queued 3"
    assert word(tale.acquire(1, "image")) == "queued 4"
    tale.end(2)
    tale.gone("state-2")
    assert tale.poll() == ["granted 4"]


# -- the check itself --------------------------------------------------------------------------------------------


def _lose_reservation(composer: Composer) -> None:
    composer._roster.capacity.release(ShardId("web-1"))


def _stop_while_held(composer: Composer) -> None:
    composer._roster.shards[ShardId("web-1")].stopping = True


def _leased_and_free(composer: Composer) -> None:
    entry = composer._roster.shards[ShardId("web-1")]
    composer._roster.unheld[entry.spec.name][entry.id] = entry


def _two_in_one(composer: Composer) -> None:
    roster = composer._roster
    first, second = roster.sessions[1], roster.sessions[2]  # type: ignore[index]
    (need,) = [need for need in first.holds if roster.specs[need.component].kind is ScopeKind.SESSION]
    roster.unhold(roster.shards[second.holds[need].shard], second.number, 0.0)
    second.holds[need] = first.holds[need]
    roster.hold(roster.shards[first.holds[need].shard], second.number, need, None)


def _ghost(composer: Composer) -> None:
    roster = composer._roster
    entry = roster.shards[ShardId("web-1")]
    entry.sessions.clear()
    roster.unheld[entry.spec.name][entry.id] = entry
    roster.remove(entry)


def _second_owner(composer: Composer) -> None:
    composer._roster.by_key.clear()


def _one_sided(composer: Composer) -> None:
    composer._roster.shards[ShardId("web-1")].sessions.discard(1)  # type: ignore[arg-type]


def _reused(composer: Composer) -> None:
    composer._roster.shards[ShardId("state-2")].history |= {"session 8", "session 9"}


def _free_again(composer: Composer) -> None:
    launch = composer.launch(ComponentName("state"), 0.0, "warm.min")
    composer._roster.shards[launch.shard].used = True  # type: ignore[union-attr]


def _queued_and_granted(composer: Composer) -> None:
    composer._queue.append(Waiting(1, SessionNumber(1), (), 0.0, None))


def _half(composer: Composer) -> None:
    session = composer._roster.sessions[SessionNumber(1)]
    (need,) = [need for need in session.holds if need.component == "state"]
    entry = composer._roster.shards[session.holds.pop(need).shard]
    composer._roster.unhold(entry, session.number, 0.0)


def _too_many(composer: Composer) -> None:
    spec = composer._roster.specs[ComponentName("web")]
    composer._roster.add(type(composer._roster.shards[ShardId("web-1")])(ShardId("web-9"), spec, 0.0))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_lose_reservation, "has no reservation"),
        (_stop_while_held, "is being stopped while"),
        (_leased_and_free, "leased and free"),
        (_two_in_one, "serves 2 sessions, 1 permitted"),
        (_ghost, "which is gone"),
        (_second_owner, "not its only owner"),
        (_one_sided, "in truth"),
        (_reused, "1 permitted without reuse"),
        (_free_again, "may not be reused, and is free"),
        (_queued_and_granted, "queued and granted"),
        (_half, "which its session does not hold"),
        (_too_many, "has 2 shards, 1 are permitted"),
    ],
)
def test_check_finds_damage(story: StoryType, make: Make, damage: Callable[[Composer], None], says: str) -> None:
    tale = story(8.0, [make("web"), make("state", "session"), make("world", "key")], ["web>state", "web>world"])
    for session in (1, 2):
        tale.compose(session, "web", keys={"world": "north"})
    damage(tale.composer)
    with pytest.raises(InternalError, match=says):
        tale.composer.check()
