"""The conformance suite of transports over bridges, on real vsock and real virtio-serial, in a virtual machine.

``python bridge_guest.py KERNEL_FOLDER`` boots the disk of ``cgroup2_guest`` with two ports of virtio-serial that are joined
outside, and the kernel's loopback of vsock, runs the suite over both, and writes one JSON object. Exit status 1 when something
failed there. Further arguments name single checks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import bridged
import cgroup2_guest

_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "vsock_loopback")
_GUEST = """
import ctypes, json, os, socket, sys, time, traceback
ONLY = ()
os.environ.clear()
sys.path[:0] = ["/src"]

def say(**fields):
    print("\\nGUEST " + json.dumps(fields), flush=True)

child = os.fork()
if child:
    while os.wait()[0] != child:
        pass
    ctypes.CDLL(None).reboot(0x4321FEDC)
from bridged import BridgedSlowly, Crossing
from shardwright.testing import transport_checks

def over_vsock():
    with socket.socket(socket.AF_VSOCK) as listening:
        listening.bind((socket.VMADDR_CID_ANY, 5201))
        listening.listen(1)
        near = socket.socket(socket.AF_VSOCK)
        near.connect((1, 5201))
        return near.detach(), listening.accept()[0].detach()

def over_serial():
    ports = {}
    while len(ports) < 2:
        for name in os.listdir("/sys/class/virtio-ports"):
            with open(f"/sys/class/virtio-ports/{name}/name") as file:
                ports[file.read().strip()] = f"/dev/{name}"
    return tuple(os.open(ports[name], os.O_RDWR) for name in ("near", "far"))

say(kind="kernel", release=os.uname().release, python=sys.version.split()[0])
for way, joined in (("vsock", over_vsock), ("virtio-serial", over_serial)):
    with Crossing(joined()) as crossing:
        for name, check in transport_checks(BridgedSlowly).items():
            if name not in (ONLY or (name,)):
                continue
            begun = time.monotonic()
            said = ""
            try:
                check(BridgedSlowly())
            except BaseException:
                said = traceback.format_exc()[-1500:]
            took = round(time.monotonic() - begun, 2)
            say(kind="check", backend=way, check=name, passed=not said, said=said, took_s=took)
        begun = time.monotonic()
        for process in crossing.processes[1:]:
            process.kill()  # the other side's bridge dies, and its port, if it is one, stays
        said = "" if crossing.notices() else "nobody was told"
        took = round(time.monotonic() - begun, 2)
        say(kind="check", backend=way, check="a bridge that is killed is noticed", passed=not said, said=said, took_s=took)
say(kind="end")
"""


def _devices(folder: Path) -> list[str]:
    joined = folder / "joined"
    return [
        "-chardev", f"socket,id=near,path={joined},server=on,wait=off", "-chardev", f"socket,id=far,path={joined}",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=near,name=near",
        "-device", "virtserialport,chardev=far,name=far",
    ]  # fmt: skip


if __name__ == "__main__":
    only = tuple(each for each in sys.argv[2:] if not each.startswith("-"))
    sys.exit(
        cgroup2_guest.main(
            cgroup2_guest.run_guest(
                Path(sys.argv[1]), show="-v" in sys.argv, modules=_MODULES, devices=_devices,
                script=_GUEST.replace("ONLY = ()", f"ONLY = {only}"), sources=(Path(bridged.__file__),),
            )
        )
    )  # fmt: skip
