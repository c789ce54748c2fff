"""Telling a supervisor how the node is: the protocol of ``sd_notify``, datagrams to the socket that it names.

Twenty lines of our own instead of a library: the protocol is stable and public, and what there is on PyPI has not been
touched for years or needs libsystemd's headers. Nothing here ever raises: a node serves its users, also when its
supervisor has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping

MOST_WAIT_S = 0.5


class Notifier:
    """Says READY, RELOADING, STOPPING, STATUS and WATCHDOG to whoever supervises us; says nothing to nobody."""

    def __init__(self, address: str = "", watchdog_s: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.watchdog_s = watchdog_s
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> Notifier:
        """What NOTIFY_SOCKET and WATCHDOG_USEC ask for. A watchdog for another process (WATCHDOG_PID) is not ours."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) < 2:
            return cls()
        watchdog_s = None
        with contextlib.suppress(ValueError):
            if environment.get("WATCHDOG_PID", str(pid)) == str(pid):
                watchdog_s = int(environment.get("WATCHDOG_USEC", "")) / 1e6
        return cls(address, watchdog_s if watchdog_s and watchdog_s > 0 else None)

    def __repr__(self) -> str:
        return f"<Notifier to {self._address or 'nobody'}>"

    def __bool__(self) -> bool:
        return bool(self._address)

    def ready(self, status: str = "") -> None:
        """It serves from now on (again, after ``reloading``)."""
        self._say(f"READY=1\nMAINPID={os.getpid()}", status)

    def reloading(self, status: str = "") -> None:
        """It makes itself anew, and will say ``ready``."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", status)

    def stopping(self, status: str = "") -> None:
        """It ends; the watchdog is fed until its event loop ends."""
        self._say("STOPPING=1", status)

    def status(self, status: str) -> None:
        """One line for people."""
        self._say("", status)

    def watch(self, healthy: Callable[[], bool]) -> None:
        """On the running event loop: say that it turns, twice in each period of the watchdog, while ``healthy``.

        A loop that is stuck says nothing, and so does a node that cannot go on: then the supervisor starts it again.
        """
        if self.watchdog_s is None:
            return
        if healthy():
            self._say("WATCHDOG=1", wait_s=0.0)
        self._timer = asyncio.get_running_loop().call_later(self.watchdog_s / 2, self.watch, healthy)

    def unwatch(self) -> None:
        """No more of that. On the event loop, or when it has ended."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _say(self, state: str, status: str = "", wait_s: float = MOST_WAIT_S) -> None:
        """A supervisor with a full queue is waited for, a little: but for the watchdog's, there is no next message."""
        if not self._address:
            return
        lines = [state] if state else []
        if status:
            lines.append(f"STATUS={' '.join(status.split())[:200]}")
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(wait_s)
            sock.sendto("\n".join(lines).encode(), self._address)
