"""The same files and program as in a container of ours, as one would write them down for the runtime's own command."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shardwright.contracts.sandbox import Sight
from shardwright.sandbox.namespace._view import view_of
from shardwright.sandbox.oci._config import config


def plain_bundle(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, machine: str) -> None:
    """Write a bundle (``config.json`` and ``rootfs``) into that folder. Raises SandboxError, OSError."""
    view = view_of(Sight(), "/", tuple(arguments))
    root = folder / "rootfs"
    for name in ("proc", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    for path, target in view.links:
        there = Path(f"{root}{path}")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(target)
    made = json.loads(
        config(
            arguments=arguments, environment=environment, working_directory="/", root="rootfs", host_name="shard",
            network=False, inner_ids=(0, 0), outer_ids=(0, 0), control_group="", open_files=1024, machine=machine,
        )
    )  # fmt: skip
    scratch = ["nosuid", "nodev", "mode=1777"]
    mounts: list[dict[str, object]] = [{"destination": "/proc", "type": "proc", "source": "proc"}]
    mounts += [{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]}]
    for path in ("/tmp", "/dev/shm"):
        mounts.append({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": scratch})
    for place in view.places:
        kind = ["rbind", "rw" if place.writable else "ro", "nosuid", "nodev"]
        there = Path(f"{root}{place.path}")
        if os.path.isdir(place.path):
            there.mkdir(parents=True, exist_ok=True)
        else:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
        mounts.append({"destination": place.path, "type": "bind", "source": place.path, "options": kind})
    made["mounts"] = mounts
    made["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", "ipc", "uts", "cgroup", "network", "pid")]
    del made["linux"]["uidMappings"], made["linux"]["gidMappings"], made["linux"]["cgroupsPath"]
    (folder / "config.json").write_text(json.dumps(made))
