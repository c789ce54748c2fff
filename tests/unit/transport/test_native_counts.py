"""The codec's extension gives back as many references to None as it takes, by whichever Python it was built."""

from __future__ import annotations

import gc
import sys

import pytest

from shardwright.transport import TaggedCodec
from shardwright.transport.codec._extension import native

CALLS = 2_000


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="references to None are not counted any more")
def test_none_is_neither_lost_nor_kept() -> None:
    assert native is not None
    codec = TaggedCodec()
    payload, buffers, _ = codec.encode_request((7, ([1, 2],), None))

    def call() -> None:
        value, memo = codec.decode_request(payload, buffers)
        value[1][0].append(1)  # what has changed is told by methods that return None
        codec.encode_reply(5, memo)

    def count() -> int:
        gc.collect()
        sys._clear_type_cache()  # its empty places hold None
        return sys.getrefcount(None)

    call()
    before = count()
    for _ in range(CALLS):
        call()
    assert abs(count() - before) < CALLS // 10
