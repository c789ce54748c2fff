"""Stories of sessions and their shards, stepping through time."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.composition import Abort, Granted, Launch, Need, Queued, Refused, Stop, needs_of
from shardwright.errors import InternalError
from shardwright.model.ids import ComponentName, SessionNumber, ShardId

Make = Any
StoryType = Any
WEB, STATE, WORLD, IMAGE = map(ComponentName, ("web", "state", "world", "image"))


@pytest.fixture
def arena(story: StoryType, make: Make) -> Any:
    """One of each scope; web and state call each other."""
    made = [make("web"), make("state", "session"), make("world", "key"), make("image", "request")]
    return story(8.0, made, ["web>state", "state>web", "state>world", "web>image", "image>web"])


# -- needs -----------------------------------------------------------------------------------------------------


def test_needs_are_the_closure_without_what_is_taken_per_call(arena: Any) -> None:
    assert needs_of(arena.plan, ["web"]) == (Need(WEB), Need(STATE))
    assert needs_of(arena.plan, ["web"], {"world": "north"}) == (Need(WEB), Need(STATE), Need(WORLD, "north"))
    assert needs_of(arena.plan, ["image"]) == (Need(WEB), Need(STATE)), "reached through a request-scoped one"
    assert needs_of(arena.plan, ["world"]) == ()
    with pytest.raises(KeyError):
        needs_of(arena.plan, ["nobody"])


# -- whole or not at all ---------------------------------------------------------------------------------------


def test_a_composition_is_whole_once_its_last_shard_has_started(arena: Any) -> None:
    granted = arena.compose(1, "web", keys={"world": "north"})
    assert isinstance(granted, Granted) and not granted.ready
    assert [launch.shard for launch in granted.launches] == ["web-1", "state-2", "world-3"]
    assert arena.started("web-1") == arena.started("world-3") == ()
    assert arena.started("state-2") == (1,)
    assert arena.started("state-2") == (), "said twice"
    again = arena.compose(1, "web")
    assert isinstance(again, Granted) and again.ready and not again.launches, "it holds all that already"


def test_every_decision_says_why_and_from_what(arena: Any) -> None:
    granted = arena.compose(1, "web")
    assert granted.reason == "0 leased, 2 launched"
    assert dict(granted.inputs) == {
        "needs": "web, state", "waited_s": 0.0, "queued": 0, "shards": 0,
        "capacity": "<Capacity cpu (cores) 0/8; 0 shards>",
    }  # fmt: skip
    assert granted.launches[0].reason == "no shard for web was free"
    assert dict(granted.launches[0].inputs)["request"] == 1


def test_too_much_for_now_waits_and_holds_nothing(story: StoryType, make: Make) -> None:
    tale = story(2.0, [make("state", "session")])
    tale.compose(1, "state"), tale.compose(2, "state")
    waits = tale.compose(3, "state")
    assert isinstance(waits, Queued) and waits.position == 1 and waits.effects == ()
    assert "1 too little" in waits.reason
    assert tale.holds(3) == [] and tale.composer.queued() == (3,)
    tale.all_started()
    assert tale.end(1) == ["Stop state-1"]
    assert tale.poll() == [], "its guarantee is reserved until it is gone"
    tale.gone("state-1")
    assert tale.poll() == ["granted 3"]


def test_too_much_for_ever_is_refused_at_once(story: StoryType, make: Make) -> None:
    tale = story(
        2.0, [make("big", "session", 2.5), make("none", max_instances=0), make("world", "key", max_instances=1)]
    )
    big = tale.compose(1, "big")
    assert isinstance(big, Refused) and "2.5 asked, 2 of 2 left" in big.reason and big.remedy
    assert "may have 0 shards" in tale.compose(1, "none").reason
    two = tale.take(1, Need(WORLD, "north"), Need(WORLD, "south"))
    assert isinstance(two, Refused) and "may have 1 shards" in two.reason
    assert tale.composer.shards() == () and tale.composer.sessions() == ()


def test_together_too_much_is_refused_although_each_would_fit(story: StoryType, make: Make, word: Any) -> None:
    tale = story(2.0, [make("a", "session", 1.5), make("b", "session", 1.5)], ["a>b"])
    assert word(tale.compose(1, "a")) == "refused 1"
    assert word(tale.compose(1, "b")) == "granted 2"


def test_deadlines(story: StoryType, make: Make, word: Any) -> None:
    tale = story(1.0, [make("state", "session")])
    assert word(tale.compose(9, "state", deadline_s=0.0)) == "refused 1"
    tale.compose(1, "state")
    tale.compose(2, "state", deadline_s=5.0)
    assert tale.composer.next_deadline_s() == 5.0
    tale.now = 4.9
    assert tale.poll() == []
    tale.now = 5.0
    (refused,) = tale.composer.poll(tale.now)
    assert isinstance(refused, Refused) and "deadline passed after 5 s in the queue" in refused.reason
    assert tale.composer.queued() == () and tale.composer.next_deadline_s() is None


# -- which shard -----------------------------------------------------------------------------------------------


def test_shared_instances_serve_evenly_and_grow_by_the_controllers_word_alone(story: StoryType, make: Make) -> None:
    tale = story(8.0, [make("web", scale=(1, 2))])
    tale.compose(1, "web"), tale.compose(2, "web")
    assert tale.shards() == {"web-1": "starting"}, "one serves all until told otherwise"
    tale.all_started()
    assert isinstance(tale.composer.launch(WEB, tale.now, "busy"), Launch)
    tale.compose(3, "web")
    assert tale.holds(3) == ["web-1"], "a ready instance before one that starts"
    tale.all_started()
    tale.compose(4, "web"), tale.compose(5, "web"), tale.compose(6, "web"), tale.compose(7, "web")
    assert [tale.holds(n)[0] for n in (4, 5, 6)] == ["web-2"] * 3
    refused = tale.composer.launch(WEB, tale.now, "busier")
    assert isinstance(refused, Refused) and "may have 2 shards" in refused.reason


def test_the_warm_pool_goes_first_and_its_most_recently_used(story: StoryType, make: Make) -> None:
    tale = story(8.0, [make("state", "session", reuse=True)])
    tale.compose(1, "state"), tale.compose(2, "state")
    tale.all_started()
    for tale.now, session in ((1.0, 2), (2.0, 1)):
        tale.end(session)
    assert tale.shards() == {"state-1": "free", "state-2": "free"}
    tale.composer.launch(STATE, tale.now, "warm.min")
    granted = tale.compose(3, "state")
    assert tale.holds(3) == ["state-1"] and granted.ready and not granted.launches


def test_a_used_shard_is_reused_only_if_permitted_and_wanted(story: StoryType, make: Make) -> None:
    made = [make("keep", "session", reuse=True, warm=(0, 1)), make("drop", "session")]
    tale = story(8.0, made)
    for session in (1, 2):
        tale.compose(session, "keep", "drop")
    tale.all_started()
    effects = tale.composer.end_session(SessionNumber(1), 1.0)
    assert [e.reason for e in effects if isinstance(e, Stop)] == [
        "its session has ended; a used shard may not be reused"
    ]
    assert tale.end(2) == ["Stop keep-3", "Stop drop-4"], "one free is all that the pool wants"
    assert tale.end(2) == [], "ended twice"


def test_sessions_are_multiplexed_up_to_the_slots(story: StoryType, make: Make) -> None:
    tale = story(8.0, [make("state", "session", sessions_per_shard=2, reuse=True)])
    for session in (1, 2, 3):
        tale.compose(session, "state")
    tale.all_started()
    assert [tale.holds(n) for n in (1, 2, 3)] == [["state-1"], ["state-1"], ["state-2"]]
    assert tale.end(1) == []
    tale.compose(4, "state"), tale.compose(5, "state")
    assert sorted([tale.holds(4)[0], tale.holds(5)[0]]) == ["state-1", "state-2"]


def test_without_reuse_a_slot_that_was_left_is_not_given_to_another(story: StoryType, make: Make) -> None:
    tale = story(8.0, [make("state", "session", sessions_per_shard=2)])
    tale.compose(1, "state"), tale.compose(2, "state")
    tale.all_started()
    tale.end(1)
    tale.compose(3, "state")
    assert tale.holds(3) == ["state-2"]
    assert tale.end(2) == ["Stop state-1"]


def test_a_key_has_one_shard_and_two_keys_have_two(arena: Any) -> None:
    for session, world in ((1, "north"), (2, "north"), (3, "south")):
        arena.acquire(session, "world", world)
    assert [arena.holds(n)[-1] for n in (1, 2, 3)] == ["world-1", "world-1", "world-2"]
    assert arena.composer.lease(SessionNumber(2), WORLD, "north") == "world-1"
    assert arena.composer.lease(SessionNumber(2), WORLD, "south") is None


def test_a_key_whose_shard_drains_is_served_by_nobody_else_until_it_is_gone(arena: Any, word: Any) -> None:
    arena.acquire(1, "world", "north")
    arena.all_started()
    assert arena.composer.drain(ShardId("world-1"), 1.0) == ()
    waits = arena.acquire(2, "world", "north")
    assert word(waits) == "queued 2" and "draining" in waits.reason
    assert arena.end(1) == ["Stop world-1"]
    assert arena.poll() == []
    arena.gone("world-1")
    assert arena.poll() == ["granted 2"]


def test_a_key_that_nobody_holds_is_kept_for_its_idle_time(story: StoryType, make: Make) -> None:
    tale = story(8.0, [make("world", "key", idle_timeout_s=10.0), make("bare", "key")])
    tale.acquire(1, "world", "north"), tale.acquire(1, "bare", "x")
    tale.all_started()
    assert tale.end(1) == ["Stop bare-2"]
    tale.now = 9.0
    assert tale.composer.expire(tale.now) == ()
    tale.acquire(2, "world", "north")
    assert tale.holds(2) == ["world-1"], "its state is still there"
    tale.end(2)
    tale.now = 18.9
    assert tale.composer.expire(tale.now) == ()
    (stop,) = tale.composer.expire(19.0)
    assert isinstance(stop, Stop) and "nobody held key 'north' for 10 s" in stop.reason


def test_a_request_has_a_shard_of_its_own_for_as_long_as_it_lasts(arena: Any) -> None:
    first, second = arena.acquire(1, "image"), arena.acquire(1, "image")
    assert (first.leases[-1].shard, second.leases[-1].shard) == ("image-3", "image-4")
    assert [lease.component for lease in second.leases] == ["web", "state", "image"]
    arena.all_started()
    (stop,) = arena.composer.release_request(ShardId("image-3"), 1.0)
    assert isinstance(stop, Stop) and stop.shard == "image-3"
    assert arena.composer.release_request(ShardId("image-3"), 1.0) == ()
    assert arena.composer.release_request(ShardId("web-1"), 1.0) == (), "not request-scoped"
    assert sorted(arena.end(1)) == ["Stop image-4", "Stop state-2"]


# -- what goes wrong ---------------------------------------------------------------------------------------------


def test_a_failed_start_aborts_the_whole_and_keeps_what_is_still_good(arena: Any) -> None:
    arena.compose(1, "web", keys={"world": "north"})
    arena.started("web-1", "state-2")
    effects = arena.composer.start_failed(ShardId("world-3"), "ImportError", 1.0)
    abort = effects[0]
    assert isinstance(abort, Abort) and abort.request == 1 and "ImportError" in abort.reason
    assert [type(e).__name__ for e in effects] == ["Abort", "ReturnToPool"]
    assert arena.composer.sessions() == ()
    assert arena.shards() == {"web-1": "ready", "state-2": "free"}, "never used, so no domain was entered"
    assert arena.composer.reserved().cpu == 2.0


def test_two_compositions_of_one_session_share_a_lease_and_only_the_broken_one_is_undone(arena: Any) -> None:
    arena.compose(1, "web")
    arena.acquire(1, "image")
    effects = arena.composer.start_failed(ShardId("image-3"), "no memory", 1.0)
    assert [e.request for e in effects if isinstance(e, Abort)] == [2]
    assert arena.holds(1) == ["web-1", "state-2"]
    assert arena.all_started() == (1,)


def test_a_shard_that_dies_while_others_of_the_composition_start_aborts_it_too(arena: Any) -> None:
    arena.compose(1, "web")
    arena.started("web-1")
    loss = arena.composer.exited(ShardId("web-1"), 1.0)
    assert [e.request for e in loss.effects if isinstance(e, Abort)] == [1]
    assert loss.sessions == (), "it was never theirs"


def test_a_dead_shard_is_said_to_whom_it_served_and_leased_anew_at_the_next_use(arena: Any) -> None:
    for session in (1, 2):
        arena.compose(session, "web", keys={"world": "north"})
    arena.all_started()
    loss = arena.composer.exited(ShardId("world-3"), 3.0, "killed by signal 9")
    assert (loss.sessions, loss.key, loss.expected, loss.reason) == ((1, 2), "north", False, "killed by signal 9")
    assert loss.shard.status == "ended" and loss.effects == ()
    assert arena.holds(1) == ["web-1", "state-2"]
    granted = arena.acquire(1, "world", "north")
    assert [launch.shard for launch in granted.launches] == ["world-5"]
    arena.end(1), arena.end(2)
    assert arena.composer.exited(ShardId("state-2"), 4.0).expected


def test_a_request_that_lost_its_shard_is_named(arena: Any) -> None:
    arena.acquire(1, "image")
    arena.all_started()
    loss = arena.composer.exited(ShardId("image-3"), 1.0)
    assert (loss.request, loss.sessions) == (1, (1,))
    assert arena.holds(1) == ["web-1", "state-2"]


# -- giving up ---------------------------------------------------------------------------------------------------


def test_cancelling(story: StoryType, make: Make) -> None:
    tale = story(1.0, [make("state", "session", reuse=True)])
    tale.compose(1, "state"), tale.compose(2, "state")
    assert tale.composer.cancel(2, 1.0) == () and tale.composer.queued() == ()
    assert [type(e).__name__ for e in tale.composer.cancel(1, 1.0)] == ["Abort", "ReturnToPool"]
    tale.compose(3, "state")
    tale.all_started()
    assert tale.composer.cancel(3, 1.0) == () and tale.holds(3) == ["state-1"], "whole: it is the session's"


def test_cancelling_a_request_that_was_just_granted_gives_its_own_shard_back(arena: Any) -> None:
    arena.acquire(1, "image")
    arena.all_started()
    (stop,) = arena.composer.cancel(1, 1.0)
    assert isinstance(stop, Stop) and stop.shard == "image-3"
    assert arena.holds(1) == ["web-1", "state-2"]


def test_views(arena: Any) -> None:
    arena.compose(1, "web", keys={"world": "north"})
    record = arena.composer.shard(ShardId("world-3"))
    assert record is not None and record.held and not record.spare and (record.key, record.sessions) == ("north", (1,))
    assert arena.composer.shard(ShardId("world-9")) is None
    assert repr(arena.composer) == "<Composer 3 shards, 1 sessions, 0 queued>"
    assert arena.composer.left().cpu == 5.0
    (session,) = arena.composer.sessions()
    assert [str(Need(lease.component, lease.key)) for lease in session.leases] == ["web", "state", "world[north]"]


def test_ending_a_session_answers_all_that_it_waits_for(story: StoryType, make: Make) -> None:
    tale = story(1.0, [make("state", "session"), make("image", "request")])
    tale.compose(1, "state"), tale.compose(2, "state"), tale.acquire(2, "image")
    assert tale.end(2) == ["Abort 2", "Abort 3"]
    assert tale.end(1) == ["Abort 1", "ReturnToPool state-1"]


def test_a_request_given_back_before_it_was_whole_is_aborted(arena: Any) -> None:
    arena.acquire(1, "image")
    effects = arena.composer.release_request(ShardId("image-3"), 1.0)
    assert [type(e).__name__ for e in effects] == ["Abort", "ReturnToPool", "ReturnToPool"]
    assert arena.composer.sessions() == ()


def test_a_silent_session_gives_its_own_shards_back_and_stays(story: StoryType, make: Make) -> None:
    tale = story(4.0, [make("web"), make("state", "session", idle_timeout_s=10.0)], ["web>state"])
    tale.compose(1, "web")
    tale.all_started()
    tale.composer.touch(SessionNumber(1), 5.0)
    assert tale.composer.expire(14.0) == ()
    effects = tale.composer.expire(15.0)
    assert [type(e).__name__ for e in effects] == ["Unbind", "Stop"]
    assert tale.holds(1) == ["web-1"]


def test_draining(arena: Any) -> None:
    arena.compose(1, "web")
    arena.composer.drain(ShardId("web-1"), 1.0)
    assert arena.shards()["web-1"] == "draining"
    assert arena.all_started() == () and arena.started("web-1") == (1,), "who waits for it still hears of it"
    assert "Stop web-1" in arena.end(1)
    assert arena.composer.drain(ShardId("web-1"), 1.0) == ()
    arena.composer.launch(IMAGE, 1.0, "warm.min")
    (stop,) = arena.composer.drain(ShardId("image-3"), 1.0)
    assert isinstance(stop, Stop)


def test_evicting_takes_only_what_nobody_holds(arena: Any) -> None:
    arena.compose(1, "web")
    assert arena.composer.evict(ShardId("web-1"), 1.0, "surplus") == ()
    arena.composer.launch(IMAGE, 1.0, "warm.min")
    (stop,) = arena.composer.evict(ShardId("image-3"), 1.0, "surplus")
    assert stop.reason == "surplus"
    assert arena.composer.evict(ShardId("image-3"), 1.0, "surplus") == ()


def test_misuse_is_an_internal_error(arena: Any) -> None:
    with pytest.raises(InternalError, match="no component 'nobody'"):
        arena.take(1, Need(ComponentName("nobody")))
    with pytest.raises(InternalError, match="scope key:world"):
        arena.take(1, Need(WORLD))
    with pytest.raises(InternalError, match="scope shared"):
        arena.take(1, Need(WEB, "north"))
    with pytest.raises(InternalError, match="not on the roster"):
        arena.composer.exited(ShardId("web-99"), 0.0)
    arena.compose(1, "web")
    with pytest.raises(InternalError, match="in progress already"):
        arena.composer.compose(4, SessionNumber(2), (Need(WEB),), 0.0)


def test_an_id_given_out_twice_is_found(story: StoryType, make: Make) -> None:
    tale = story(4.0, [make("state", "session")])
    tale.composer._new_id = lambda component: ShardId("same")
    tale.compose(1, "state")
    with pytest.raises(InternalError, match="given out twice"):
        tale.compose(2, "state")


def test_the_implicit_main_component_needs_no_section_in_the_manifest(story: StoryType, make: Make) -> None:
    tale = story(4.0, [make("main"), make("web")], ["main>web"])
    assert isinstance(tale.compose(1, "main"), Granted)
