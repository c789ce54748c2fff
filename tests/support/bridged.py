"""Channels through two real bridges, each in a process of its own, for the conformance suite of transports.

``python bridged.py node|guest BYTES HAND`` (descriptors) is such a process; ``Crossing`` starts both over any stream of bytes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint
from shardwright.transport.bridge import BridgedTransport

_PATIENCE_S = 60.0
_current: list[Crossing] = []


class Crossing:
    """Two bridges over ``streams`` (what joins them, two descriptors; used up). A context manager."""

    def __init__(self, streams: tuple[int, int]) -> None:
        self._near, theirs = socket.socketpair()
        self._near.settimeout(_PATIENCE_S)
        hand, their_hand = socket.socketpair()
        hand.settimeout(_PATIENCE_S)
        self.processes: list[subprocess.Popen[bytes]] = []
        with theirs, hand, their_hand, ExitStack() as stack:
            for descriptor in streams:
                stack.callback(os.close, descriptor)
            for role, descriptor, other in (("node", streams[0], theirs), ("guest", streams[1], their_hand)):
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-P", __file__, role, str(descriptor), str(other.fileno())],
                        pass_fds=[descriptor, other.fileno()],
                        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                    )
                )
            their_hand.close()
            _, found, _, _ = socket.recv_fds(hand, 1, 1)
        self._far = socket.socket(fileno=found[0])
        self._far.settimeout(_PATIENCE_S)
        self._mutex = threading.Lock()

    def __enter__(self) -> Crossing:
        _current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.remove(self)
        self.close()

    def pass_over(self, descriptor: int) -> int:
        """What that descriptor is on the other side; it is used up."""
        with self._mutex:
            try:
                socket.send_fds(self._near, [b"+"], [descriptor])
            finally:
                os.close(descriptor)
            data, found, _, _ = socket.recv_fds(self._far, 1, 1)
            if not data or not found:
                raise ChannelClosed("the bridge is down")
            return found[0]

    def notices(self) -> bool:
        """Whether the node's side tells its local ends that the other side is gone; waits for that."""
        try:
            return self._near.recv(1) == b""
        except TimeoutError:
            return False

    def close(self) -> None:
        self._near.close()
        self._far.close()
        for process in self.processes:
            process.terminate()
            process.wait(_PATIENCE_S)


class Bridged(BridgedTransport):
    """Each pair has one end on each side of the crossing that is open."""

    most = 64 * 2**20

    def __init__(self) -> None:
        super().__init__("vsock", max_message_bytes=self.most)
        self.name = self.beneath  # under which name both sides open them

    def pair(self) -> tuple[Endpoint, Endpoint]:
        here, there = super().pair()
        try:
            return here, Endpoint(self.beneath, (_current[-1].pass_over(there.descriptors[0]),))
        except BaseException:
            self.dispose(here)
            raise


class BridgedSlowly(Bridged):
    """Where processors are emulated: what the suite waits for must come in time."""

    most = 16 * 2**20


def _serve(role: str, descriptor: int, hand: int) -> str:
    from shardwright.transport.bridge import Bridge

    if role == "node":
        return Bridge(descriptor, first=hand).run()

    def arrived(end: int) -> None:
        with socket.socket(fileno=hand) as told:
            socket.send_fds(told, [b"+"], [end])
        os.close(end)

    return Bridge(descriptor, arrived=arrived).run()


def main(argv: list[str]) -> None:
    print(f"{argv[1]}: {_serve(argv[1], int(argv[2]), int(argv[3]))}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv)
