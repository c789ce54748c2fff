"""The ``microvm`` backend: each sandbox a virtual machine with a kernel of its own."""

from shardwright.sandbox.microvm._backend import (
    KERNEL_BYTES,
    LEAVE,
    MONITORS,
    MachineOrder,
    MicrovmBackend,
    MicrovmSandbox,
    Runner,
    Told,
)
from shardwright.sandbox.microvm._firecracker import (
    FirecrackerApi,
    balloon_requests,
    boot_requests,
    connect_vsock,
    furnish,
    jail_of,
    jailer_command,
    restore_requests,
    snapshot_requests,
)
from shardwright.sandbox.microvm._image import disk, initial_folder
from shardwright.sandbox.microvm._kernel import Kernel, find_kernel
from shardwright.sandbox.microvm._machine import (
    GREETING_WORDS,
    PORT_NAME,
    VSOCK_PORT,
    Machine,
    balloon_words,
    qemu_command,
)

__all__ = [
    "GREETING_WORDS",
    "KERNEL_BYTES",
    "LEAVE",
    "MONITORS",
    "PORT_NAME",
    "VSOCK_PORT",
    "FirecrackerApi",
    "Kernel",
    "Machine",
    "MachineOrder",
    "MicrovmBackend",
    "MicrovmSandbox",
    "Runner",
    "Told",
    "balloon_requests",
    "balloon_words",
    "boot_requests",
    "connect_vsock",
    "disk",
    "find_kernel",
    "furnish",
    "initial_folder",
    "jail_of",
    "jailer_command",
    "qemu_command",
    "restore_requests",
    "snapshot_requests",
]
