"""What is said when something cannot be: it names the cause and a way that there is."""

from __future__ import annotations

import pytest

from shardwright.contracts.sandbox import Exit
from shardwright.errors import MessageTooLarge
from shardwright.model.ids import ComponentName
from shardwright.node._launcher import remedy_of
from shardwright.transport import TaggedCodec
from shardwright.transport.codec._wire import CodecLimits

A = ComponentName("a")


def test_why_an_import_ended_decides_what_to_do() -> None:
    assert "raise memory in limits of [components.a]" in remedy_of(A, Exit(-9, out_of_memory=True))
    assert "a signal" in remedy_of(A, Exit(-11))
    assert remedy_of(A, Exit(3)) == remedy_of(A, None) == "its import must not end the process"


@pytest.mark.parametrize("limits", [CodecLimits(max_bytes=100), CodecLimits(max_items=10)])
def test_a_message_too_large_is_told_no_key_that_the_manifest_lacks(limits: CodecLimits) -> None:
    with pytest.raises(MessageTooLarge) as told:
        TaggedCodec(limits=limits).encode_request([["x"] * 3] * 100)
    assert "limit" not in told.value.remedy and "less at once" in told.value.remedy
