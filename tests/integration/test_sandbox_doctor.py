"""What is found on this machine, and what is said where something is denied."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
from collections.abc import Callable
from typing import Any

import pytest

from shardwright.contracts.sandbox import LaunchSpec
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.sandbox._linux import _findings, _libc
from shardwright.sandbox._linux._procfs import children
from shardwright.sandbox.process import ProcessBackend

# numbers of system calls
UNSHARE = {"x86_64": 272, "aarch64": 97}
MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}
PIDFD_OPEN = {"x86_64": 434, "aarch64": 434}
LANDLOCK = {"x86_64": 444, "aarch64": 444}
MACHINE = platform.machine()
filtered = pytest.mark.skipif(MACHINE not in UNSHARE, reason="the numbers of system calls are not known here")


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def deny(*numbers: int) -> None:
    """What a container's filter does: those system calls fail with EPERM, for good."""
    _libc.prctl(_libc.PR_SET_NO_NEW_PRIVS, 1)
    code = struct.pack("HBBI", 0x20, 0, 0, 0)  # load the number of the call
    for number in numbers:
        code += struct.pack("HBBI", 0x15, 0, 1, number)
        code += struct.pack("HBBI", 0x06, 0, 0, 0x00050001)  # return EPERM
    code += struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # allow
    buffer = ctypes.create_string_buffer(code)
    program = _Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    _libc.prctl(_libc.PR_SET_SECCOMP, _libc.SECCOMP_MODE_FILTER, ctypes.addressof(program))


def in_child(work: Callable[[], object]) -> Any:
    """Do it in a forked process, which may change itself for good; what it returned."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_end, json.dumps(work()).encode())
        except BaseException as error:
            os.write(write_end, json.dumps(f"failed: {error!r}").encode())
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        with open(read_end, "rb") as reader:
            return json.loads(reader.read())
    finally:
        os.waitpid(pid, 0)


def look() -> list[object]:
    fingerprint = ProcessBackend().fingerprint()
    return [fingerprint.usable, {each.name: [each.present, each.detail, each.remedy] for each in fingerprint.findings}]


def test_findings_of_this_machine() -> None:
    fingerprint = ProcessBackend().fingerprint()
    assert fingerprint.usable
    names = [finding.name for finding in fingerprint.findings]
    assert len(names) == len(set(names))
    for name in ("kernel", "user", "capabilities", "control groups", "pidfd", "namespace user", "namespace network"):
        assert name in names
    for name in ("seccomp", "landlock", "memfd", "/dev/shm", "open files", "python", "container"):
        assert name in names
    for finding in fingerprint.findings:
        assert finding.detail, finding
        assert finding.present or finding.remedy, finding


def test_the_groups_in_use_are_what_is_told() -> None:
    backend = ProcessBackend()
    try:
        enforces = backend.capabilities().enforces
        found = {finding.name: finding.present for finding in backend.fingerprint().findings}
        assert {name: found[f"control group {name}"] for name in ("cpu", "memory", "pids")} == {
            name: name in enforces for name in ("cpu", "memory", "pids")
        }
        assert backend.capabilities().enforces == enforces, "looking must not take the groups away"
    finally:
        backend.close()


@filtered
def test_denied_unshare_is_told_with_a_remedy() -> None:
    def work() -> list[object]:
        deny(UNSHARE[MACHINE])
        return look()

    usable, findings = in_child(work)
    assert usable, "the process backend needs no namespaces"
    for name in ("user", "pid", "mount", "network"):
        present, detail, remedy = findings[f"namespace {name}"]
        assert not present
        assert detail == "unshare is denied: Operation not permitted"
        assert "process backend works as it is" in remedy or "user namespaces" in remedy
    assert findings["seccomp"][:2] == [True, "filters can be installed, one is in force already"]


@filtered
def test_what_else_may_be_denied() -> None:
    def work() -> list[object]:
        deny(MEMFD_CREATE[MACHINE], PIDFD_OPEN[MACHINE], LANDLOCK[MACHINE])
        return look()

    usable, findings = in_child(work)
    assert not usable, "nothing can be held without pidfds"
    for name in ("memfd", "pidfd", "landlock"):
        present, detail, remedy = findings[name]
        assert not present
        assert "Operation not permitted" in detail
        assert remedy


@filtered
def test_launch_without_pidfds_is_refused_and_leaves_nothing() -> None:
    def work() -> list[object]:
        backend = ProcessBackend()
        backend.capabilities()
        deny(PIDFD_OPEN[MACHINE])
        try:
            backend.launch(LaunchSpec(ShardId("doctor-1"), ("/bin/sleep", "1000"), {}, "/"))
        except SandboxError as error:
            return [error.message, len(children(os.getpid()))]
        finally:
            backend.close()
        return ["it was launched", 1]

    assert in_child(work) == ["cannot open a pidfd: Operation not permitted", 0]


def test_a_broken_check_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[_findings.Finding]:
        raise RuntimeError("this machine is odd")

    monkeypatch.setattr(_findings, "_namespaces", broken)
    fingerprint = _findings.fingerprint()
    assert fingerprint.usable
    assert any("this machine is odd" in finding.detail for finding in fingerprint.findings)
