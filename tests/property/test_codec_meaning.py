"""Cut ≡ uncut for the tagged codec: values, aliases and cycles round-trip, and what a callee does to its copies happens
to the caller's own objects, as if it had been handed those."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_forms import codec_form
from codec_values import ATOM_VALUES, CODEC, KEYS, Entity, build, graph, mutate, objects_of, recipes

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")


@settings(deadline=None)
@given(ATOM_VALUES | KEYS)
def test_values_keep_their_type_and_meaning(value: Any) -> None:
    payload, buffers, _ = CODEC.encode_request(value)
    copy, _ = CODEC.decode_request(payload, buffers)
    assert type(copy) is type(value)
    assert graph(copy) == graph(value)


@settings(deadline=None)
@given(recipes())
def test_graphs_keep_their_aliases_and_cycles(recipe: list[Any]) -> None:
    value = build(recipe)
    payload, buffers, memo = CODEC.encode_request(value)
    copy, copied = CODEC.decode_request(payload, buffers)
    assert graph(copy) == graph(value)
    assert len(memo.objects) == len(copied.objects)
    ours = {id(thing) for thing in objects_of(value) if not isinstance(thing, tuple | frozenset)}
    assert not ours & set(map(id, objects_of(copy))), "a copy shares something mutable with the original"


@settings(deadline=None, max_examples=300)
@given(recipes(), st.integers(0, 2**32), st.integers(0, 8))
def test_a_callee_changes_the_callers_own_objects(recipe: list[Any], seed: int, steps: int) -> None:
    uncut = build(recipe)
    uncut_result = mutate(uncut, seed, steps)

    cut = build(recipe)
    payload, buffers, memo = CODEC.encode_request(cut)
    arguments, callee = CODEC.decode_request(payload, buffers)
    remote_result = mutate(arguments, seed, steps)
    payload, buffers = CODEC.encode_reply(remote_result, callee)
    cut_result = CODEC.decode_reply(payload, buffers, memo)

    assert graph([cut, cut_result]) == graph([uncut, uncut_result])


@settings(deadline=None)
@given(recipes(), st.integers(0, 2**32), st.integers(0, 6))
def test_changes_travel_with_an_exception_too(recipe: list[Any], seed: int, steps: int) -> None:
    uncut = build(recipe)
    uncut_error = ValueError("no", mutate(uncut, seed, steps))

    cut = build(recipe)
    payload, buffers, memo = CODEC.encode_request(cut)
    arguments, callee = CODEC.decode_request(payload, buffers)
    payload, buffers = CODEC.encode_error(ValueError("no", mutate(arguments, seed, steps)), callee)
    cut_error = CODEC.decode_error(payload, buffers, memo)

    assert type(cut_error) is ValueError
    assert graph([cut, cut_error.args]) == graph([uncut, uncut_error.args])


@settings(deadline=None, max_examples=30)
@given(recipes())
def test_an_unchanged_request_sends_nothing_back(recipe: list[Any]) -> None:
    payload, buffers, memo = CODEC.encode_request(build(recipe))
    _, callee = CODEC.decode_request(payload, buffers)
    reply, parts = CODEC.encode_reply(None, callee)
    assert (reply, parts) == (b"\0\0", ())
    assert CODEC.decode_reply(reply, parts, memo) is None


def test_a_key_that_what_it_holds_leads_back_to() -> None:
    """Its element must be complete before a hash, and holds a dict whose key it is: that one is written first."""
    first, second = Entity("1"), Entity("2")
    key = (second, 1)
    first.links.append({key: 0})
    second.links.append({key: 0})
    value = (first, second, frozenset({first}))
    payload, buffers, _ = CODEC.encode_request(value)
    assert graph(CODEC.decode_request(payload, buffers)[0]) == graph(value)
