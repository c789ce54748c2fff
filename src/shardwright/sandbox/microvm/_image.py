"""What a machine boots from: an initial folder of a few modules, and disks that hold files of this machine.

Disks are named by what they hold: the same files make one disk, made once, without a network or root, by ``mke2fs -d``;
machines read it and share its pages in the node's cache. What a machine writes goes to memory of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from shardwright.errors import SandboxError
from shardwright.sandbox.microvm._kernel import Kernel

Files = Mapping[str, "Path | str | bytes"]
_PATH = f"{os.defpath}:/usr/sbin:/sbin"
_PIECE = 1 << 20
_MIB = 2**20
_INIT = """#!/bin/sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /run
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
while read module; do busybox insmod /modules/$module; done < /modules/order
way=virtio-serial
for word in $(busybox cat /proc/cmdline); do case $word in shardwright.way=*) way=${word#*=};; esac; done
lower=
for disk in a b c d; do
    [ -e /dev/vd$disk ] || continue
    busybox mkdir -p /layers/$disk
    busybox mount -t ext4 -o ro,noload /dev/vd$disk /layers/$disk
    lower=/layers/$disk${lower:+:}$lower
done
busybox mkdir -p /rw /root
busybox mount -t tmpfs -o mode=755 rw /rw
busybox mkdir -p /rw/upper /rw/work
busybox mount -t overlay -o lowerdir=$lower,upperdir=/rw/upper,workdir=/rw/work root /root
for folder in proc sys dev tmp run; do busybox mkdir -p /root/$folder; done
busybox chmod 1777 /root/tmp
for each in proc sys dev; do busybox mount --move /$each /root/$each; done
busybox mkdir -p /root/dev/shm
busybox mount -t tmpfs -o nosuid,nodev,mode=1777 shm /root/dev/shm
busybox mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
busybox ip link set lo up
exec busybox switch_root /root $(busybox cat /agent) $way
"""


def initial_folder(kernel: Kernel, agent: tuple[str, ...], store: Path) -> Path:
    """The compressed archive (``newc``) that the kernel unpacks first; ``agent`` is what it runs in the end.

    Raises SandboxError.
    """
    busybox = shutil.which("busybox", path=_PATH)
    if busybox is None:
        raise SandboxError("there is no busybox", remedy="apt-get install busybox-static")
    files: dict[str, Path | str | bytes] = {"/bin/busybox": Path(busybox), "/bin/sh": "busybox"}
    files |= {f"/modules/{path.name}": path for path in kernel.modules}
    files["/modules/order"] = "".join(f"{path.name}\n" for path in kernel.modules).encode()
    files["/init"], files["/agent"] = _INIT.encode(), " ".join(agent).encode()
    name = store / f"initial-{_digest(files)}"
    if not name.exists():
        with _finished(store, name) as partial, open(partial, "wb") as file:
            for piece in _archive(files):
                file.write(piece)
    return name


def disk(files: Files, store: Path) -> Path:
    """A disk (ext4, to be read alone) with these files at these paths. Raises SandboxError."""
    known = store / f"known-{_looks(files)}"
    if known.is_symlink() and (name := store / os.readlink(known)).exists():
        return name
    name = store / f"disk-{_digest(files)}"
    if name.exists():
        _remember(known, name)
        return name
    maker = shutil.which("mke2fs", path=_PATH)
    if maker is None:
        raise SandboxError("there is no mke2fs", remedy="apt-get install e2fsprogs")
    with _finished(store, name) as partial, tempfile.TemporaryDirectory(dir=store, prefix=".tree-") as tree:
        size = 0
        for path, content in files.items():
            size += _put(Path(tree), path, content)
        blocks = size // 4096 + 2 * len(files) + 2048
        command = [maker, "-q", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^has_journal,^resize_inode"]
        command += [
            "-N",
            str(2 * len(files) + 64),
            "-E",
            "root_owner=0:0",
            "-d",
            tree,
            partial,
            str(blocks + blocks // 8),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SandboxError(
                f"the disk of a machine cannot be made: {done.stderr.strip()[-300:]}", remedy="make room"
            )
    _remember(known, name)
    return name


def _looks(files: Files) -> str:
    """Of paths, sizes and times of change: what looks the same need not be read again."""
    total = hashlib.sha256()
    for path in sorted(files):
        content = files[path]
        if isinstance(content, Path):
            seen = os.stat(content)
            told = f"{seen.st_dev}:{seen.st_ino}:{seen.st_size}:{seen.st_mtime_ns}:{seen.st_mode}"
        else:
            told = hashlib.sha256(content if isinstance(content, bytes) else b"l" + content.encode()).hexdigest()
        total.update(f"{len(path)}:{path}{len(told)}:{told}".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:32]


def _remember(known: Path, name: Path) -> None:
    with contextlib.suppress(OSError):  # somebody else did, or it is found out anew the next time
        known.symlink_to(name.name)


@contextlib.contextmanager
def _finished(store: Path, name: Path) -> Iterator[str]:
    """A file that has its name once it is whole. Raises SandboxError for what the disk refuses."""
    try:
        store.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, partial = tempfile.mkstemp(dir=store, prefix=".making-")
        os.close(descriptor)
        try:
            yield partial
            os.replace(partial, name)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    except OSError as error:
        raise SandboxError(f"{store} cannot be written: {error.strerror or error}", remedy="make room") from error


def _digest(files: Files) -> str:
    """Of paths, kinds, modes and contents."""
    total = hashlib.sha256()
    for path in sorted(files):
        content = files[path]
        if isinstance(content, Path):
            with open(content, "rb") as file:
                inner = hashlib.file_digest(file, "sha256").hexdigest()
                kind = "x" if os.fstat(file.fileno()).st_mode & 0o100 else "f"
        else:
            kind, inner = ("l", content) if isinstance(content, str) else ("f", hashlib.sha256(content).hexdigest())
        total.update(f"{kind}{len(path)}:{path}{len(inner)}:{inner}".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:32]


def _put(tree: Path, path: str, content: Path | str | bytes) -> int:
    target = tree / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        target.symlink_to(content)
        return 0
    if isinstance(content, bytes):
        target.write_bytes(content)
        return len(content)
    try:
        os.link(os.path.realpath(content), target)
    except OSError:  # another file system, or a file of somebody else's
        shutil.copyfile(content, target)
        os.chmod(target, 0o755 if os.stat(content).st_mode & 0o100 else 0o644)
    return target.stat().st_size


def _archive(files: Files) -> Iterator[bytes]:
    """In the format ``newc`` (cpio(5)), folders before what is in them."""
    names: dict[str, Path | str | bytes | None] = {}
    for path in sorted(files):
        for parent in reversed(PurePosixPath(path).parents):
            if str(parent) != "/":
                names.setdefault(str(parent), None)
        names[path] = files[path]
    for number, (path, content) in enumerate(names.items(), 1):
        if content is None:
            mode, data = 0o040755, b""
        elif isinstance(content, str):
            mode, data = 0o120777, content.encode()
        else:
            data = content if isinstance(content, bytes) else content.read_bytes()
            mode = 0o100755
        yield _entry(path.lstrip("/"), number, mode, data)
    yield _entry("TRAILER!!!", 0, 0, b"")


def _entry(name: str, number: int, mode: int, data: bytes) -> bytes:
    raw = name.encode() + b"\0"
    numbers = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)
    head = b"070701" + b"".join(b"%08X" % each for each in numbers) + raw
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)
