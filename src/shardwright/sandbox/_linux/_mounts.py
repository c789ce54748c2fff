"""Where the control groups of this process are, by the mount table and /proc/self/cgroup."""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct

from shardwright.sandbox._linux._procfs import read_text


class Hierarchies(Struct, frozen=True):
    """Folders of the control groups that this process is in.

    ``controllers`` maps each version 1 controller to our own folder in its hierarchy, ``tops`` to the mount point above
    it; ``unified`` and ``unified_top`` are the same for version 2 ("" without).
    """

    controllers: Mapping[str, str]
    tops: Mapping[str, str]
    unified: str = ""
    unified_top: str = ""


def hierarchies(root: str, proc_root: str) -> Hierarchies:
    """Read the mounts at and beneath ``root``. Never raises; what cannot be read is not there."""
    own_paths: dict[str, str] = {}
    for line in (read_text(f"{proc_root}/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        for name in names.split(",") if names else [""]:
            own_paths["" if number == "0" else name] = path
    controllers: dict[str, str] = {}
    tops: dict[str, str] = {}
    unified = unified_top = ""
    for line in (read_text(f"{proc_root}/self/mountinfo") or "").splitlines():
        fields = line.split()
        if "-" not in fields:
            continue
        dash = fields.index("-")
        mounted_root, mount_point = _unescape(fields[3]), _unescape(fields[4])
        kind, super_options = fields[dash + 1], fields[-1].split(",")
        if mount_point != root and not mount_point.startswith(root.rstrip("/") + "/"):
            continue
        if kind == "cgroup2" and "" in own_paths:
            unified_top = mount_point
            unified = _own_folder(mount_point, mounted_root, own_paths[""])
        elif kind == "cgroup":
            for option in super_options:
                if option in own_paths and option:
                    controllers[option] = _own_folder(mount_point, mounted_root, own_paths[option])
                    tops[option] = mount_point
    return Hierarchies(controllers, tops, unified, unified_top)


def _own_folder(mount_point: str, mounted_root: str, own_path: str) -> str:
    """Our folder as seen through a mount that may show only a part of the hierarchy, as in containers."""
    if mounted_root != "/":
        inside = own_path == mounted_root or own_path.startswith(mounted_root + "/")
        own_path = own_path[len(mounted_root) :] if inside else "/"
    if own_path.startswith("/.."):  # we are outside of what this cgroup namespace shows
        own_path = "/"
    folder = mount_point + own_path.rstrip("/")
    return folder if os.path.isdir(folder) else mount_point


def _unescape(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
