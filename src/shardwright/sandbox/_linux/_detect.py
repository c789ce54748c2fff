"""Which control groups this machine, and this user, permit. Found out by trying."""

from __future__ import annotations

from shardwright.sandbox._linux._cgroup import ControlGroups, NoCgroups, owner_name
from shardwright.sandbox._linux._cgroup_v1 import CgroupV1
from shardwright.sandbox._linux._cgroup_v2 import CgroupV2
from shardwright.sandbox._linux._mounts import hierarchies


def detect(root: str = "/sys/fs/cgroup", proc_root: str = "/proc", owner: str = "") -> ControlGroups:
    """The control groups to use, with our own empty folder made; NoCgroups with the reason where none may be.

    Version 1 wherever it holds cpu, memory or pids (a hybrid mount too, whose version 2 part has none of them), else
    version 2. ``close()`` removes the folder. Never raises.
    """
    owner = owner or owner_name()
    found = hierarchies(root, proc_root)
    remedy = ""
    if {"cpu", "memory", "pids"} & found.controllers.keys():
        groups: CgroupV1 | CgroupV2 | str = CgroupV1.prepare(found.controllers, found.tops, owner)
        remedy = CgroupV1.remedy
    elif found.unified:
        groups = CgroupV2.prepare(found.unified, found.unified_top, owner)
        remedy = CgroupV2.remedy
    else:
        groups = f"no control groups are mounted at {root}"
    return NoCgroups(groups, remedy, owner) if isinstance(groups, str) else groups
