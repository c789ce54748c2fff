"""The seccomp profile, run as the kernel runs it."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardwright.sandbox.namespace import _seccomp
from shardwright.sandbox.namespace._syscalls import ALLOWED, JUDGED

X86 = 0xC000003E
ALLOW, KILL = 0x7FFF0000, 0x80000000


def _run(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = X86) -> int:
    """Classic BPF over ``struct seccomp_data``: the verdict."""
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(each & 0xFFFFFFFFFFFFFFFF for each in padded))
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    accumulator = at = 0
    while True:
        code, yes, no, operand = steps[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x06:
            return operand
        else:
            true = {0x15: accumulator == operand, 0x35: accumulator >= operand, 0x45: bool(accumulator & operand)}[code]
            at += yes if true else no


def _errno(verdict: int) -> int:
    assert verdict & 0xFFFF0000 == 0x50000, hex(verdict)
    return verdict & 0xFFFF


@pytest.fixture(autouse=True)
def _on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_seccomp.platform, "machine", lambda: "x86_64")


def _call(name: str) -> int:
    return (ALLOWED | JUDGED)[name][0]


@given(st.integers(0, 1100))
def test_it_allows_what_is_named_and_nothing_else(number: int) -> None:
    if number in {numbers[0] for numbers in JUDGED.values()}:
        return
    verdict = _run(_seccomp.profile(), number)
    if number in {numbers[0] for numbers in ALLOWED.values()}:
        assert verdict == ALLOW
    else:
        assert _errno(verdict) == (errno.EPERM if number < 463 else errno.ENOSYS)


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone3", (), errno.ENOSYS),
        ("clone", (0x00010F00,), 0),  # a thread
        ("clone", (17,), 0),  # a fork
        ("clone", (0x10000000 | 17,), errno.EPERM),
        ("clone", (0x40000000 | 17,), errno.EPERM),
        ("socket", (1, 1), 0),
        ("socket", (2, 1 | 0o2000000), 0),
        ("socket", (10, 2), 0),
        ("socket", (2, 3), errno.EPERM),
        ("socket", (16, 3), errno.EAFNOSUPPORT),
        ("socket", (17, 3), errno.EAFNOSUPPORT),
        ("socketpair", (1, 1), 0),
        ("socketpair", (2, 1), errno.EAFNOSUPPORT),
        ("ioctl", (0, 0x5401), 0),
        ("ioctl", (0, 0x5412), errno.EPERM),
        ("ioctl", (0, 0x15412), 0),
        ("ioctl", (0, 0x8914), errno.EPERM),
        ("prctl", (15,), 0),
        ("prctl", (4, 0), 0),
        ("prctl", (4, 1), errno.EPERM),
        ("prctl", (35, 1), errno.EPERM),
        ("fallocate", (3, 0), 0),
        ("fallocate", (3, 1), 0),
        ("fallocate", (3, 3), errno.EOPNOTSUPP),
        ("madvise", (0, 0, 4), 0),
        ("madvise", (0, 0, 9), errno.EPERM),
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0x0040000,), errno.EPERM),
        ("mknod", (0, 0o010600), 0),
        ("mknod", (0, 0o020600), errno.EPERM),
        ("mknodat", (0, 0, 0o060600), errno.EPERM),
        ("unshare", (0x20000,), errno.EPERM),
        ("setns", (3, 0x20000000), errno.EPERM),
        ("mount", (), errno.EPERM),
    ],
)
def test_it_judges_by_arguments(name: str, arguments: tuple[int, ...], expected: int) -> None:
    verdict = _run(_seccomp.profile(), _call(name), arguments)
    assert (verdict == ALLOW) if expected == 0 else (_errno(verdict) == expected)


@pytest.mark.parametrize(
    ("name", "arguments", "in_template"),
    [
        ("unshare", (0x20000000,), True),
        ("unshare", (0x4C020000,), True),
        ("unshare", (0x10000000,), False),  # a user namespace
        ("unshare", (0x80,), False),  # a time namespace
        ("setns", (3, 0x20000000), True),
        ("setns", (3, 0), False),
        ("setns", (3, 0x10000000), False),
        ("mount", (), True),
        ("umount2", (), False),
        ("pivot_root", (), False),
        ("ioctl", (0, 0x8914), True),
        ("clone", (0x20000000 | 17,), False),
    ],
)
def test_a_template_may_what_its_forks_need_and_they_may_not(
    name: str, arguments: tuple[int, ...], in_template: bool
) -> None:
    number = _call(name)
    template = _run(_seccomp.profile(template=True), number, arguments)
    assert (template == ALLOW) == in_template
    fork = min(template, _run(_seccomp.tighten(), number, arguments))  # the strictest of all filters counts
    assert fork != ALLOW


def test_another_table_of_system_calls_is_the_end() -> None:
    assert _run(_seccomp.profile(), 20, arch=0x40000003) == KILL
    assert _run(_seccomp.tighten(), 20, arch=0x40000003) == KILL
    assert _errno(_run(_seccomp.profile(), 0x40000000 | 1)) == errno.ENOSYS


def test_both_architectures_have_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_seccomp.platform, "machine", lambda: "aarch64")
    program = _seccomp.profile(template=True)
    assert _run(program, ALLOWED["read"][1], arch=0xC00000B7) == ALLOW
    assert _errno(_run(program, 280, arch=0xC00000B7)) == errno.EPERM  # bpf
    monkeypatch.setattr(_seccomp.platform, "machine", lambda: "sparc")
    assert not _seccomp.supported()
