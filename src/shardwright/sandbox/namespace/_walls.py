"""Whether a forked shard really stands behind walls: looked at from outside, before anybody speaks to it.

A template ran user code, so that its word about its forks is worth nothing; the kernel's is.
"""

from __future__ import annotations

import os

from shardwright.sandbox._linux._procfs import read_text

_OF_ITS_OWN = ("pid", "mnt", "ipc", "uts", "cgroup")
_NO_POWERS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
_FILTERS = 2  # its template's, and the one that takes away what its template may


def walls_trouble(pid: int, template: int, *, own_network: bool = True) -> str:
    """What is wrong with the fork ``pid`` of the process ``template``; empty when its walls stand."""
    own = os.getpid()
    try:
        for name in (*_OF_ITS_OWN, *(("net",) if own_network else ())):
            there = os.readlink(f"/proc/{pid}/ns/{name}")
            if there in (os.readlink(f"/proc/{template}/ns/{name}"), os.readlink(f"/proc/{own}/ns/{name}")):
                return f"it shares the {name} namespace"
        user = os.readlink(f"/proc/{pid}/ns/user")
        if user != os.readlink(f"/proc/{template}/ns/user") or user == os.readlink(f"/proc/{own}/ns/user"):
            return "it is not in its template's user namespace"
    except OSError as error:
        return f"its namespaces cannot be looked at: {error.strerror}"
    found = dict(line.split(":", 1) for line in (read_text(f"/proc/{pid}/status") or "").splitlines() if ":" in line)
    powers = [name for name in _NO_POWERS if int(found.get(name, "1"), 16)]
    if powers:
        return f"it holds capabilities ({', '.join(powers)})"
    if found.get("NoNewPrivs", "").strip() != "1":
        return "it may gain privileges"
    if found.get("Seccomp", "").strip() != "2" or int(found.get("Seccomp_filters", str(_FILTERS))) < _FILTERS:
        return "its system calls are not filtered"
    return ""
