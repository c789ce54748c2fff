"""The runtime's configuration of one container (config.json of the OCI runtime specification 1.0).

Its root folder is put together by us, as for ``namespace``; what the runtime adds are its own namespaces, the user, the
control groups, no capabilities, and the same list of system calls by libseccomp.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache

from shardwright.sandbox._linux._files import device_numbers
from shardwright.sandbox.namespace import NAMESPACES
from shardwright.sandbox.namespace._syscalls import ALLOWED
from shardwright.sandbox.namespace._view import DEVICES

_MADV_REMOVE = 9
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_PERM, _NOSYS = 1, 38
_KIND = 0o170000
_IOCTLS_DENIED = (0x5412, 0x541C, 0x8914)  # TIOCSTI, TIOCLINUX and changes to network devices


def config(
    *,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    working_directory: str,
    root: str,
    host_name: str,
    network: bool,
    inner_ids: tuple[int, int],
    outer_ids: tuple[int, int],
    control_group: str,
    open_files: int,
    machine: str,
    devices: Sequence[str] = (),
) -> bytes:
    """``network``: of the machine; ``devices``: files beyond null and its like.

    Raises KeyError for an architecture without a profile.
    """
    # /dev comes with the root folder; saying so keeps runtimes from making devices in it. One by one, for crun 1.8 mounts
    # nothing of what lies beneath what it binds.
    kinds = ["mount", "ipc", "uts", "cgroup", "user", *(() if network else ("network",))]
    none: list[str] = []
    linux = {
        "namespaces": [{"type": kind} for kind in kinds],
        "uidMappings": [{"containerID": inner_ids[0], "hostID": outer_ids[0], "size": 1}],
        "gidMappings": [{"containerID": inner_ids[1], "hostID": outer_ids[1], "size": 1}],
        "cgroupsPath": control_group,
        "resources": {"devices": _devices(devices)},  # other limits are in force already
        "seccomp": _seccomp(_ARCHITECTURES[machine]),
    }
    made = {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": inner_ids[0], "gid": inner_ids[1]},
            "args": list(arguments),
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": working_directory,
            "capabilities": dict.fromkeys(("bounding", "effective", "inheritable", "permitted", "ambient"), none),
            "noNewPrivileges": True,
            "rlimits": [
                {"type": f"RLIMIT_{name}", "soft": amount, "hard": amount}
                for name, amount in (("CORE", 0), ("MEMLOCK", 65536), ("MSGQUEUE", 819200), ("NOFILE", open_files))
            ],
        },
        "root": {"path": root, "readonly": True},
        "hostname": host_name,
        "mounts": [
            {"destination": path, "type": "bind", "source": f"{root}{path}", "options": ["rbind"]}
            for path in ("/dev", "/dev/shm", *(f"/dev/{name}" for name in DEVICES), *devices)
        ],
        "linux": linux,
    }
    return json.dumps(made).encode()


def _devices(more: Sequence[str]) -> list[dict[str, object]]:
    """Those that the root folder shows: null, zero, full, random, urandom."""
    numbers = [*((1, minor) for minor in (3, 5, 7, 8, 9)), *device_numbers(more)]
    allowed: list[dict[str, object]] = [
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rw"} for major, minor in numbers
    ]
    return [{"allow": False, "access": "rwm"}, *allowed]


def _all_but(denied: Sequence[int], bits: int) -> list[tuple[int, int]]:
    """Masks and values that together match every number of so many bits but those denied."""
    found: list[tuple[int, int]] = []

    def split(value: int, bit: int) -> None:
        mask = (1 << bits) - (1 << bit)
        inside = [each for each in denied if each & mask == value]
        if not inside:
            found.append((mask, value))
        elif bit:
            split(value, bit - 1)
            split(value | 1 << (bit - 1), bit - 1)

    split(0, bits)
    return found


def seccomp_profile(machine: str) -> dict[str, object]:
    """The list of system calls alone. Raises KeyError for an architecture without one."""
    return _seccomp(_ARCHITECTURES[machine])


@cache
def _seccomp(architecture: str) -> dict[str, object]:
    """The profile of ``namespace._seccomp`` in the runtime specification's words."""

    def rule(names: list[str], *conditions: tuple[int, str, int, int]) -> dict[str, object]:
        said: dict[str, object] = {"names": names, "action": "SCMP_ACT_ALLOW"}
        if conditions:
            said["args"] = [
                {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}
                for index, op, value, second in conditions
            ]
        return said

    def refused(name: str, code: int, *conditions: tuple[int, str, int, int]) -> dict[str, object]:
        return rule([name], *conditions) | {"action": "SCMP_ACT_ERRNO", "errnoRet": code}

    rules = [rule(sorted(ALLOWED))]
    rules.append(rule(["clone"], (0, "MASKED_EQ", NAMESPACES, 0)))
    rules.append(refused("clone3", _NOSYS))
    for domain in (1, 2, 10):
        for kind in (1, 2, 5):
            rules.append(rule(["socket"], (0, "EQ", domain, 0), (1, "MASKED_EQ", 0xF, kind)))
    rules.append(rule(["socketpair"], (0, "EQ", 1, 0)))
    # an argument is compared once in a rule: so requests are allowed by what their lower half is, in ranges of one bit
    rules += [rule(["ioctl"], (1, "MASKED_EQ", mask, value)) for mask, value in _all_but(_IOCTLS_DENIED, 32)]
    rules.append(rule(["prctl"], (0, "LT", 4, 0)))  # all but PR_SET_MM, PR_SET_PTRACER and making itself dumpable
    rules.append(rule(["prctl"], (0, "EQ", 4, 0), (1, "EQ", 0, 0)))
    rules += [rule(["prctl"], (0, "EQ", option, 0)) for option in range(5, 80) if option != 35]
    rules.append(rule(["prctl"], (0, "EQ", 0x53564D41, 0)))  # PR_SET_VMA: names of memory, for who looks at it
    rules += [rule(["fallocate"], (1, "EQ", mode, 0)) for mode in (0, 1)]
    rules.append(rule(["madvise"], (2, "NE", _MADV_REMOVE, 0)))
    rules += [rule(["personality"], (0, "EQ", wanted, 0)) for wanted in (0, 0xFFFFFFFF)]
    for name, index in (("mknod", 1), ("mknodat", 2)):
        for kind in (0, 0o100000, 0o010000, 0o140000):
            rules.append(rule([name], (index, "MASKED_EQ", _KIND, kind)))
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _PERM,
        "architectures": [architecture],
        "syscalls": rules,
    }
