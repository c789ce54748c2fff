"""Objects behind handles: they live while somebody holds them, and no longer than their session."""

from __future__ import annotations

import pytest

from shardwright.errors import HandleExpired
from shardwright.guest._objects import FLOATING, Objects
from shardwright.model.ids import NO_SESSION, SessionNumber

ANN, BEN = 11, 12  # links
ONE, TWO = SessionNumber(1), SessionNumber(2)


class Thing:
    pass


def test_an_object_has_one_id_and_each_export_counts() -> None:
    objects, thing = Objects(), Thing()
    name = objects.export(thing, ANN, ONE)
    assert objects.export(thing, ANN, ONE) == name == objects.export(thing, BEN, ONE)
    assert objects.get(name) is thing
    objects.release(name, ANN, 1)
    objects.release(name, BEN, 1)
    assert objects.get(name) is thing  # one more of Ann's
    objects.release(name, ANN, 1)
    with pytest.raises(HandleExpired):
        objects.get(name)
    assert len(objects) == 0


def test_ids_are_never_the_same_again() -> None:
    objects, thing = Objects(), Thing()
    names = set()
    for _ in range(50):
        name = objects.export(thing, ANN, ONE)
        names.add(name)
        objects.release(name, ANN, 1)
    assert len(names) == 50


def test_a_handle_that_was_passed_on_floats_until_its_new_holder_gives_it_back() -> None:
    objects, thing = Objects(), Thing()
    name = objects.export(thing, ANN, ONE)
    objects.add(name, FLOATING, 1)  # Ann passes it on to Ben
    objects.release(name, ANN, 1)
    assert objects.get(name) is thing
    objects.release(name, BEN, 1)
    assert len(objects) == 0


def test_nobody_gives_back_what_another_holds() -> None:
    objects, thing = Objects(), Thing()
    name = objects.export(thing, ANN, ONE)
    objects.release(name, BEN, 1000)
    assert objects.get(name) is thing
    objects.release(name, ANN, 0)
    objects.release(name + 2, ANN, 1)
    objects.add(name + 2, BEN, 1)
    objects.add(name, BEN, 0)
    assert objects.get(name) is thing


def test_a_holder_that_is_gone_gives_up_what_it_held() -> None:
    objects, thing, other = Objects(), Thing(), Thing()
    shared, alone = objects.export(thing, ANN, ONE), objects.export(other, ANN, ONE)
    objects.export(thing, BEN, ONE)
    objects.holder_gone(ANN)
    assert objects.get(shared) is thing
    with pytest.raises(HandleExpired):
        objects.get(alone)
    objects.holder_gone(BEN)
    assert len(objects) == 0


def test_the_end_of_a_session_ends_its_objects_whoever_holds_them() -> None:
    objects, mine, yours, nobodys = Objects(), Thing(), Thing(), Thing()
    first, second = objects.export(mine, ANN, ONE), objects.export(yours, ANN, TWO)
    third = objects.export(nobodys, ANN, NO_SESSION)
    objects.session_ended(NO_SESSION)
    objects.session_ended(ONE)
    with pytest.raises(HandleExpired):
        objects.get(first)
    assert objects.get(second) is yours and objects.get(third) is nobodys


def test_what_is_dropped_is_the_callers_to_let_go() -> None:
    class Loud:
        def __del__(self) -> None:
            gone.append(1)

    gone: list[int] = []
    objects = Objects()
    first, second = objects.export(Loud(), ANN, ONE), objects.export(Loud(), BEN, TWO)
    objects.export(Loud(), ANN, TWO)
    dropped = objects.release(first, ANN, 1)
    assert len(dropped) == 1 and not gone and objects.release(first, ANN, 1) == []
    dropped += objects.holder_gone(BEN) + objects.session_ended(TWO)
    assert len(dropped) == 3 and not gone and len(objects) == 0 and second
    for held in dropped:
        held.value = None
    assert gone == [1, 1, 1]
