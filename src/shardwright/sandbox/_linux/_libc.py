"""System calls that ``os`` lacks. Loaded before any fork: nothing here imports or allocates much in a child."""

from __future__ import annotations

import ctypes
import os
import platform

_LIBC = ctypes.CDLL(None, use_errno=True)
_PYLIBC = ctypes.PyDLL(None, use_errno=True)  # keeps the lock of the interpreter, for calls that return twice

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_SET_CHILD_SUBREAPER = 36
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4

SECCOMP_MODE_FILTER = 2

CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 1, 2, 4, 8
MOUNT_ATTR_IDMAP = 0x00100000
CAP_NET_ADMIN, CAP_SYS_ADMIN = 12, 21

_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
# the same numbers on every architecture
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_CLONE3, _SYS_OPENAT2, _SYS_MOUNT_SETATTR = 428, 429, 435, 437, 442
_RESOLVE_NO_SYMLINKS = 0x04
_AT_FDCWD, _AT_EMPTY_PATH, _AT_RECURSIVE = -100, 0x1000, 0x8000
_OPEN_TREE_CLONE, _OPEN_TREE_CLOEXEC = 1, 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH, _MOVE_MOUNT_T_EMPTY_PATH = 0x04, 0x40
_CAPABILITY_VERSION_3 = 0x20080522
_SYS_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_CREATE_RULESET_VERSION = 1


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    """``prctl(2)``. Raises OSError."""
    result: int = _LIBC.prctl(
        ctypes.c_int(option), ctypes.c_ulong(second), ctypes.c_ulong(third), ctypes.c_ulong(0), ctypes.c_ulong(0)
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def unshare(flags: int) -> None:
    """``unshare(2)``; ``os.unshare`` came with Python 3.12. Raises OSError."""
    if _LIBC.unshare(ctypes.c_int(flags)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def setns(descriptor: int, kind: int) -> None:
    """``setns(2)`` for this thread; ``os.setns`` came with Python 3.12. Raises OSError."""
    if _LIBC.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def landlock_abi() -> int:
    """The version of Landlock that the kernel offers. Raises OSError where it offers none."""
    version: int = _LIBC.syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET),
        ctypes.c_void_p(None),
        ctypes.c_size_t(0),
        ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION),
    )
    if version < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return version


class _MountAttributes(ctypes.Structure):
    _fields_ = (("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("propagation", ctypes.c_uint64),
                ("user_namespace", ctypes.c_uint64))  # fmt: skip


class _FilterProgram(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _checked(result: int, path: str = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path) if path else OSError(code, os.strerror(code))
    return result


def _number(call: int) -> ctypes.c_long:
    return ctypes.c_long(call)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """``mount(2)``. Raises OSError that names the target."""
    _checked(
        _LIBC.mount(
            source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
        ),
        target,
    )


def unmount(target: str, flags: int = 0) -> None:
    """``umount2(2)``. Raises OSError."""
    _checked(_LIBC.umount2(os.fsencode(target), ctypes.c_int(flags)), target)


def pivot_root(new: str, old: str) -> None:
    """``pivot_root(2)``. Raises OSError."""
    call = _SYS_PIVOT_ROOT[platform.machine()]
    _checked(_LIBC.syscall(_number(call), os.fsencode(new), os.fsencode(old)), new)


def open_plainly(path: str) -> int:
    """What is at that real path, without reading it: its descriptor. Raises OSError: ELOOP where a link was put there."""
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS)
    return _checked(
        _LIBC.syscall(
            _number(_SYS_OPENAT2), ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        ),
        path,
    )  # fmt: skip


def open_tree(path: str, *, plainly: bool = False) -> int:
    """A detached copy of everything mounted at and beneath ``path``: its descriptor. Raises OSError.

    ``plainly``: through no link.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    if plainly:
        at = open_plainly(path)
        try:
            wanted = ctypes.c_uint(flags | _AT_EMPTY_PATH)
            return _checked(_LIBC.syscall(_number(_SYS_OPEN_TREE), ctypes.c_int(at), b"", wanted), path)
        finally:
            os.close(at)
    return _checked(
        _LIBC.syscall(_number(_SYS_OPEN_TREE), ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(flags)), path
    )


def move_mount(descriptor: int, target: str) -> None:
    """Attach a detached tree, through no link. Raises OSError."""
    at = open_plainly(target)
    try:
        _checked(
            _LIBC.syscall(
                _number(_SYS_MOVE_MOUNT), ctypes.c_int(descriptor), b"", ctypes.c_int(at), b"",
                ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH),
            ),
            target,
        )  # fmt: skip
    finally:
        os.close(at)


def set_mount_attributes(descriptor: int, attributes: int, *, user_namespace: int = -1, recursive: bool = True) -> None:
    """``mount_setattr(2)`` on the tree of that descriptor. Raises OSError; then nothing was changed."""
    if user_namespace >= 0:
        attributes |= MOUNT_ATTR_IDMAP
    wanted = _MountAttributes(attributes, 0, 0, max(user_namespace, 0))
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    _checked(
        _LIBC.syscall(
            _number(_SYS_MOUNT_SETATTR), ctypes.c_int(descriptor), b"", ctypes.c_uint(flags), ctypes.byref(wanted),
            ctypes.c_size_t(ctypes.sizeof(wanted)),
        )
    )  # fmt: skip


def clone_into(flags: int) -> int:
    """A fork into new namespaces, or as a sister of this process (CLONE_PARENT); 0 in the child. Raises OSError.

    libc's and Python's at-fork handlers do not run: only for a process with one thread that started none ever.
    """
    arguments = (ctypes.c_uint64 * 11)(flags)
    return _checked(_PYLIBC.syscall(_number(_SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(88)))


def set_capabilities(held: frozenset[int], inheritable: frozenset[int] = frozenset()) -> None:
    """Give up every capability but those ``held``. Raises OSError."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    amount, kept = sum(1 << each for each in held), sum(1 << each for each in inheritable)
    low, high = 0xFFFFFFFF, 32
    values = (ctypes.c_uint32 * 6)(
        amount & low, amount & low, kept & low, amount >> high, amount >> high, kept >> high
    )  # fmt: skip
    _checked(_LIBC.capset(ctypes.byref(header), ctypes.byref(values)))


def install_filter(steps: bytes) -> None:
    """A seccomp filter, for this thread and all that it starts. Needs no_new_privs. Raises OSError."""
    program = _FilterProgram(len(steps) // 8, steps)
    _checked(
        _LIBC.prctl(
            ctypes.c_int(PR_SET_SECCOMP), ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program),
            ctypes.c_ulong(0), ctypes.c_ulong(0),
        )
    )  # fmt: skip
