"""Faults on purpose, for tests of applications and of Shardwright itself: seeded, so that a failing run can be run again.

``Faults`` harms the shards of a running node: ends, pauses and starves them. ``FaultyTransport`` wraps a transport, and delays,
drops or corrupts messages, or breaks channels, at points that have names.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, field

from shardwright.contracts.transport import Channel, Lane, Part, Transport
from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.sandbox import box_members

if TYPE_CHECKING:
    from shardwright.node import Node, ShardStatus

__all__ = ["Fault", "Faults", "FaultyTransport"]

Kind = Literal["delay", "drop", "corrupt", "break"]
LARGEST_DISK = 2 * 2**30  # bytes free: what has more is nobody's to fill for a test
_PIECE = b"\0" * 2**20


class Faults:
    """Harm to the shards of a running node, chosen by ``seed``. What is a context manager is undone at its end."""

    def __init__(self, node: Node, seed: int = 0) -> None:
        self._node = node
        self.chance = random.Random(seed)
        self.done: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Faults {dict(self.done)}>"

    def shards(self, component: str = "") -> list[ShardStatus]:
        """Those in processes of their own, of that component alone if one is named."""
        return [s for s in self._node.shards() if s.pid and s.pid != os.getpid() and component in ("", s.component)]

    def kill(self, component: str = "") -> ShardStatus | None:
        """End one of them by force, with all that it started; None where there is none."""
        found = self.shards(component)
        if not found:
            return None
        victim = self.chance.choice(found)
        for pid in box_members(victim.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.done["kill"] += 1
        return victim

    @contextlib.contextmanager
    def paused(self, target: str) -> Iterator[tuple[str, ...]]:
        """That shard, or those of that component, stand still."""
        stopped = self._node.pause(target)
        self.done["pause"] += 1
        try:
            yield stopped
        finally:
            self._node.unpause(target)

    @contextlib.contextmanager
    def short_of_memory(self, target: str, spare_bytes: int = 4 * 2**20) -> Iterator[int]:
        """The ceiling of one shard, by its id, is what it takes now and so much more. Yields the ceiling."""
        (status,) = [s for s in self._node.shards() if s.id == target]
        assert status.usage is not None, f"{target} tells nothing of its use"
        ceiling = status.usage.memory_bytes + spare_bytes
        guarantee = min(status.guarantee_memory_bytes or 0, ceiling)
        self._node.resize(target, guarantee={"memory": guarantee}, ceiling={"memory": ceiling})
        self.done["memory"] += 1
        try:
            yield ceiling
        finally:
            if any(s.id == target for s in self._node.shards()):
                before = status.ceiling_memory_bytes or 2**40
                self._node.resize(
                    target, guarantee={"memory": status.guarantee_memory_bytes or 0}, ceiling={"memory": before}
                )

    @contextlib.contextmanager
    def full_disk(self, folder: Path) -> Iterator[Path]:
        """Nothing more fits where ``folder`` lies. Raises ValueError where more than 2 GiB are free."""
        free = os.statvfs(folder)
        if free.f_bavail * free.f_frsize > LARGEST_DISK:
            raise ValueError(f"{folder} has more than {LARGEST_DISK} bytes free: mount a small file system there")
        filler = folder / f".full-{self.chance.getrandbits(32):08x}"
        descriptor = os.open(filler, os.O_CREAT | os.O_WRONLY | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with contextlib.suppress(OSError):
                while os.write(descriptor, _PIECE):
                    pass
            with contextlib.suppress(OSError):
                while os.write(descriptor, b"\0"):
                    pass
            self.done["disk"] += 1
            yield filler
        finally:
            os.close(descriptor)
            filler.unlink()


class Fault(Struct, frozen=True):
    """What befalls messages, with which probability. ``point``: "send" or "receive". ``delay_s`` is the longest delay."""

    kind: Kind
    probability: float
    point: Literal["send", "receive"] = "send"
    delay_s: float = 0.01


class _Dice(Struct):
    faults: Sequence[Fault]
    chances: dict[str, random.Random]  # by point: who sends does not wait for who receives
    done: Counter[str]
    mutex: threading.Lock = field(default_factory=threading.Lock)

    def throw(self, point: str) -> list[tuple[Fault, float]]:
        with self.mutex:
            chance = self.chances[point]
            struck = [
                (fault, chance.random())
                for fault in self.faults
                if fault.point == point and chance.random() < fault.probability
            ]
            for fault, _ in struck:
                self.done[f"{fault.kind} at {point}"] += 1
            return struck


class FaultyTransport(Transport):
    """Another transport with faults, chosen by ``seed``; ``done`` counts those that struck, by kind and point."""

    def __init__(self, inner: Transport, faults: Sequence[Fault], seed: int = 0) -> None:
        self.inner = inner
        self.name = inner.name
        self.done: Counter[str] = Counter()
        self._dice = _Dice(
            faults, {point: random.Random(f"{seed} {point}") for point in ("send", "receive")}, self.done
        )

    def __repr__(self) -> str:
        return f"<FaultyTransport {self.inner!r} {dict(self.done)}>"

    def pair(self) -> tuple[Endpoint, Endpoint]:
        return self.inner.pair()

    def open(self, endpoint: Endpoint) -> Channel:
        return _FaultyChannel(self.inner.open(endpoint), self._dice)

    def dispose(self, endpoint: Endpoint) -> None:
        self.inner.dispose(endpoint)


class _FaultyChannel(Channel):
    def __init__(self, inner: Channel, dice: _Dice) -> None:
        self._inner = inner
        self._dice = dice

    def send(
        self, parts: Sequence[Part], *, deadline_ns: int = 0, before_waiting: Callable[[], None] | None = None
    ) -> None:
        message = self._befallen("send", b"".join(parts))
        if message is not None:
            self._inner.send([message], deadline_ns=deadline_ns, before_waiting=before_waiting)

    def receive(self, *, timeout_s: float | None = None) -> memoryview | None:
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self._inner.receive(timeout_s=timeout_s if end_s is None else max(0.0, end_s - time.monotonic()))
            if message is None:
                return None
            if (kept := self._befallen("receive", bytes(message))) is not None:
                return memoryview(bytearray(kept))

    def _befallen(self, point: str, message: bytes) -> bytes | None:
        """What becomes of it; None when it is lost. Raises ChannelClosed when the channel broke."""
        for fault, drawn in self._dice.throw(point):
            if fault.kind == "delay":
                time.sleep(fault.delay_s * drawn)
            elif fault.kind == "drop":
                return None
            elif fault.kind == "corrupt" and message:
                where = int(drawn * len(message))
                message = message[:where] + bytes([message[where] ^ 0x55]) + message[where + 1 :]
            elif fault.kind == "break":
                self._inner.close()
                raise ChannelClosed("broken on purpose")
        return message

    def fileno(self) -> int:
        return self._inner.fileno()

    def close(self) -> None:
        self._inner.close()

    @property
    def lane(self) -> Lane | None:
        return None  # what travels beside would not be befallen

    @property
    def buffered(self) -> bool:
        return self._inner.buffered

    @property
    def closed(self) -> bool:
        return self._inner.closed
