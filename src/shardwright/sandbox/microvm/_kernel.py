"""The kernel that machines boot, and those of its modules that they need: of a folder with ``boot`` and ``lib/modules``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from shardwright.errors import SandboxError

MODULES = (
    *("virtio_pci", "virtio_blk", "ext4", "overlay", "virtio_console", "vmw_vsock_virtio_transport"),
    *("virtio_balloon", "virtio_rng"),
)
_NEEDED = frozenset({"virtio_blk", "ext4", "overlay"})
_NAMES = re.compile(rb"\0depends=([^\0]*)\0")


class Kernel(Struct, frozen=True):
    """An image and its modules, each after those that it needs. ``plain`` is the uncompressed image, where there is one."""

    image: Path
    modules: tuple[Path, ...]
    plain: Path | None

    @property
    def release(self) -> str:
        return self.image.name.partition("-")[2]


def find_kernel(folder: Path) -> Kernel:
    """The newest in ``folder`` that has modules beside it. Raises SandboxError."""
    found = [
        (image, modules)
        for image in sorted((folder / "boot").glob("vmlinuz-*"), key=_version, reverse=True)
        for base in (folder / "lib", folder / "usr" / "lib")
        if (modules := base / "modules" / image.name.partition("-")[2]).is_dir()
    ]
    if not found:
        raise SandboxError(
            f"there is no kernel with modules in {folder}",
            remedy="unpack Debian's linux-image-cloud-amd64 somewhere (dpkg-deb -x) and set SHARDWRIGHT_KERNEL to that folder",
        )
    image, modules = found[0]
    plain = image.with_name(f"vmlinux-{image.name.partition('-')[2]}")
    return Kernel(image, _with_needs(modules), plain if plain.exists() else None)


def _version(image: Path) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", image.name))


def _with_needs(folder: Path) -> tuple[Path, ...]:
    there = {path.name.partition(".")[0].replace("-", "_"): path for path in folder.rglob("*.ko")}
    built_in = _built_in(folder)
    wanted: dict[str, Path] = {}

    def add(name: str, needed: bool) -> None:
        name = name.replace("-", "_")
        if name in wanted or name in built_in:
            return
        path = there.get(name)
        if path is None:
            if needed:
                raise SandboxError(
                    f"the kernel in {folder} has no module {name}, or a compressed one",
                    remedy="take Debian's linux-image-cloud-amd64",
                )
            return
        said = _NAMES.search(path.read_bytes())
        for each in _split(said[1].decode() if said else ""):
            add(each, True)
        wanted[name] = path

    for name in MODULES:
        add(name, name in _NEEDED)
    return tuple(wanted.values())


def _split(names: str) -> Iterable[str]:
    return filter(None, names.split(","))


def _built_in(folder: Path) -> frozenset[str]:
    try:
        text = (folder / "modules.builtin").read_text()
    except OSError:
        return frozenset()
    return frozenset(os.path.basename(line).partition(".")[0].replace("-", "_") for line in text.splitlines())
