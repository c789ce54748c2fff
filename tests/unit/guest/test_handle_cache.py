"""One handle per remote object, and not one reception lost, whichever threads receive it."""

from __future__ import annotations

import sys
import threading

from shardwright.guest import Handle
from shardwright.guest._handles import HandleCache
from shardwright.model.ids import ShardId

ROUNDS, THREADS = 300, 4


def test_threads_that_receive_the_same_object_get_the_same_handle() -> None:
    cache, shard = HandleCache(), ShardId("a-00000001")
    start = threading.Barrier(THREADS)
    found: list[list[Handle]] = [[] for _ in range(THREADS)]

    def receive(mine: list[Handle]) -> None:
        for number in range(ROUNDS):
            start.wait(20)
            mine.append(cache.get(Handle, shard, number))
            mine.append(cache.get(Handle, shard, number))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=receive, args=(mine,)) for mine in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(before)
    for handles in zip(*found, strict=True):
        assert len(set(map(id, handles))) == 1
    assert {handle._sw_received for handle in found[0]} == {2 * THREADS}
