"""How many shards one shard may have made for its calls, where the manifest sets no ``max_instances``.

A shard is the user's code, and may be hostile: each call to a component of request scope takes a process, each new key
one that stays.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Literal

from shardwright.errors import Overloaded
from shardwright.model.ids import ComponentName, ShardId

MOST_IN_USE = 64  # of request scope, by one shard and of one component; further requests wait for their turn
MOST_KEPT = 1024  # keyed shards that one shard brought to life and that still live
PATIENCE_S = 10.0

_Account = tuple[ShardId, ComponentName]


class MadeFor:
    """Counts, by caller and component. Use from the node's loop.

    ``bounded`` says whether the manifest bounds the component's shards itself, which then holds instead.
    """

    def __init__(self, bounded: Callable[[ComponentName], bool], patience_s: float = PATIENCE_S) -> None:
        self._bounded = bounded
        self._patience_s = patience_s
        self._counts: Counter[_Account] = Counter()
        self._accounts: dict[ShardId, _Account] = {}
        self._waiting: dict[_Account, deque[asyncio.Future[None]]] = {}

    def __repr__(self) -> str:
        return f"<MadeFor {len(self._accounts)} shards>"

    async def take(self, caller: ShardId, component: ComponentName, kind: Literal["request", "key"]) -> None:
        """Count one more, which ``made`` or ``not_made`` must follow. Raises Overloaded when there are too many."""
        account = (caller, component)
        most = MOST_IN_USE if kind == "request" else MOST_KEPT
        if self._counts[account] < most or self._bounded(component):
            self._counts[account] += 1
            return
        if kind == "request" and await self._turn(account):
            return  # it took over the place of one that was given back
        what = "in use" if kind == "request" else "made for its keys"
        raise Overloaded(
            f"{caller} has {most} shards of {component} {what}, the most without a bound in the manifest",
            remedy=f"set usage = {{ max_instances = ... }} of [components.{component}]",
        )

    def made(self, shard: ShardId, caller: ShardId, component: ComponentName) -> None:
        """The shard that it was about. One that was made meanwhile for somebody else is theirs."""
        if shard in self._accounts:
            self._less((caller, component))
        else:
            self._accounts[shard] = (caller, component)

    def not_made(self, caller: ShardId, component: ComponentName) -> None:
        self._less((caller, component))

    def done(self, shard: ShardId) -> None:
        """It was given back, or has ended. Idempotent."""
        account = self._accounts.pop(shard, None)
        if account is not None:
            self._less(account)

    async def _turn(self, account: _Account) -> bool:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(account, deque())
        queue.append(future)
        try:
            await asyncio.wait({future}, timeout=self._patience_s)
        except BaseException:
            if future.done():
                self._less(account)
            raise
        finally:
            if not future.done():
                queue.remove(future)
            if not queue and self._waiting.get(account) is queue:
                del self._waiting[account]
        return future.done()

    def _less(self, account: _Account) -> None:
        queue = self._waiting.get(account)
        if queue:
            queue.popleft().set_result(None)
            return
        self._counts[account] -= 1
        if not self._counts[account]:
            del self._counts[account]
