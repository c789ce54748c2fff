"""The seccomp profile, as programs for the kernel's filter machine (classic BPF over ``struct seccomp_data``).

An allow-list: what ``_syscalls`` does not name is answered EPERM, and what is too new for it ENOSYS, so that libraries fall
back. ``template`` may also make namespaces and mounts, for its forks need them; ``tighten`` is the second filter, by which
a forked shard gives that up. docs/security.md lists the profile; programs are written by hand, for bindings of libseccomp are
either unmaintained or need a system library, and the profile is data.
"""

from __future__ import annotations

import errno
import platform
import struct

from msgspec import Struct

from shardwright.sandbox.namespace._syscalls import ALLOWED, JUDGED

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _RETURN, _AND = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54
_NUMBER, _ARCH = 0, 4
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000

NAMESPACES = 0x7E020080  # every CLONE_NEW flag
_SHARD_NAMESPACES = 0x6E020000  # those of a fork: pid, network, mount, ipc, uts, cgroup; never user or time
_NEWPID = 0x20000000
_DEVICES = (0o020000, 0o060000)
_SOCKET_DOMAINS = (1, 2, 10)  # unix, inet, inet6
_SOCKET_TYPES = (1, 2, 5)  # stream, datagram, seqpacket
_IOCTLS_DENIED = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX: typing for whoever sits at the terminal
_SIOCSIFFLAGS = 0x8914
_PRCTL_DENIED = (35, 0x59616D61)  # PR_SET_MM, PR_SET_PTRACER
_PR_SET_DUMPABLE = 4
_MADV_REMOVE = 9
_NEWEST = 463  # system calls from here on are unknown to this version

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


class _Step(Struct, frozen=True):
    code: int
    operand: int
    yes: int | str = 0  # how many to skip, or the label to go to
    no: int | str = 0
    label: str = ""


class _Program:
    """Steps with labels; jumps are resolved at the end."""

    def __init__(self, column: int) -> None:
        self._steps: list[_Step] = []
        self._column = column

    def add(self, code: int, operand: int, yes: int | str = 0, no: int | str = 0, label: str = "") -> None:
        self._steps.append(_Step(code, operand, yes, no, label))

    def answer(self, verdict: int, label: str = "") -> None:
        self.add(_RETURN, verdict, label=label)

    def argument(self, index: int) -> None:
        """The lower half of an argument: what the kernel looks at for flags, kinds and commands."""
        self.add(_LOAD, 16 + 8 * index)

    def call(self, name: str) -> int:
        return JUDGED[name][self._column]

    def bytes(self) -> bytes:
        places = {step.label: index for index, step in enumerate(self._steps) if step.label}
        out = bytearray()
        for index, step in enumerate(self._steps):
            yes, no = (places[to] - index - 1 if isinstance(to, str) else to for to in (step.yes, step.no))
            if not (0 <= yes < 256 and 0 <= no < 256):
                raise AssertionError(f"a jump of {max(yes, no)} steps is too far")
            out += struct.pack("<HBBI", step.code, yes, no, step.operand)
        return bytes(out)


def supported() -> bool:
    """Whether there is a profile for this machine's architecture."""
    return platform.machine() in ARCHITECTURES


def profile(*, template: bool = False) -> bytes:
    """The filter of a shard, or of a template. Raises KeyError for other architectures than x86-64 and arm64."""
    arch, column = ARCHITECTURES[platform.machine()]
    program = _begin(arch, column)
    program.add(_JUMP_GE, _NEWEST, 0, 1)
    program.answer(_ERRNO | errno.ENOSYS)
    _judge(program, template)
    # the kernel keeps what is allowed whatever its arguments in a bitmap, so this chain is walked once for each number
    for first, last in _ranges(sorted(numbers[column] for numbers in ALLOWED.values() if numbers[column] >= 0)):
        program.add(_JUMP_GE, first, 0, 2)
        program.add(_JUMP_GE, last + 1, 1, 0)
        program.answer(_ALLOW)
    program.answer(_ERRNO | errno.EPERM)
    return program.bytes()


def tighten() -> bytes:
    """What a fork adds to the template's filter: denies what a shard may not do."""
    arch, column = ARCHITECTURES[platform.machine()]
    program = _begin(arch, column)
    for name in ("unshare", "setns", "mount", "umount2", "pivot_root"):
        program.add(_JUMP_EQ, program.call(name), 0, 1)
        program.answer(_ERRNO | errno.EPERM)
    _denied_ioctls(program, (_SIOCSIFFLAGS,))
    program.answer(_ALLOW)
    return program.bytes()


def _begin(arch: int, column: int) -> _Program:
    program = _Program(column)
    program.add(_LOAD, _ARCH)
    program.add(_JUMP_EQ, arch, 1, 0)
    program.answer(_KILL)  # a second system call table of the same processor is a way around the first
    program.add(_LOAD, _NUMBER)
    if column == 0:
        program.add(_JUMP_GE, _X32, 0, 1)
        program.answer(_ERRNO | errno.ENOSYS)
    return program


def _judge(program: _Program, template: bool) -> None:
    program.add(_JUMP_EQ, program.call("clone3"), 0, 1)  # its flags lie where no filter can read them
    program.answer(_ERRNO | errno.ENOSYS)
    _flags(program, "clone", 0, NAMESPACES)
    if template:
        _flags(program, "unshare", 0, ~_SHARD_NAMESPACES & 0xFFFFFFFF)
        program.add(_JUMP_EQ, program.call("mount"), 0, 1)
        program.answer(_ALLOW)
        _one_of(program, "setns", 1, (_NEWPID,), errno.EPERM)
    _sockets(program)
    _one_of(program, "socketpair", 0, (1,), errno.EAFNOSUPPORT)
    _denied_ioctls(program, _IOCTLS_DENIED if template else (*_IOCTLS_DENIED, _SIOCSIFFLAGS), final=True)
    _prctl(program)
    _one_of(program, "fallocate", 1, (0, 1), errno.EOPNOTSUPP)  # no holes into what is shared and sealed
    _none_of(program, "madvise", 2, (_MADV_REMOVE,))
    _one_of(program, "personality", 0, (0, 0xFFFFFFFF), errno.EPERM)
    for name, index in (("mknod", 1), ("mknodat", 2)):
        if program.call(name) >= 0:
            program.add(_JUMP_EQ, program.call(name), 0, 6)
            program.argument(index)
            program.add(_AND, 0o170000)
            program.add(_JUMP_EQ, _DEVICES[0], 1, 0)
            program.add(_JUMP_EQ, _DEVICES[1], 0, 1)
            program.answer(_ERRNO | errno.EPERM)
            program.answer(_ALLOW)


def _flags(program: _Program, name: str, index: int, forbidden: int) -> None:
    program.add(_JUMP_EQ, program.call(name), 0, 4)
    program.argument(index)
    program.add(_JUMP_SET, forbidden, 0, 1)
    program.answer(_ERRNO | errno.EPERM)
    program.answer(_ALLOW)


def _one_of(program: _Program, name: str, index: int, values: tuple[int, ...], code: int) -> None:
    program.add(_JUMP_EQ, program.call(name), 0, len(values) + 3)
    program.argument(index)
    for place, value in enumerate(values):
        program.add(_JUMP_EQ, value, len(values) - place, 0)
    program.answer(_ERRNO | code)
    program.answer(_ALLOW)


def _none_of(program: _Program, name: str, index: int, values: tuple[int, ...]) -> None:
    program.add(_JUMP_EQ, program.call(name), 0, len(values) + 3)
    program.argument(index)
    for place, value in enumerate(values):
        program.add(_JUMP_EQ, value, len(values) - place, 0)
    program.answer(_ALLOW)
    program.answer(_ERRNO | errno.EPERM)


def _sockets(program: _Program) -> None:
    """Domains and types that are allowed; raw and packet sockets, netlink and the many old families are not."""
    program.add(_JUMP_EQ, program.call("socket"), 0, "after sockets")
    program.argument(0)
    for domain in _SOCKET_DOMAINS:
        program.add(_JUMP_EQ, domain, "socket type", 0)
    program.answer(_ERRNO | errno.EAFNOSUPPORT)
    program.add(_LOAD, 16 + 8, label="socket type")
    program.add(_AND, 0xF)
    for kind in _SOCKET_TYPES:
        program.add(_JUMP_EQ, kind, "socket allowed", 0)
    program.answer(_ERRNO | errno.EPERM)
    program.answer(_ALLOW, label="socket allowed")
    program.add(_LOAD, _NUMBER, label="after sockets")


def _denied_ioctls(program: _Program, commands: tuple[int, ...], *, final: bool = False) -> None:
    if final:
        _none_of(program, "ioctl", 1, commands)
        return
    program.add(_JUMP_EQ, program.call("ioctl"), 0, len(commands) + 3)
    program.argument(1)
    for place, command in enumerate(commands):
        program.add(_JUMP_EQ, command, len(commands) - place, 0)
    program.answer(_ALLOW)
    program.answer(_ERRNO | errno.EPERM)


def _prctl(program: _Program) -> None:
    """A shard stays undumpable: so its memory, descriptors and environment are nobody's to read, of its own user too."""
    program.add(_JUMP_EQ, program.call("prctl"), 0, "after prctl")
    program.argument(0)
    for option in _PRCTL_DENIED:
        program.add(_JUMP_EQ, option, "prctl denied", 0)
    program.add(_JUMP_EQ, _PR_SET_DUMPABLE, 0, "prctl allowed")
    program.argument(1)
    program.add(_JUMP_EQ, 0, "prctl allowed", "prctl denied")
    program.answer(_ERRNO | errno.EPERM, label="prctl denied")
    program.answer(_ALLOW, label="prctl allowed")
    program.add(_LOAD, _NUMBER, label="after prctl")


def _ranges(numbers: list[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in dict.fromkeys(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
