"""Secrets are taken out as they are, as Python and JSON spell them, and line by line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.model.ids import ComponentName
from shardwright.node._mask import LEAST, Mask

KEY = "p\"l\\a'nted\nsecond line\tä"


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"the key is {KEY}!",
        repr(KEY),
        json.dumps({"k": KEY}),
        json.dumps(KEY, ensure_ascii=False),
        *KEY.splitlines(),
    ],
)
def test_every_spelling_is_found(text: str) -> None:
    shown = Mask([KEY]).text(text)
    assert "nted" not in shown and "second" not in shown and "[secret]" in shown


def test_a_longer_secret_that_contains_a_shorter_one_goes_whole() -> None:
    mask = Mask(["abcde", "abcdefgh", "xabcdefgh"])
    assert mask.text("abcdefgh xabcdefgh abcde") == "[secret] [secret] [secret]"


def test_short_values_are_ordinary_words() -> None:
    assert Mask(["on", "true", "", "\n"]).text("on and true") == "on and true"
    assert repr(Mask(["on"])) == "<Mask, nothing to hide>"


def test_it_never_shows_what_it_hides() -> None:
    mask = Mask.of({ComponentName("web"): {"KEY": "hunter22"}})
    assert "hunter22" not in repr(mask) and mask.value(7) == 7 and mask.value("hunter22") == "[secret]"


@given(
    st.text(min_size=LEAST, alphabet=st.characters(exclude_categories=["Cs", "Zs", "Cc", "Zl", "Zp"])),
    st.text(),
    st.text(),
)
def test_no_value_survives(secret: str, before: str, after: str) -> None:
    shown = Mask([secret]).text(before + secret + after)
    assert secret not in shown.replace("[secret]", "\0") or secret in "[secret]"
