"""What the daemon is asked to make (the body of ``POST /containers/create`` of the Engine API, 1.40 and later)."""

from __future__ import annotations

import json
import os
import platform
from typing import Any

from shardwright.contracts.sandbox import LaunchSpec
from shardwright.sandbox.docker._boot import INSIDE, boot_command
from shardwright.sandbox.namespace._view import View
from shardwright.sandbox.oci._config import seccomp_profile

LABEL = "shardwright.owner"
_HIDDEN = (
    *(
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/key-users",
        "/proc/latency_stats",
        "/proc/scsi",
    ),
    *("/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/kallsyms", "/proc/kmsg", "/proc/modules"),
    *("/sys/block", "/sys/bus", "/sys/class", "/sys/dev", "/sys/firmware", "/sys/fs", "/sys/hypervisor", "/sys/kernel"),
    *("/sys/module", "/sys/power", "/sys/devices/virtual", "/sys/devices/pci0000:00"),
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def container_of(
    spec: LaunchSpec, view: View, image: str, *, door: str, interpreter: str, owner: str, open_files: int, scratch_bytes: int,
) -> dict[str, Any]:  # fmt: skip
    """``door``: the socket to mount into it."""
    mounts = [_bind(place.path, place.path, writable=place.writable) for place in view.places if _shown(place.path)]
    mounts.append(_bind(door, INSIDE, writable=True))
    scratch = f"rw,nosuid,nodev,mode=1777,size={scratch_bytes}"
    host: dict[str, Any] = {
        "Mounts": mounts,
        "Tmpfs": {"/tmp": scratch},
        "ShmSize": scratch_bytes,
        "ReadonlyRootfs": True,
        "NetworkMode": "host" if spec.sight.network else "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true", f"seccomp={json.dumps(seccomp_profile(platform.machine()))}"],
        "MaskedPaths": [*_HIDDEN, *view.masked],
        "ReadonlyPaths": list(_READ_ONLY),
        "Ulimits": [
            {"Name": name, "Soft": amount, "Hard": amount}
            for name, amount in (("core", 0), ("memlock", 65536), ("msgqueue", 819200), ("nofile", open_files))
        ],
        "Devices": [{"PathOnHost": path, "PathInContainer": path, "CgroupPermissions": "rw"} for path in view.devices],
        "ExtraHosts": [f"{name}:{address}" for name, address in spec.sight.hosts],
        "LogConfig": {"Type": "none"},
    }
    return {
        "Image": image,
        "Entrypoint": boot_command(interpreter),
        "Cmd": [],
        "Env": ["PATH=/nowhere", "HOME=/"],
        "WorkingDir": "/",
        "User": "0:0",
        "Hostname": "shard",
        "Labels": {LABEL: owner},
        "HostConfig": host,
    }


def _shown(path: str) -> bool:
    """What the daemon mounts itself is not shown from the machine."""
    return not path.startswith(("/sys/", "/proc/")) and os.path.exists(path)


def _bind(source: str, target: str, *, writable: bool) -> dict[str, Any]:
    return {
        "Type": "bind", "Source": source, "Target": target, "ReadOnly": not writable,
        "BindOptions": {"Propagation": "rprivate"},
    }  # fmt: skip
