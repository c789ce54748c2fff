"""The walls that a guest closes behind itself: what its sandbox cannot do for it, done before user code serves anybody.

A template is in namespaces of its own from its first instruction. Each of its forks gets namespaces of its own in turn: the
template unshares the pid namespace around ``os.fork`` (so that libc's and Python's at-fork handlers run), the fork the others,
with a /proc, a temporary folder, a shared memory folder and a loopback of its own. When the node has said who it is, and it
is in its control groups, it gives up its powers, shuts itself in by Landlock, and installs the filter that the template
could not have.
The node looks at the result from outside before it lets anybody speak to the shard.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import stat
import struct

from shardwright.errors import SandboxError
from shardwright.guest._wanted_walls import Walls

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 4, 22, 38, 47
_FILTER, _AMBIENT_CLEAR_ALL = 2, 4
_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC, _NEWPID, _NEWNET = (
    0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x20000000, 0x40000000,
)  # fmt: skip
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _MOVE, _REC = 1, 2, 4, 8, 0x1000, 0x2000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH, _RULE_PORT = 1, 2
_EXECUTE, _WRITE, _READ, _LIST, _MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL = (
    1, 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15,
)  # fmt: skip
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCRATCH = ("/tmp", "/dev/shm")
_STAGE = "/.hidden/stage"
_PIDS = ctypes.c_int(_NEWPID)


def undumpable() -> None:
    """Memory, descriptors and environment of this process are nobody's to look at from now on, and of its forks."""
    _prctl(_PR_SET_DUMPABLE, 0)


class Fence:
    """What a template needs to give its forks walls of their own."""

    def __init__(self, walls: Walls) -> None:
        self._walls = walls
        self._own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._covered = _mounted_beneath(_SCRATCH)
        undumpable()

    def before_fork(self) -> None:
        """The process that is forked next will be the first of a new pid namespace. Raises OSError."""
        _checked(_LIBC.unshare(_PIDS))

    def after_fork(self) -> None:
        """In the template: forks are in its own pid namespace again. Raises OSError."""
        _checked(_LIBC.setns(ctypes.c_int(self._own_pids), _PIDS))

    def enter(self) -> None:
        """In the fork: namespaces, in them what is its own, and Landlock, after which it never mounts again.

        Raises SandboxError. To be called with a single thread of Python's.
        """
        os.close(self._own_pids)
        step = "make its namespaces"
        try:
            _checked(
                _LIBC.unshare(ctypes.c_int(_NEWNS | _NEWUTS | _NEWIPC | (_NEWNET if self._walls.own_network else 0)))
            )
            step = "mount its /proc"
            _mount("proc", "/proc", "proc", _RDONLY | _NOSUID | _NODEV | _NOEXEC)
            step = "make its temporary folder"
            for folder in _SCRATCH:
                self._scratch(folder)
            if self._walls.own_network:
                step = "bring up its loopback"
                _loopback_up()
            step = "shut itself in (Landlock)"
            _landlock(self._walls)
        except OSError as error:
            raise SandboxError(f"a fork of the template could not {step}: {error}") from error

    def _scratch(self, folder: str) -> None:
        options = f"mode=1777,size={self._walls.scratch_bytes},nr_inodes=64k"
        covered = [path for path in self._covered if path.startswith(f"{folder}/")]
        if not covered:
            _mount("scratch", folder, "tmpfs", _NOSUID | _NODEV, options)
            return
        # what is shown beneath it stays: the new one is filled first, where nobody looks
        _mount("scratch", _STAGE, "tmpfs", _NOSUID | _NODEV, options)
        for path in covered:
            there = _STAGE + path[len(folder) :]
            if os.path.isdir(path):
                os.makedirs(there, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(there), exist_ok=True)
                os.close(os.open(there, os.O_CREAT | os.O_WRONLY, 0o600))
            _mount(path, there, "", _BIND | _REC)
        _mount(_STAGE, folder, "", _MOVE)


def close_walls(walls: Walls, *, forked: bool) -> None:
    """Give up what is left of power, in this process and all that it starts, for good. Raises SandboxError.

    ``forked``: by a template, and it entered its namespaces (``Fence.enter``).

    To be called with a single thread of Python's, once the process is in its control groups.
    """
    step = "hide itself"
    try:
        undumpable()
        if forked:
            step = "make its control-group namespace"
            _checked(_LIBC.unshare(ctypes.c_int(_NEWCGROUP)))
        step = "give up its powers"
        _prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
        _drop_capabilities()
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if not forked:
            step = "shut itself in (Landlock)"
            _landlock(walls)
        if forked:
            step = "install its filter"
            _install(walls.tighten)
    except OSError as error:
        raise SandboxError(f"the shard could not {step}: {error}") from error


def _mounted_beneath(folders: tuple[str, ...]) -> list[str]:
    """What is shown where temporary folders are made: the outermost of each."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = sorted(line.split()[4].replace("\\040", " ") for line in file)
    found: list[str] = []
    for point in points:
        beneath = point.startswith(tuple(f"{folder}/" for folder in folders))
        if beneath and not any(point.startswith(f"{other}/") for other in found):
            found.append(point)
    return found


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _prctl(option: int, second: int, third: int = 0) -> None:
    zero = ctypes.c_ulong(0)
    _checked(_LIBC.prctl(ctypes.c_int(option), ctypes.c_ulong(second), ctypes.c_ulong(third), zero, zero))


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    _checked(
        _LIBC.mount(
            os.fsencode(source), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags),
            options.encode() or None,
        )
    )  # fmt: skip


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(control, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))


def _drop_capabilities() -> None:
    header, values = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _checked(_LIBC.capset(ctypes.byref(header), ctypes.byref(values)))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def _install(steps: bytes) -> None:
    program = _Program(len(steps) // 8, steps)
    zero = ctypes.c_ulong(0)
    _checked(_LIBC.prctl(ctypes.c_int(_PR_SET_SECCOMP), ctypes.c_ulong(_FILTER), ctypes.byref(program), zero, zero))


def _landlock(walls: Walls) -> None:
    """Files: what is shown may be read, what is declared written. TCP: the declared ports. Signals, abstract sockets: none
    of others. As much of it as the kernel knows; nothing where it has no Landlock, for then namespaces stand alone."""
    abi = _LIBC.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return
    known = (1 << 13) - 1 | (_REFER if abi >= 2 else 0) | (_TRUNCATE if abi >= 3 else 0) | (_IOCTL if abi >= 5 else 0)
    ports = _BIND_TCP | _CONNECT_TCP if abi >= 4 and (walls.ports or not walls.own_network) else 0
    attributes = struct.pack("=QQQ", known, ports, 3)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    ruleset = _checked(
        _LIBC.syscall(
            ctypes.c_long(_CREATE_RULESET), attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)
        )
    )  # fmt: skip
    try:
        _permit(ruleset, "/", known & (_EXECUTE | _READ | _LIST))
        for path in (*_SCRATCH, *walls.write):
            _permit(ruleset, path, known & ~(_MAKE_CHAR | _MAKE_BLOCK | _IOCTL))
        _permit(ruleset, "/dev", known & (_READ | _WRITE | _LIST | _IOCTL))
        for port in walls.ports if ports else ():
            rule = struct.pack("=QQ", _CONNECT_TCP, port)
            _checked(
                _LIBC.syscall(
                    ctypes.c_long(_ADD_RULE), ctypes.c_int(ruleset), ctypes.c_int(_RULE_PORT), rule, ctypes.c_uint32(0)
                )
            )  # fmt: skip
        _checked(_LIBC.syscall(ctypes.c_long(_RESTRICT_SELF), ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _permit(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
        rule = struct.pack("=Qi", rights, descriptor)
        _checked(
            _LIBC.syscall(
                ctypes.c_long(_ADD_RULE), ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH), rule, ctypes.c_uint32(0)
            )
        )  # fmt: skip
    finally:
        os.close(descriptor)
