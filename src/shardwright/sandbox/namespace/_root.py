"""A new root folder, put together from detached mounts in a mount namespace that nobody else sees.

It is made by a process of the keeper's own user namespace; the sandbox gets a copy in a user namespace of its own, in which
the kernel locks every mount: what is read-only here stays so, whatever capabilities somebody gains inside.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable

from shardwright.sandbox._linux import _libc
from shardwright.sandbox.namespace._followed import above
from shardwright.sandbox.namespace._view import DEVICES, SCRATCH, View

STAGE = "/tmp"  # there on every machine; hidden by the new root in the private namespace alone
_SCRATCH_MODE = "mode=1777"
_HIDDEN = "/.hidden"


def build(view: View, owner_map: Callable[[], int], scratch_bytes: int) -> None:
    """Make the new root at ``STAGE``.

    ``owner_map`` gives a user namespace that maps our files to the sandbox's user, or -1; asked as late as can be. Raises
    OSError that names the path.
    """
    _libc.unshare(_libc.CLONE_NEWNS)
    _libc.mount("none", "/", "", _libc.MS_REC | _libc.MS_PRIVATE)
    trees = {place.path: _libc.open_tree(place.path, plainly=True) for place in view.places}
    devices = {path: _libc.open_tree(path) for path in (*(f"/dev/{name}" for name in DEVICES), *view.devices)}
    empties = [path for path in view.masked if os.path.isdir(path)]
    flags = _libc.MS_NOSUID | _libc.MS_NODEV
    _libc.mount("root", STAGE, "tmpfs", flags, "mode=0755,size=4m,nr_inodes=16k")
    for folder in ("/proc", "/dev", _HIDDEN, *SCRATCH):
        os.makedirs(STAGE + folder, exist_ok=True)
    for folder in SCRATCH:
        _libc.mount("scratch", STAGE + folder, "tmpfs", flags, f"{_SCRATCH_MODE},size={scratch_bytes},nr_inodes=64k")
    for path, target in view.links:
        _link(path, target)
    for place in sorted(view.places, key=lambda place: place.owned):
        _restrict(trees[place.path], place.writable, owner_map() if place.owned else -1)
    for path in sorted(trees):
        _point(path, trees[path], trees)
        _libc.move_mount(trees[path], STAGE + path)
        os.close(trees[path])
    for path, tree in devices.items():
        _point(path, tree, ())
        _libc.move_mount(tree, STAGE + path)
        os.close(tree)
    for path, text in view.files:
        os.makedirs(os.path.dirname(STAGE + path), exist_ok=True)
        with open(STAGE + path, "x", encoding="utf-8") as file:
            file.write(text)
        os.chmod(STAGE + path, 0o444)
    for name, target in (
        ("fd", "/proc/self/fd"),
        *((f"std{w}", f"/proc/self/fd/{n}") for n, w in enumerate(("in", "out", "err"))),
    ):
        os.symlink(target, f"{STAGE}/dev/{name}")
    for folder in view.folders:
        with contextlib.suppress(FileExistsError):
            os.makedirs(STAGE + folder)
    _mask(view, set(empties))
    root = os.open(STAGE, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _libc.set_mount_attributes(root, _libc.MOUNT_ATTR_RDONLY | _libc.MOUNT_ATTR_NOSUID, recursive=False)
    finally:
        os.close(root)


def _restrict(tree: int, writable: bool, owner_map: int) -> None:
    attributes = _libc.MOUNT_ATTR_NOSUID | _libc.MOUNT_ATTR_NODEV | (0 if writable else _libc.MOUNT_ATTR_RDONLY)
    if owner_map >= 0:
        try:
            _libc.set_mount_attributes(tree, attributes, user_namespace=owner_map)
            return
        except OSError:
            pass  # not every file system can: then its files are seen as they are, by a user who owns none of them
    _libc.set_mount_attributes(tree, attributes)


def _point(path: str, tree: int, mounted: Iterable[str]) -> None:
    """Something of the right kind to mount upon. Beneath another mount it is there, or a shard has taken it away since."""
    there = STAGE + path
    if os.path.lexists(there) or above(os.path.dirname(path), mounted) is not None:
        return
    os.makedirs(os.path.dirname(there), exist_ok=True)
    if stat.S_ISDIR(os.fstat(tree).st_mode):
        os.mkdir(there)
    else:
        os.close(os.open(there, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o444))


def _link(path: str, target: str) -> None:
    there = STAGE + path
    if not os.path.lexists(there):
        os.makedirs(os.path.dirname(there), exist_ok=True)
        os.symlink(target, there)


def _mask(view: View, folders: set[str]) -> None:
    """Empty things that nobody may open, over what is not to be seen."""
    os.mkdir(f"{STAGE}{_HIDDEN}/stage")  # where a fork fills its temporary folder
    os.mkdir(f"{STAGE}{_HIDDEN}/folder", 0)
    os.close(os.open(f"{STAGE}{_HIDDEN}/file", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0))
    for path in view.masked:
        source = f"{STAGE}{_HIDDEN}/{'folder' if path in folders else 'file'}"
        tree = _libc.open_tree(source)
        try:
            _libc.move_mount(tree, STAGE + path)
        finally:
            os.close(tree)
