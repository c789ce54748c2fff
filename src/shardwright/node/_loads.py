"""What shards say of their load, asked where their fate depends on it.

Calls go from shard to shard, and the node does not see them. So it asks before it gives back the shard of a session that
seems silent, and before a shard that served somebody serves somebody else. A shard that does not answer is not believed
to be anything for long: it must not hold its place by saying nothing.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping

from shardwright.contracts.clock import Clock
from shardwright.guest import Load
from shardwright.model.ids import ShardId
from shardwright.node._port import ShardPort

PATIENCE = 3.0  # timeouts of idleness for which a question may stay unanswered,
LEAST_PATIENCE_S = 1.0  # but at least so long
PROOF_S = 0.5  # within which a shard must say that nothing runs in it any more,
PROOF_PERIOD_S = 0.01  # being asked so often


class Loads:
    """Questions and answers. Use from the node's event loop alone."""

    def __init__(self, ports: Mapping[ShardId, ShardPort], clock: Clock) -> None:
        self._ports = ports
        self._clock = clock
        self._requests = itertools.count(1)
        self._questions: dict[ShardId, tuple[int, float]] = {}  # whether it is silent: request, and since when
        self._silent: set[ShardId] = set()  # said so just now
        self._proofs: dict[ShardId, tuple[int, asyncio.Future[bool]]] = {}

    def __repr__(self) -> str:
        return f"<Loads {len(self._questions)} asked, {len(self._proofs)} to be proved free>"

    # -- silence -----------------------------------------------------------------------------------------------

    def may_be_used(self, shard: ShardId, timeout_s: float) -> bool:
        """Whether a shard that seems idle since ``timeout_s`` is to be left alone, for it may be in use; asks it."""
        port = self._ports.get(shard)
        if port is None or shard in self._silent:
            return False
        now = self._clock.monotonic_s()
        question = self._questions.get(shard)
        if question is None:
            self._questions[shard] = (next(self._requests), now)
            port.ask_load(self._questions[shard][0])
            return True
        return now - question[1] < max(LEAST_PATIENCE_S, PATIENCE * timeout_s)

    def heard(self, shard: ShardId, load: Load) -> float | None:
        """For how many seconds it was idle, when that was the question; None otherwise."""
        idle_s = 0.0 if load.running > 0 else max(0.0, load.idle_s)
        proof = self._proofs.get(shard)
        if proof is not None and proof[0] == load.request:
            if load.running <= 0:
                self._prove(shard, True)
            else:  # a call counts until its answer is on its way: it may have ended just now
                asyncio.get_running_loop().call_later(PROOF_PERIOD_S, self._ask_again, shard, load.request)
        question = self._questions.get(shard)
        if question is None or question[0] != load.request:
            return None
        del self._questions[shard]
        return idle_s

    def silent(self, shard: ShardId) -> None:
        """It said that it is idle for long enough: believe it until ``decided``."""
        self._silent.add(shard)

    def decided(self, shard: ShardId) -> None:
        self._silent.discard(shard)

    # -- proof of being free -----------------------------------------------------------------------------------

    def begin_proof(self, shard: ShardId) -> asyncio.Future[bool] | None:
        """Ask a shard that served somebody whether it still does; None when it has not started yet."""
        self._questions.pop(shard, None)
        port = self._ports.get(shard)
        if port is None:
            return None
        loop = asyncio.get_running_loop()
        request, doubt = next(self._requests), self.proof(shard)
        proof = loop.create_future() if doubt is None else doubt  # of an older question just the newer answer counts
        self._proofs[shard] = (request, proof)
        loop.call_later(PROOF_S, self._too_late, shard, request)
        port.ask_load(request)
        return proof

    def proof(self, shard: ShardId) -> asyncio.Future[bool] | None:
        """Will be true when nothing runs in it; None when there is no doubt. To be waited for, not cancelled."""
        asked = self._proofs.get(shard)
        return None if asked is None else asked[1]

    def _ask_again(self, shard: ShardId, request: int) -> None:
        asked, port = self._proofs.get(shard), self._ports.get(shard)
        if asked is not None and asked[0] == request and port is not None:
            port.ask_load(request)

    def _too_late(self, shard: ShardId, request: int) -> None:
        asked = self._proofs.get(shard)
        if asked is not None and asked[0] == request:
            self._prove(shard, False)

    def _prove(self, shard: ShardId, free: bool) -> None:
        asked = self._proofs.pop(shard, None)
        if asked is not None and not asked[1].done():
            asked[1].set_result(free)

    def forget(self, shard: ShardId) -> None:
        """It is gone."""
        self._questions.pop(shard, None)
        self._prove(shard, False)
