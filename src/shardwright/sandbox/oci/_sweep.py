"""What OCI runtimes leave in hierarchies of control groups that are not ours: removed with a container, and after a crash."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from shardwright.sandbox._linux._cgroup import remove_folders, stale_folders
from shardwright.sandbox._linux._mounts import hierarchies

CGROUPS = "/sys/fs/cgroup"
_SWEEP_S = 2.0


def sweep_containers() -> tuple[str, ...]:
    """Remove what runtimes made for dead keepers beside the control groups that all backends share; what it was."""
    tops = sorted(set(hierarchies(CGROUPS, "/proc").tops.values()))
    return tuple(folder for top in tops for folder in stale_folders(top, "", ()) if remove_folders([folder], _SWEEP_S))


def remove_beside(control_groups: Iterable[str]) -> None:
    """What a runtime made for a container that is in these control groups of ours."""
    tops = set(hierarchies(CGROUPS, "/proc").tops.values())
    for folder in {os.path.join(*path.rsplit("/", 2)[-2:]) for path in control_groups}:
        for path in (f"{top}/{inner}" for top in tops for inner in (folder, os.path.dirname(folder))):
            with contextlib.suppress(OSError):  # gone, or in use by another of ours
                os.rmdir(path)
