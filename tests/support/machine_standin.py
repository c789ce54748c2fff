"""In place of QEMU: takes its command line, and runs the guest's agent as a process of this machine instead of a machine.

So everything but the machine itself is real: runner, bridge, agent, descriptors that become streams, limits, ends. What takes
a machine is tried by ``scripts/machines``.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import sys
from pathlib import Path


def missing_for_disks() -> str:
    """What disks of machines are made with and this machine does not have; empty when nothing."""
    path = f"{os.defpath}:/usr/sbin:/sbin"
    return " and ".join(tool for tool in ("busybox", "mke2fs") if shutil.which(tool, path=path) is None)


def write_monitor(folder: Path) -> Path:
    """A program of that kind; with a kernel's names beside it (``kernel``), so that one is found."""
    release = folder / "kernel" / "lib" / "modules" / "6.1.0-standin"
    release.mkdir(parents=True)
    for name in ("virtio_blk", "overlay", "ext4"):
        (release / f"{name}.ko").write_bytes(b"\0depends=\0")
    boot = folder / "kernel" / "boot"
    boot.mkdir()
    (boot / "vmlinuz-6.1.0-standin").write_bytes(b"")
    program = folder / "monitor"
    source = Path(__file__)
    packages = [path for path in sys.path if path and os.path.isdir(path)]
    program.write_text(
        f"#!{sys.executable} -P\nimport sys\nsys.path[:] = {[*packages, str(source.parent)]!r}\n"
        f"import machine_standin\nmachine_standin.main(sys.argv)\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def main(argv: list[str]) -> None:
    from shardwright.guest._agent import Agent, bridged

    given = next(each for each in argv if each.startswith("socket,id=bridge,path="))
    disks = [each for each in argv if each.startswith("id=d")]
    for each in disks:
        assert os.path.getsize(each.partition("file=")[2].partition(",")[0]) > 0, each
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(given.partition("path=")[2])
    words = socket.socket(socket.AF_UNIX)
    words.connect(next(each for each in argv if each.startswith("socket,id=words,path=")).partition("path=")[2])
    print("a console that says this", flush=True)
    agent = Agent(bridged(connection.detach()))
    agent.run()
    agent.wait_for_leave()
    os._exit(0)
