"""Checks of a transport against peers in other processes: they answer, they end, they are killed at any point."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shardwright.contracts.transport import Channel, Transport
from shardwright.errors import ChannelClosed
from shardwright.testing import _transport_nursery as nursery

_NOTICE_S = 1.0  # a peer's death must be known by then
_PATIENCE_S = 20.0


class _Nursery:
    """A process of one thread that forks peers, and kills them, when told: 2 ms each where a start takes 50."""

    def __init__(self, factory: Callable[[], Transport]) -> None:
        module, name = factory.__module__, getattr(factory, "__qualname__", "<nameless>")
        if "<" in name or module == "__main__":
            raise ValueError(f"{factory!r} must be importable by name, for peers in other processes import it")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_PATIENCE_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", nursery.__name__, str(theirs.fileno()), f"{module}:{name}"],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def _ask(self, order: bytes, descriptors: tuple[int, ...] = ()) -> int:
        socket.send_fds(self._control, [order], descriptors)
        answer = self._control.recv(64)
        assert answer, "the nursery of peers ended"
        return int(answer)

    def start(self, transport: Transport, behaviour: str, seed: int, counter: int) -> tuple[Channel, int]:
        """A new peer that behaves so at the other end: the channel to it, and its process id."""
        here, there = transport.pair()
        try:
            order = f"{behaviour} {seed}".encode()
            process_id = self._ask(order, (counter, *there.descriptors))
        except BaseException:
            transport.dispose(here)
            raise
        finally:
            transport.dispose(there)
        return transport.open(here), process_id

    def kill(self, process_id: int) -> None:
        """SIGKILL one peer and reap it: on return it is gone."""
        self._ask(f"kill {process_id}".encode())

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(_PATIENCE_S)
        finally:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()


@contextlib.contextmanager
def _peers(factory: Callable[[], Transport]) -> Iterator[tuple[_Nursery, int, mmap.mmap]]:
    """A nursery, and a page shared with every peer in which it counts the messages that it sent in full."""
    descriptor = os.memfd_create("sent", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        with (
            mmap.mmap(descriptor, mmap.PAGESIZE) as counter,
            contextlib.closing(_Nursery(factory)) as peers,
        ):
            yield peers, descriptor, counter
    finally:
        os.close(descriptor)


def check_peer_in_another_process(factory: Callable[[], Transport], transport: Transport) -> None:
    """Echo of all sizes through another process, which then sees us close and ends."""
    source = random.Random(5)
    with _peers(factory) as (peers, descriptor, counter):
        channel, process_id = peers.start(transport, "echo", 0, descriptor)
        with contextlib.closing(channel):
            for size in (0, 1, 64, 5000, 65536, 2**20, 2**23, 7):
                message = source.randbytes(size)
                channel.send([message])
                echo = channel.receive(timeout_s=_PATIENCE_S)
                assert echo is not None and bytes(echo) == message, f"an echo of {size} bytes came back changed"
        peers.kill(process_id)
        counted = struct.unpack_from("<Q", counter)[0]
        assert counted in (7, 8), f"8 echoes came, of which the peer counted {counted}"  # it counts behind the send


def check_peer_deaths(factory: Callable[[], Transport], transport: Transport, *, deaths: int, seed: int = 7) -> None:
    """Kill a streaming peer at random points: all it sent in full arrives, in order, once; then ChannelClosed."""
    source = random.Random(seed)
    with _peers(factory) as (peers, descriptor, counter):
        for death in range(deaths):
            struct.pack_into("<Q", counter, 0, 0)
            before = len(list(Path("/proc/self/fd").iterdir()))
            channel, process_id = peers.start(transport, "stream", source.getrandbits(32), descriptor)
            with contextlib.closing(channel):
                received = 0
                for _ in range(source.choice((0, 0, 1, 3, 10, 40, 100))):
                    _check_numbered(channel.receive(timeout_s=_PATIENCE_S), received)
                    received += 1
                peers.kill(process_id)
                try:
                    while True:
                        start = time.monotonic()
                        message = channel.receive(timeout_s=_PATIENCE_S)
                        _check_numbered(message, received)
                        received += 1
                except ChannelClosed:
                    waited_s = time.monotonic() - start
                (sent,) = struct.unpack_from("<Q", counter)
                where = f"death {death} of seed {seed}"
                assert waited_s < _NOTICE_S, f"{where}: the peer's death was noticed after {waited_s:.2f} s"
                assert sent <= received <= sent + 1, f"{where}: {sent} messages were sent in full, {received} arrived"
            after = len(list(Path("/proc/self/fd").iterdir()))
            assert after == before, f"{where}: a dead peer leaves descriptors behind"


def _check_numbered(message: memoryview | None, number: int) -> None:
    assert message is not None, "a living peer's message did not arrive, or its death was not noticed"
    got = int.from_bytes(message[:8], "little")
    assert got == number, f"message {got} arrived where {number} was due"
    assert bytes(message[8:]) == bytes([number % 251]) * (len(message) - 8), f"message {number} arrived damaged"
