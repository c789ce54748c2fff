"""What of the machine's files a sandbox sees: worked out by the parent, before anything is made.

The interpreter, its environment and the system's shared libraries always; what the caller names beyond that. Nothing else
exists inside, so that there is nothing to guess at.
"""

from __future__ import annotations

import os
import sys

from msgspec import Struct

from shardwright.contracts.sandbox import Sight
from shardwright.errors import SandboxError
from shardwright.sandbox.namespace._followed import above, changing_places, followed

_SYSTEM = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/usr/share/ca-certificates",
)
_SETTINGS = (
    *("ld.so.cache", "localtime", "timezone", "nsswitch.conf", "hosts", "host.conf", "passwd", "group", "ssl", "pki"),
    *("ca-certificates", "mime.types", "protocols", "services", "os-release", "gai.conf", "crypto-policies"),
)
_TOPOLOGY = ("/sys/devices/system/cpu",)  # libraries count cores there
DEVICES = ("null", "zero", "full", "random", "urandom")
SCRATCH = ("/tmp", "/dev/shm")  # made anew for each sandbox
_WHOLE = ("/usr", "/", "/usr/local")  # prefixes of an interpreter that would be far too much
_FORBIDDEN = ("/proc", "/sys/fs", "/dev", "/sys/kernel", "/boot")
_HOSTS = "/etc/hosts"


class Place(Struct, frozen=True):
    """A tree of the machine's that shows in the sandbox, at the same path."""

    path: str
    writable: bool = False
    owned: bool = False  # files of ours are the sandbox's own there; elsewhere what others may not read, it may not


class View(Struct, frozen=True):
    """Everything that a new root holds. ``places`` are sorted: what is beneath another comes after it."""

    places: tuple[Place, ...]
    links: tuple[tuple[str, str], ...]  # symbolic links on the way to them
    folders: tuple[str, ...]  # empty ones
    masked: tuple[str, ...]  # beneath places, and not to be seen
    devices: tuple[str, ...] = ()  # device files beyond DEVICES
    files: tuple[tuple[str, str], ...] = ()  # made for it: paths and texts

    def readable(self) -> tuple[str, ...]:
        return tuple(place.path for place in self.places if not place.writable)

    def writable(self) -> tuple[str, ...]:
        return tuple(place.path for place in self.places if place.writable)

    def owned(self) -> bool:
        """Whether files are to belong to the sandbox's own user anywhere."""
        return any(place.owned for place in self.places)

    def under_scratch(self) -> tuple[str, ...]:
        """Places that a fresh temporary folder would hide."""
        return tuple(place.path for place in self.places if place.path.startswith(tuple(f"{s}/" for s in SCRATCH)))


def view_of(sight: Sight, working_directory: str, arguments: tuple[str, ...]) -> View:
    """Raises SandboxError for what is not there, may never be shown, or lies behind a link that a shard may have made."""
    links: dict[str, str] = {}
    found: dict[str, bool] = {}
    for path in (*_interpreter(arguments), *_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *_TOPOLOGY):
        if os.path.exists(path):
            found.setdefault(followed(path, links, ()), False)
    owned: set[str] = set()
    changing = changing_places((*sight.write, *sight.changing))
    for path in sight.read:
        owned.add(real := _wanted(path, links, changing))
        found.setdefault(real, False)
    for path in sight.write:
        owned.add(real := _wanted(path, links, changing))
        found[real] = True
    if sight.network:
        for path in ("/etc/resolv.conf",):
            if os.path.exists(path):
                found.setdefault(followed(path, links, ()), False)
    places: list[Place] = []
    for path in sorted(found):
        over = above(path, (place.path for place in places))
        if over is None or (found[path] and not found[over]) or (path in owned and over not in owned):
            places.append(Place(path, found[path], path in owned))
    folders = tuple(
        path for path in (working_directory, *sight.folders) if above(path, (place.path for place in places)) is None
    )
    masked = []
    for path in sight.hidden:
        real = os.path.realpath(path)
        if real in found or not os.path.exists(real) or above(real, (place.path for place in places)) is None:
            continue
        masked.append(real)
    devices = tuple(dict.fromkeys(path for path in sight.devices if os.path.exists(path)))
    files: tuple[tuple[str, str], ...] = ()
    if sight.hosts:
        links = {path: target for path, target in links.items() if path != _HOSTS}
        places = [place for place in places if place.path not in (_HOSTS, os.path.realpath(_HOSTS))]
        lines = ("127.0.0.1 localhost", "::1 localhost", *(f"{address} {name}" for name, address in sight.hosts))
        files = ((_HOSTS, "".join(f"{line}\n" for line in lines)),)
    return View(tuple(places), tuple(sorted(links.items())), folders, tuple(sorted(masked)), devices, files)


def _interpreter(arguments: tuple[str, ...]) -> list[str]:
    """What Python needs here: its prefixes, its path, the program itself."""
    found = [sys.executable, *arguments[:1]]
    for prefix in {sys.base_prefix, sys.base_exec_prefix, sys.prefix, sys.exec_prefix}:
        found += [prefix] if prefix not in _WHOLE else [f"{prefix}/lib"]
    found += [path for path in sys.path if os.path.isabs(path)]
    return [path for path in found if os.path.isabs(path) and path not in _WHOLE]


def _wanted(path: str, links: dict[str, str], changing: tuple[str, ...]) -> str:
    real = followed(path, links, changing)
    if real == "/" or above(real, _FORBIDDEN) is not None:
        raise SandboxError(
            f"{path} may not be shown to a sandbox", remedy="name files and folders of the application's own"
        )
    if not os.path.exists(real):
        raise SandboxError(
            f"{path} does not exist, so that no sandbox can have it", remedy="make it, or take it out of files"
        )
    return real
