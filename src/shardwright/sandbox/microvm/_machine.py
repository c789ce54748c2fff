"""What a virtual machine is made of, and how QEMU is asked for one.

``-M pc`` under software emulation, or KVM where it works: the reference. Its only ways out are disks that it may read, a
console that it may write, and one port of virtio-serial, which the bridge is on. It has no network.
"""

from __future__ import annotations

import json
from pathlib import Path

from msgspec import Struct

PORT_NAME = "shardwright.bridge"
VSOCK_PORT = 5201
_TRANSLATED_MIB = 64  # of translated code, where the processor is emulated
CONTEXT = 3  # of the guest on its vsock: the least that is nobody's; each Firecracker has a vsock of its own


def balloon_words(memory_bytes: int) -> bytes:
    """What QMP is told so that the machine has that much memory from now on."""
    told = {"execute": "balloon", "arguments": {"value": memory_bytes}}
    return json.dumps(told).encode() + b"\n"


GREETING_WORDS = b'{"execute":"qmp_capabilities"}\n'


class Machine(Struct, frozen=True):
    """Everything that a monitor needs to know. ``folder`` is the machine's own, for sockets; removed after it."""

    monitor: str  # "qemu" or "firecracker"
    program: str
    kernel: str
    initial: str
    disks: tuple[str, ...]
    memory_mib: int
    cpus: int
    way: str  # "virtio-serial" or "vsock"
    accelerated: bool
    folder: str
    jailer: str = ""
    user: int = 0


def boot_arguments(way: str, *, console: bool) -> str:
    """The kernel's command line; ``/init`` reads ``shardwright.way``."""
    shown = "console=ttyS0 " if console else ""
    return f"{shown}quiet loglevel=3 panic=-1 reboot=k mitigations=auto random.trust_cpu=on shardwright.way={way}"


def qemu_command(machine: Machine, *, bridge: str, words: str) -> list[str]:
    """Its arguments; it connects to the Unix sockets ``bridge`` and ``words`` (QMP), and writes the console to its output."""
    accelerator = ["-accel", "kvm", "-cpu", "host"] if machine.accelerated else [
        "-accel", f"tcg,tb-size={_TRANSLATED_MIB}", "-cpu", "max",
    ]  # fmt: skip
    disks = [
        each
        for number, path in enumerate(machine.disks)
        for each in (
            "-drive", f"id=d{number},file={_escaped(path)},format=raw,if=none,readonly=on",
            "-device", f"virtio-blk-pci,drive=d{number}",
        )
    ]  # fmt: skip
    return [
        machine.program, "-M", "pc,usb=off,vmport=off,graphics=off", *accelerator, "-smp", str(machine.cpus),
        "-m", f"{machine.memory_mib}M", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "-kernel", machine.kernel, "-initrd", machine.initial, "-append", boot_arguments(machine.way, console=True),
        "-serial", "stdio", "-monitor", "none", "-chardev", f"socket,id=words,path={_escaped(words)}",
        "-mon", "chardev=words,mode=control", "-device", "virtio-balloon-pci", *disks, "-device", "virtio-rng-pci",
        "-chardev", f"socket,id=bridge,path={_escaped(bridge)}", "-device", "virtio-serial-pci",
        "-device", f"virtserialport,chardev=bridge,name={PORT_NAME}",
    ]  # fmt: skip


def _escaped(path: str | Path) -> str:
    return str(path).replace(",", ",,")
