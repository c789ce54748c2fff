"""MicrovmBackend: each sandbox a virtual machine of its own, held by a runner that is an ordinary process here.

The runner makes disks, starts the monitor, joins the shard's descriptors with the machine through a bridge, and ends as the
program in there did. So the control groups, the end and the adoption of a sandbox are those of ``process``: around runner and
monitor, and whatever the machine does. Within them the guest's agent holds the program to its memory and its processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from shardwright.contracts.sandbox import Capabilities, Exit, Finding, Fingerprint, LaunchSpec, SandboxHandle
from shardwright.errors import SandboxError
from shardwright.model.limits import Limits
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox.microvm._firecracker import jail_of
from shardwright.sandbox.microvm._kernel import Kernel, find_kernel
from shardwright.sandbox.namespace import changing_places, followed
from shardwright.sandbox.namespace._followed import refuse_nested
from shardwright.sandbox.process import ProcessBackend, ProcessSandbox

MONITORS = ("qemu", "qemu-kvm", "firecracker")
KERNEL_BYTES = 128 * 2**20  # of the machine's own kernel, agent and files in memory, beyond what the program may have
OVERHEAD_BYTES = KERNEL_BYTES + 256 * 2**20  # and of monitor and runner, out here
_LEAST_BYTES, _MOST_BYTES = 512 * 2**20, 64 * 2**30
_ROOM = 2  # times the first ceiling: so far it may be raised later
LEAVE = b'{"leave":true}'  # to a runner: say whether its program has ended
_LEAVE_S = 0.7
_ENFORCED = ("cpu", "memory", "pids")  # its disks are nobody else's, and it has no network
_PIDS = 128  # of runner and monitor, out here
_PATH = f"{os.defpath}:/usr/local/bin:/usr/local/sbin:/usr/sbin:/sbin"
_PROGRAMS = {"qemu": "qemu-system-x86_64", "qemu-kvm": "qemu-system-x86_64", "firecracker": "firecracker"}
_REMEDIES = {
    "qemu": "apt-get install qemu-system-x86", "qemu-kvm": "apt-get install qemu-system-x86",
    "firecracker": "put a release of firecracker and its jailer on the path",
}  # fmt: skip


class Runner(Struct, frozen=True):
    """How a runner is started: its arguments, to which two descriptors' numbers are added, and its environment."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]


class MachineOrder(msgspec.Struct, frozen=True):
    """What a runner reads from its first descriptor (JSON)."""

    shard: str
    monitor: str
    program: str
    jailer: str
    kernel: str
    store: str
    memory_bytes: int  # of the machine
    ceiling_bytes: int | None  # of the program in it
    cpus: int
    max_pids: int
    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: str
    numbers: tuple[int, ...]
    read: tuple[str, ...]


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a runner says to its keeper, a packet of JSON each: that it serves, that the program runs still, how it ended."""

    serving: bool = False
    ended: int | None = None
    out_of_memory: bool = False


class MicrovmSandbox(ProcessSandbox):
    """A runner and its machine. One that was adopted by its handle alone cannot reach the agent: the outer limits hold."""

    control: socket.socket | None = None
    memory_bytes = 0
    _told: Exit | None = None
    _serving = False

    def resize(self, limits: Limits) -> Limits:
        wanted = limits.ceiling.memory_bytes
        if wanted is not None and self.memory_bytes and wanted + KERNEL_BYTES > self.memory_bytes:
            raise SandboxError(
                f"the machine of {self.handle.shard} has {self.memory_bytes // 2**20} MiB, and cannot be given more",
                remedy="state the ceiling that it may reach in the manifest, and start it again",
            )
        found = _inner(super().resize(_outer(limits)))
        if wanted is not None and self.control is not None:
            with contextlib.suppress(OSError):  # within, the ceiling and the balloon follow
                self.control.send(msgspec.json.encode({"memory_bytes": wanted}), socket.MSG_DONTWAIT)
        return found

    def poll(self) -> Exit | None:
        """As its runner told it, which may be killed before it has ended by itself."""
        was = self._exit
        found = super().poll()
        if found is not None and was is None:
            self._hear()
            if self._told is not None:
                self._exit = found = self._told
        return found

    def kill(self) -> None:
        """Where its program has ended already, how it did is waited for: its sockets close some time before that shows."""
        if not self.deleted and self.control is not None and self.poll() is None:
            self._hear()
            if self._serving and self._told is None:
                with contextlib.suppress(OSError):
                    self.control.send(LEAVE, socket.MSG_DONTWAIT)
                    if select.select([self.control], [], [], _LEAVE_S)[0]:
                        self._hear()
        super().kill()

    def _hear(self) -> None:
        """What the runner said meanwhile."""
        while self.control is not None:
            try:
                said = msgspec.json.decode(self.control.recv(4096, socket.MSG_DONTWAIT), type=Told)
            except (OSError, msgspec.MsgspecError):
                return
            self._serving |= said.serving
            if said.ended is not None:
                self._told = Exit(said.ended, said.out_of_memory)

    def delete(self) -> None:
        if self.deleted:
            return
        super().delete()
        self._let_go()
        shutil.rmtree(jail_of(self.handle.shard).parent, ignore_errors=True)

    def release(self) -> None:
        super().release()
        self._let_go()

    def _let_go(self) -> None:
        if self.control is not None:
            self.control.close()
            self.control = None


class MicrovmBackend(ProcessBackend):
    """``kernel`` is a folder with ``boot`` and ``lib/modules``; ``store`` keeps disks.

    QEMU (``qemu``, software emulation, and ``qemu-kvm``) is the reference, and was run. Firecracker's driver is written to its
    published interface and was *not run on hardware*.
    """

    def __init__(
        self,
        runner: Runner,
        kernel: Path,
        store: Path,
        *,
        monitor: str = "qemu",
        name: str = "microvm",
        groups: ControlGroups | None = None,
        end_with_parent: bool = True,
    ) -> None:
        super().__init__(groups, end_with_parent=end_with_parent)
        if monitor not in MONITORS and not os.path.isabs(monitor):
            raise SandboxError(
                f"there is no monitor {monitor!r}",
                remedy=f"choose from {', '.join(MONITORS)}, or name a program with QEMU's command line by its path",
            )
        self.name = name
        self._runner = runner
        self._kernel = kernel
        self._store = store
        self._monitor = monitor

    def __repr__(self) -> str:
        return f"MicrovmBackend({self._monitor!r}, {str(self._kernel)!r})"

    def capabilities(self) -> Capabilities:
        return Capabilities(
            transports=("vsock",) if self._monitor == "firecracker" else ("virtio-serial",),
            starts=("spawn",),
            isolates=("memory", "files", "network", "pids", "kernel"),
            enforces=tuple(name for name in self.groups.enforces if name in _ENFORCED),
        )

    def fingerprint(self) -> Fingerprint:
        found = super().fingerprint()
        finding = self.finding()
        return Fingerprint(found.usable and finding.present, (*found.findings, finding))

    def finding(self) -> Finding:
        """Whether what machines are made with is here, as one line of ``doctor``. None is made: that takes seconds."""
        what = f"isolation microvm ({self._monitor})"
        try:
            self._program()
            kernel = self._found_kernel()
            for tool, package in (("mke2fs", "e2fsprogs"), ("busybox", "busybox-static")):
                if shutil.which(tool, path=_PATH) is None:
                    raise SandboxError(f"there is no {tool}", remedy=f"apt-get install {package}")
        except SandboxError as error:
            return Finding(what, False, error.message, error.remedy)
        how = {
            "qemu": "software emulation: slow", "qemu-kvm": "/dev/kvm",
            "firecracker": "written to its published API, not run on hardware",
        }.get(self._monitor, "software emulation by the program that was named")  # fmt: skip
        return Finding(what, True, f"{how}; kernel {kernel.release}")

    def trouble(self) -> str:
        found = self.finding()
        return "" if found.present else f"{found.detail}: {found.remedy}"

    def _program(self) -> str:
        if os.path.isabs(self._monitor):
            if not os.access(self._monitor, os.X_OK):
                raise SandboxError(f"{self._monitor} is no program", remedy="name one with QEMU's command line")
            return self._monitor
        names = [_PROGRAMS[self._monitor], *(["jailer"] if self._monitor == "firecracker" else [])]
        for name in names:
            if shutil.which(name, path=_PATH) is None:
                raise SandboxError(f"there is no {name}", remedy=_REMEDIES[self._monitor])
        if self._monitor != "qemu" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise SandboxError(
                "/dev/kvm cannot be used", remedy="enable hardware virtualisation, or take SHARDWRIGHT_MICROVM=qemu"
            )
        return str(shutil.which(names[0], path=_PATH))

    def _found_kernel(self) -> Kernel:
        kernel = find_kernel(self._kernel)
        if self._monitor == "firecracker" and kernel.plain is None:
            raise SandboxError(
                f"Firecracker boots no compressed kernel such as {kernel.image}",
                remedy=f"write the uncompressed image beside it, as vmlinux-{kernel.release} (the kernel's extract-vmlinux)",
            )
        return kernel

    def launch(self, spec: LaunchSpec) -> MicrovmSandbox:
        _check(spec)
        program = self._program()
        self._found_kernel()
        ceiling = spec.limits.ceiling.memory_bytes
        memory = max(_LEAST_BYTES, min(_MOST_BYTES, _ROOM * (ceiling or 0))) + KERNEL_BYTES
        cores = spec.limits.ceiling.cpu or spec.limits.guarantee.cpu or 1.0
        order = MachineOrder(
            shard=spec.shard, monitor=self._monitor, program=program, jailer=shutil.which("jailer", path=_PATH) or "",
            kernel=str(self._kernel), store=str(self._store), memory_bytes=memory, ceiling_bytes=ceiling,
            cpus=max(1, min(os.cpu_count() or 1, round(cores + 0.49))), max_pids=spec.max_pids, arguments=spec.arguments,
            environment=dict(spec.environment), folder=spec.working_directory, numbers=tuple(spec.descriptors),
            read=spec.sight.read,
        )  # fmt: skip
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        first = max((2, *spec.descriptors)) + 1
        told = os.memfd_create("machine", os.MFD_CLOEXEC)
        try:
            os.write(told, msgspec.json.encode(order))
            os.lseek(told, 0, os.SEEK_SET)
            made = super().launch(
                replace(
                    spec,
                    arguments=(*self._runner.arguments, str(first), str(first + 1)),
                    environment=self._runner.environment,
                    working_directory="/",
                    descriptors={**spec.descriptors, first: told, first + 1: theirs.fileno()},
                    limits=_outer(spec.limits),
                    max_pids=_PIDS,
                )
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
            os.close(told)
        assert isinstance(made, MicrovmSandbox)
        made.control, made.memory_bytes = ours, memory
        return made

    def _start(self, spec: LaunchSpec, group: ControlGroup | None) -> MicrovmSandbox:
        made = super()._start(spec, group)
        sandbox = MicrovmSandbox(made.handle, made.fileno(), group, made.mark, self._firsts)
        self._sandboxes[made.handle.pid] = sandbox
        return sandbox

    def _adopted(
        self, handle: SandboxHandle, descriptor: int, group: ControlGroup | None, mark: int | None
    ) -> MicrovmSandbox:
        return MicrovmSandbox(handle, descriptor, group, mark, self._firsts)


def _check(spec: LaunchSpec) -> None:
    """What a machine cannot have. Raises SandboxError."""
    if not spec.arguments:
        raise SandboxError(f"nothing to run for {spec.shard}", remedy="give the guest's argument vector")
    if spec.template:
        raise SandboxError("a shard cannot be forked from one machine into another", remedy='use start = "spawn"')
    if spec.sight.write:
        raise SandboxError(
            f"a virtual machine sees copies of files: what {spec.shard} writes to {spec.sight.write[0]} would reach nobody",
            remedy="take it out of files.write, or choose another isolation",
        )
    if spec.sight.network or spec.sight.hosts or spec.sight.devices:
        raise SandboxError(
            f"the virtual machine of {spec.shard} can have no network and no devices of this machine",
            remedy="take network and GPUs out of its section, or choose another isolation",
        )
    changing = changing_places(spec.sight.changing)
    refuse_nested((followed(path, {}, changing) for path in spec.sight.read), changing, "the machine's image")
    for path in (spec.arguments[0], spec.working_directory):
        if not os.path.exists(path):
            raise SandboxError(f"{path} does not exist", remedy="name a program and a folder of this machine")


def _outer(limits: Limits) -> Limits:
    """What runner and monitor may have, so that the program may have that."""
    return replace(
        limits, ceiling=replace(limits.ceiling, memory_bytes=_plus(limits.ceiling.memory_bytes, OVERHEAD_BYTES))
    )


def _inner(limits: Limits) -> Limits:
    return replace(
        limits, ceiling=replace(limits.ceiling, memory_bytes=_plus(limits.ceiling.memory_bytes, -OVERHEAD_BYTES))
    )


def _plus(amount: int | None, more: int) -> int | None:
    return None if amount is None else amount + more
