"""Noticing what the walls refuse, so that the manifest can be told what it lacks.

An audit hook looks at what Python is about to open or connect to, and tells the node once of each thing that cannot succeed.
It decides nothing: the walls do. The node knows whether that thing exists outside; nobody in here is told.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Callable
from typing import Any

from shardwright.guest._wanted_walls import Walls

MOST = 64  # things told of by one process
_SKIPPED = ("/proc/", "/sys/", "/dev/")
_READS = frozenset({"os.listdir", "os.scandir", "os.chdir"})
_WRITES = frozenset(
    {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.utime"}
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class Denials:
    """What was told so far, and to whom. ``tell`` may be changed: a fork has another control socket than its template."""

    def __init__(self, walls: Walls, tell: Callable[[str], None]) -> None:
        self._walls = walls
        self.tell = tell
        self._told: set[str] = set()
        self._busy = False

    def install(self) -> None:
        """For good: hooks cannot be taken away."""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            self._look(arguments[0], bool(arguments[2] & _WRITING) if isinstance(arguments[2], int) else False)
        elif event in _READS:
            self._look(arguments[0] if arguments else ".", False)
        elif event in _WRITES:
            self._look(arguments[0], True)
        elif event == "sqlite3.connect":
            if arguments[0] != ":memory:":
                self._look(arguments[0], True)
        elif event == "socket.connect":
            self._connecting(arguments[1])
        elif event == "socket.getaddrinfo":
            self._resolving(arguments[0], arguments[1])

    def _look(self, path: object, writing: bool) -> None:
        if self._busy or not isinstance(path, (str, bytes, os.PathLike)):
            return
        self._busy = True
        try:
            name = os.path.abspath(os.fsdecode(path))
            if name.startswith(_SKIPPED) or "\0" in name:
                return
            if writing:
                refused = not os.access(name if os.path.lexists(name) else os.path.dirname(name), os.W_OK)
            else:
                refused = not os.access(name, os.R_OK)
            if refused:
                self._once(f"{'write' if writing else 'read'} {name}")
        except (OSError, ValueError):
            pass
        finally:
            self._busy = False

    def _connecting(self, address: object) -> None:
        if isinstance(address, tuple) and len(address) >= 2 and isinstance(address[0], str):
            self._place(address[0], address[1])

    def _resolving(self, host: object, port: object) -> None:
        if isinstance(host, bytes):
            host = host.decode("ascii", "replace")
        if isinstance(host, str) and host not in ("", "localhost") and port is not None:
            self._place(host, port)

    def _place(self, host: str, port: object) -> None:
        try:
            if ipaddress.ip_address(host.partition("%")[0]).is_loopback and not self._walls.ports:
                return
        except ValueError:
            pass  # a name
        if not self._walls.ports or (isinstance(port, int) and port not in self._walls.ports):
            self._once(f"connect {host}:{port}")

    def _once(self, what: str) -> None:
        if what not in self._told and len(self._told) < MOST:
            self._told.add(what)
            try:
                self.tell(what)
            except Exception:  # the node is gone: what the program was about to do matters more
                return
