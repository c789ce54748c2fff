"""Links to shards whose messages go through shared memory: the same as those over sockets, but for how bytes travel.

The loop is woken by a descriptor when a shard sends and nothing was being done here; while a turn runs, shards just leave their
messages, and each turn ends with a look. What a ring has no room for is kept, and tried again a millisecond later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from shardwright.contracts.transport import Part
from shardwright.errors import ChannelClosed, MessageTooLarge
from shardwright.gateway._hub import FULL_BYTES, MAX_MESSAGE_BYTES, LoopHub, LoopLink
from shardwright.gateway._turns import look_in_turns
from shardwright.guest import RingsOfLoop
from shardwright.model.endpoint import Peer

_AGAIN_S = 0.001
_AT_ONCE = 64
_MOST_TURNS = 64  # of a shard that sends faster than we read: then others get a turn


class LoopRings:
    """All rings of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_message_bytes: int) -> None:
        """Raises ChannelClosed when the system refuses memory or descriptors."""
        self._loop = loop
        self._rings = RingsOfLoop(max_message_bytes)
        self.open = self._rings.open
        loop.add_reader(self._rings.fileno(), self.read)
        look_in_turns(loop, self.read)

    def __repr__(self) -> str:
        return f"<LoopRings {self._rings!r}>"

    def read(self) -> bool:
        """Hand over what is here. Whether anything was."""
        take = self._rings.take
        for turn in range(_MOST_TURNS):
            taken = take(_AT_ONCE)
            if not taken:
                return turn > 0
            for link, message in taken:
                link.arrives(message)
        self._loop.call_soon(self.read)
        return True

    def close(self) -> None:
        self._loop.remove_reader(self._rings.fileno())
        look_in_turns(self._loop, None)
        self._rings.close()


class RingLink(LoopLink):
    """One conversation in which this side calls. Takes the descriptor over. Use from its loop alone."""

    def __init__(self, hub: LoopHub, rings: LoopRings, descriptor: int, peer: Peer) -> None:
        """Raises ChannelClosed."""
        self._waiting: deque[tuple[Sequence[Part], int]] = deque()  # messages that are to be sent, and their sizes
        self._begun = -1  # of the first of them, which is larger than the ring: so many bytes are sent
        self._ring = rings.open(descriptor, self)
        self._trying: asyncio.TimerHandle | None = None
        self._enter(hub, peer)

    def _shut(self) -> None:
        self._ring.close()
        self._waiting.clear()
        if self._trying is not None:
            self._trying.cancel()

    def arrives(self, message: bytes | memoryview | ChannelClosed) -> None:
        """From the ring: a message, or the end."""
        if self.closed is not None:
            return
        if isinstance(message, ChannelClosed):
            self.end(message)
        else:
            self._frame(message)

    # -- sending -----------------------------------------------------------------------------------------------

    def _transmit(self, parts: Sequence[Part]) -> None:
        size = sum(map(len, parts))
        if size > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(
                f"a message of {size} bytes; a link carries at most {MAX_MESSAGE_BYTES}", outcome="not started"
            )
        if not self._waiting:
            self._hub.at_end(self._send_gathered)
        self._waiting.append((parts, size))
        self._unsent_bytes += size

    def _send_gathered(self) -> bool:
        if self._trying is None:
            self._push()
        return bool(self._writers) and self._unsent_bytes <= FULL_BYTES

    def _push(self) -> None:
        self._trying = None
        waiting, ring = self._waiting, self._ring
        try:
            while waiting:
                parts, size = waiting[0]
                if self._begun < 0 and not ring.fits(size):
                    waiting[0] = ((b"".join(parts),), size)
                    ring.begin(size)
                    self._begun = 0
                if self._begun >= 0:
                    self._begun += ring.push_more(waiting[0][0][0], self._begun)
                    if self._begun < size:
                        break
                    self._begun = -1
                    ring.finish()
                elif not ring.push(parts):
                    break
                waiting.popleft()
                self._unsent_bytes -= size
        except ChannelClosed as gone:
            # what the peer sent before it went may still be here; the reader finds the end after it
            waiting.clear()
            self._unsent_bytes = 0
            self._hub.loop.call_soon(self.end, gone)
        if waiting:
            self._trying = self._hub.loop.call_later(_AGAIN_S, self._push)
        if self._writers and self._unsent_bytes <= FULL_BYTES:
            self._wake()
