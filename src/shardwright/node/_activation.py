"""Sockets that a supervisor opened for us: LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES, as systemd hands them over.

With them the gateway's address answers from before the node starts, and while the node is restarted: the kernel holds
new connections until somebody accepts.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from shardwright.errors import NodeError

FIRST = 3  # SD_LISTEN_FDS_START
MOST = 64
_REMEDY = "give this service one TCP socket in its .socket unit (ListenStream=), or none"


def inherited_sockets(environment: Mapping[str, str], pid: int) -> tuple[tuple[str, socket.socket], ...]:
    """Listening stream sockets with their names, the caller's to close; none when none are meant for this process.

    Raises NodeError where what is handed over is no such socket; then nothing was taken.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return ()
    try:
        count = int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        raise NodeError(f"LISTEN_FDS is {environment.get('LISTEN_FDS')!r}, and should be a number") from None
    if not 0 <= count <= MOST:
        raise NodeError(f"LISTEN_FDS is {count}, and should be from 0 to {MOST}")
    names = environment.get("LISTEN_FDNAMES", "").split(":") if environment.get("LISTEN_FDNAMES") else []
    for descriptor in range(FIRST, FIRST + count):
        _check(descriptor)
    found = []
    for index, descriptor in enumerate(range(FIRST, FIRST + count)):
        os.set_inheritable(descriptor, False)  # nobody else's: not the keeper's by inheritance, and no shard's
        found.append((names[index] if index < len(names) else "", socket.socket(fileno=descriptor)))
    return tuple(found)


def _check(descriptor: int) -> None:
    """Raises NodeError."""
    try:
        copy = socket.socket(fileno=os.dup(descriptor))
    except OSError as error:
        raise NodeError(
            f"descriptor {descriptor}, of those handed over, is no socket: {error}", remedy=_REMEDY
        ) from None
    with copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6):
            raise NodeError(f"descriptor {descriptor}, of those handed over, is no socket of TCP", remedy=_REMEDY)
        if copy.type != socket.SOCK_STREAM or not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise NodeError(
                f"descriptor {descriptor}, of those handed over, does not listen for streams", remedy=_REMEDY
            )
