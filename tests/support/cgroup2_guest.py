"""Debian's own kernel with version 2 of control groups alone, in a virtual machine under software emulation.

``python cgroup2_guest.py KERNEL_FOLDER`` (an unpacked linux-image package) makes a disk with this interpreter and Shardwright,
boots it in QEMU, runs the conformance suite of sandboxes and the trial of resizing in it, and writes one JSON object. Exit
status 1 when something failed there. Takes a few minutes; needs qemu-system-x86_64, mke2fs, cpio, busybox.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["main", "run_guest"]

TIMEOUT_S = 540.0
MEMORY = "3072M"  # a ceiling of 1,500 MiB is to be reached in it
_MODULES = ("virtio_pci", "virtio_blk", "veth", "sch_tbf")
_LEFT_OUT = (
    "site-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "__pycache__",
    "ensurepip",
    "lib2to3",
    "turtledemo",
)
_INIT = """#!/bin/sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /disk
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in {modules}; do busybox insmod /modules/$module.ko; done
busybox mount -t ext4 /dev/vda /disk
for each in proc sys dev; do busybox mount --move /$each /disk/$each; done
busybox mount -t cgroup2 cgroup2 /disk/sys/fs/cgroup
busybox mount -t tmpfs tmp /disk/tmp
busybox mkdir -p /disk/dev/shm
busybox mount -t tmpfs shm /disk/dev/shm
busybox ip link set lo up 2>/dev/null
exec busybox switch_root /disk {python} -P /guest.py
"""
_GUEST = """
import ctypes, json, os, sys, time, traceback
os.environ.clear()
sys.path[:0] = ["/src"]
from shardwright.sandbox import become_subreaper
from shardwright.sandbox.namespace import NamespaceBackend
from shardwright.sandbox.process import ProcessBackend
from shardwright.testing import SANDBOX_CHECKS, check_sandbox_backend

def say(**fields):
    print("\\nGUEST " + json.dumps(fields), flush=True)

child = os.fork()
if child:  # the first process of all: whoever is in a folder of chroot may make no user namespace, so it is this one
    while os.wait()[0] != child:
        pass
    ctypes.CDLL(None).reboot(0x4321FEDC)
become_subreaper()
say(kind="kernel", release=os.uname().release, controllers=open("/sys/fs/cgroup/cgroup.controllers").read().split(),
    python=sys.version.split()[0])
for name, backend in (("process", ProcessBackend), ("namespace", NamespaceBackend)):
    for check in SANDBOX_CHECKS:
        begun = time.monotonic()
        try:
            done = check_sandbox_backend(backend, only=check.name)
            said = "" if done else "not asked of it: " + backend().reason
        except BaseException:
            done, said = (), traceback.format_exc()[-1500:]
        took = round(time.monotonic() - begun, 2)
        say(kind="check", backend=name, check=check.name, passed=bool(done), said=said, took_s=took)
from shardwright.node import resize_trial
try:
    say(kind="resize", found=resize_trial(100))
except BaseException:
    say(kind="resize", failed=traceback.format_exc()[-1500:])
say(kind="end")
"""


def run_guest(
    kernel: Path,
    *,
    timeout_s: float = TIMEOUT_S,
    show: bool = False,
    script: str = _GUEST,
    modules: tuple[str, ...] = _MODULES,
    devices: Callable[[Path], list[str]] = lambda folder: [],
    sources: tuple[Path, ...] = (),
) -> dict[str, Any]:
    """What the guest said: ``kernel``, ``checks`` (a list), ``resize``, ``took_s``. Raises RuntimeError with its last lines.

    ``devices``: further arguments of QEMU, given a folder of the machine's own; ``sources``: what the script may import.
    """
    with tempfile.TemporaryDirectory(prefix="swt-guest-", dir="/var/tmp") as name:
        folder = Path(name)
        _initramfs(kernel, folder, modules)
        _disk(folder, script, sources)
        begun_s = time.monotonic()
        (image,) = (kernel / "boot").glob("vmlinuz-*")
        command = [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY,
            "-kernel", str(image), "-initrd", str(folder / "initramfs"), "-no-reboot", "-nographic", "-nodefaults",
            "-serial", "stdio", "-drive", f"file={folder / 'disk'},format=raw,if=virtio,cache=unsafe",
            "-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all mitigations=off", *devices(folder),
        ]  # fmt: skip
        lines: list[str] = []
        found: dict[str, Any] = {"checks": []}
        with subprocess.Popen(
            ["timeout", "-k", "5", str(timeout_s), *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
        ) as machine:  # fmt: skip
            assert machine.stdout is not None
            for line in machine.stdout:
                lines.append(line.rstrip())
                if show:
                    print(line.rstrip(), file=sys.stderr)
                if line.startswith("GUEST "):
                    said = json.loads(line[6:])
                    kind = said.pop("kind")
                    if kind == "check":
                        found["checks"].append(said)
                    else:
                        found[kind] = said
        found["took_s"] = round(time.monotonic() - begun_s, 1)
    if "end" not in found:
        raise RuntimeError("the guest did not come to its end:\n" + "\n".join(lines[-40:]))
    return found


def _initramfs(kernel: Path, folder: Path, names: tuple[str, ...]) -> None:
    root = folder / "initial"
    (root / "bin").mkdir(parents=True)
    (root / "modules").mkdir()
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("there is no busybox: apt-get install busybox-static")
    shutil.copy(busybox, root / "bin" / "busybox")
    (root / "bin" / "sh").symlink_to("busybox")
    modules = {path.name.partition(".")[0]: path for path in (kernel / "lib" / "modules").rglob("*.ko")}
    wanted: list[str] = []
    for module in names:
        _with_needs(module, modules, wanted)
    for module in wanted:
        shutil.copy(modules[module], root / "modules")
    init = root / "init"
    init.write_text(_INIT.format(modules=" ".join(wanted), python=os.path.realpath(sys.executable)))
    init.chmod(0o755)
    files = subprocess.run(["find", "."], cwd=root, capture_output=True, check=True).stdout
    archive = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=files, capture_output=True, check=True
    )
    (folder / "initramfs").write_bytes(archive.stdout)


def _with_needs(module: str, modules: dict[str, Path], wanted: list[str]) -> None:
    """Append it after those that it depends on, as it says itself."""
    if module in wanted:
        return
    said = re.search(rb"\0depends=([^\0]*)\0", modules[module].read_bytes())
    for needed in filter(None, said[1].decode().split(",") if said else ()):
        _with_needs(needed, modules, wanted)
    wanted.append(module)


def _disk(folder: Path, script: str, sources: tuple[Path, ...]) -> None:
    """This interpreter where it is here, what it is linked with, and what runs."""
    root = folder / "root"
    for name in ("proc", "sys", "dev", "tmp", "var/tmp", "etc", "run", "usr/lib", "root"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("lib", "lib64"):
        if os.path.islink(f"/{name}"):
            (root / name).symlink_to(f"usr/{name}")
            (root / "usr" / name).mkdir(parents=True, exist_ok=True)
    (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (root / "guest.py").write_text(script)
    library = Path(sysconfig.get_path("stdlib")).resolve()
    _copy(library, _in(root, library))
    program = Path(sys.executable).resolve()
    _in(root, program).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, _in(root, program))
    for package in ("msgspec", "psutil", "pyroute2"):
        place = Path(__import__(package).__file__ or "").parent
        _copy(place, _in(root, library) / "site-packages" / package)
    import shardwright

    _copy(Path(shardwright.__file__).parent, root / "src" / "shardwright")
    for source in sources:
        shutil.copy(source, root / "src")
    for linked in _libraries(program, [*root.rglob("*.so*")]):
        target = _in(root, Path(linked))
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(linked, target)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(folder / "disk"), f"{size * 3 // 2 // 2**20 + 256}M"],
        check=True,
    )


def _in(root: Path, path: Path) -> Path:
    return root / str(path).lstrip("/")


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)


def _libraries(program: Path, extensions: list[Path]) -> set[str]:
    found: set[str] = set()
    for path in (program, *extensions):
        done = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            words = line.split()
            place = next((word for word in words if word.startswith("/")), "")
            if place:
                found.add(place)
    return found


def main(result: dict[str, Any]) -> int:
    """Show it; the exit status."""
    json.dump(result, sys.stdout, indent=1)
    failed = [each for each in result["checks"] if not each["passed"]]
    print(f"\n{len(result['checks']) - len(failed)} of {len(result['checks'])} checks passed", file=sys.stderr)
    return 1 if failed or not result["checks"] else 0


if __name__ == "__main__":
    sys.exit(main(run_guest(Path(sys.argv[1]), show="-v" in sys.argv)))
