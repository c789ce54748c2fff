"""Firecracker, by its HTTP API on a Unix socket, its jailer, its vsock device, its snapshots.

Written to the interface that Firecracker publishes (``firecracker.yaml`` of 1.17, ``docs/jailer.md``, ``docs/vsock.md``) and
held against a stand-in that validates every request by it. **Not run on hardware**: no machine of ours had KVM.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardwright.errors import SandboxError
from shardwright.sandbox.microvm._machine import CONTEXT, VSOCK_PORT, Machine, boot_arguments

JAILS = Path("/srv/jailer")
API = "/run/api.sock"  # inside the jail
VSOCK = "/run/vsock.sock"
_CALL_S = 30.0
_MOST_ANSWER = 2**16
_GREETING = 64


def jail_of(shard: str) -> Path:
    """The root folder of that shard's jail."""
    return JAILS / "firecracker" / machine_id(shard) / "root"


def machine_id(shard: str) -> str:
    """A name as the jailer wants it: letters, digits and hyphens, 64 at most."""
    return "".join(each if each.isascii() and each.isalnum() else "-" for each in shard)[:64]


def jailer_command(machine: Machine, shard: str) -> list[str]:
    """Control groups are ours already: it makes none (version 2, none named), and starts with no way out but its jail."""
    return [
        machine.jailer, "--id", machine_id(shard), "--exec-file", machine.program, "--uid", str(machine.user),
        "--gid", str(machine.user), "--cgroup-version", "2", "--chroot-base-dir", str(JAILS), "--resource-limit",
        "no-file=1024", "--", "--api-sock", API, "--enable-pci",
    ]  # fmt: skip


def furnish(machine: Machine, jail: Path) -> None:
    """Put what it boots from into the jail, as links where that goes. Raises SandboxError."""
    try:
        (jail / "run").mkdir(parents=True, exist_ok=True)
        os.chown(jail / "run", machine.user, machine.user)
        for name, source in _furniture(machine).items():
            target = jail / name
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
            os.chmod(target, 0o444)
    except OSError as error:
        raise SandboxError(f"the jail {jail} cannot be furnished: {error.strerror}", remedy="make room") from error


def _furniture(machine: Machine) -> dict[str, str]:
    disks = {f"disk{number}": path for number, path in enumerate(machine.disks)}
    return {"kernel": machine.kernel, "initial": machine.initial, **disks}


def boot_requests(machine: Machine) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and body of each request that makes and starts it, in order."""
    disks = [
        ("PUT", f"/drives/disk{number}", {
            "drive_id": f"disk{number}", "path_on_host": f"/disk{number}", "is_root_device": False, "is_read_only": True,
            "cache_type": "Unsafe", "io_engine": "Sync",
        })
        for number in range(len(machine.disks))
    ]  # fmt: skip
    return [
        ("PUT", "/machine-config", {"vcpu_count": machine.cpus, "mem_size_mib": machine.memory_mib, "smt": False}),
        ("PUT", "/boot-source", {
            "kernel_image_path": "/kernel", "initrd_path": "/initial", "boot_args": boot_arguments("vsock", console=False),
        }),
        *disks,
        ("PUT", "/vsock", {"guest_cid": CONTEXT, "uds_path": VSOCK}),
        ("PUT", "/balloon", {"amount_mib": 0, "deflate_on_oom": True, "stats_polling_interval_s": 1}),
        ("PUT", "/entropy", {}),
        ("PUT", "/actions", {"action_type": "InstanceStart"}),
    ]  # fmt: skip


def snapshot_requests(state: str, memory: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Paths are inside the jail. Connections over vsock do not outlive it: bridges begin anew after a restore."""
    return [
        ("PATCH", "/vm", {"state": "Paused"}),
        ("PUT", "/snapshot/create", {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory}),
        ("PATCH", "/vm", {"state": "Resumed"}),
    ]


def restore_requests(state: str, memory: str) -> list[tuple[str, str, dict[str, Any]]]:
    """Of a Firecracker that was just started; its vsock gets a socket in its own jail."""
    body = {
        "snapshot_path": state, "mem_backend": {"backend_type": "File", "backend_path": memory}, "resume_vm": True,
        "vsock_override": {"uds_path": VSOCK},
    }  # fmt: skip
    return [("PUT", "/snapshot/load", body)]


def balloon_requests(amount_mib: int) -> list[tuple[str, str, dict[str, Any]]]:
    """So much memory is taken from the machine from now on."""
    return [("PATCH", "/balloon", {"amount_mib": amount_mib})]


class FirecrackerApi:
    """Requests over its Unix socket, one connection each. Raises SandboxError with what it answers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def run(self, requests: list[tuple[str, str, dict[str, Any]]]) -> None:
        for method, path, body in requests:
            self.request(method, path, body)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What it answers: nothing but of GET."""
        connection = _Local(self._path)
        try:
            raw = None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json", "Accept": "application/json"})
            answer = connection.getresponse()
            text = answer.read(_MOST_ANSWER)
            said = json.loads(text) if text else {}
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise SandboxError(f"Firecracker does not answer {method} {path}: {error}", remedy="see its log") from error
        finally:
            connection.close()
        if not isinstance(said, dict):
            said = {}
        if answer.status not in (200, 204):
            why = str(said.get("fault_message", answer.reason))[:500]
            raise SandboxError(f"Firecracker refuses {method} {path}: {why}", remedy="see its log")
        return said


class _Local(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_CALL_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def connect_vsock(path: Path, port: int = VSOCK_PORT, *, timeout_s: float = _CALL_S) -> socket.socket:
    """A stream to that port in the guest: ``CONNECT <port>``, answered by ``OK <number>``. Raises OSError until it listens."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(f"CONNECT {port}\n".encode())
        said = b""
        while not said.endswith(b"\n"):
            piece = connection.recv(1)  # what comes behind the line is the stream's
            if not piece or len(said) > _GREETING:
                raise ConnectionRefusedError("nobody listens in the machine yet")
            said += piece
        if not said.startswith(b"OK "):
            raise ConnectionRefusedError(f"the machine's vsock answers {said[:_GREETING]!r}")
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection
