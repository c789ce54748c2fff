"""What is found on this machine, and what is said where something is denied."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct

import pytest

from shardwright.sandbox._linux import _findings, _libc
from shardwright.sandbox.process import ProcessBackend

_UNSHARE = {"x86_64": 272, "aarch64": 97}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def deny_unshare() -> None:
    """What a container's default filter does: unshare(2) fails with EPERM, for good."""
    _libc.prctl(_libc.PR_SET_NO_NEW_PRIVS, 1)
    code = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),  # load the number of the call
            (0x15, 0, 1, _UNSHARE[platform.machine()]),
            (0x06, 0, 0, 0x00050001),  # return EPERM
            (0x06, 0, 0, 0x7FFF0000),  # allow
        )
    )
    buffer = ctypes.create_string_buffer(code)
    program = _Program(4, ctypes.cast(buffer, ctypes.c_void_p))
    _libc.prctl(_libc.PR_SET_SECCOMP, _libc.SECCOMP_MODE_FILTER, ctypes.addressof(program))


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


@pytest.mark.skipif(platform.machine() not in _UNSHARE, reason="the number of unshare is not known here")
def test_denied_unshare_is_told_with_a_remedy() -> None:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            deny_unshare()
            fingerprint = ProcessBackend().fingerprint()
            answer = [[each.name, each.present, each.detail, each.remedy] for each in fingerprint.findings]
            os.write(write_end, json.dumps([fingerprint.usable, answer]).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    try:
        with open(read_end, "rb") as reader:
            usable, answer = json.loads(reader.read())
    finally:
        os.waitpid(pid, 0)
    assert usable, "the process backend needs no namespaces"
    findings = {name: (present, detail, remedy) for name, present, detail, remedy in answer}
    for name in ("user", "pid", "mount", "network"):
        present, detail, remedy = findings[f"namespace {name}"]
        assert not present
        assert detail == "unshare is denied: Operation not permitted"
        assert "process backend works as it is" in remedy or "user namespaces" in remedy
    assert findings["seccomp"][:2] == (True, "filters can be installed, one is in force already")


def test_a_broken_check_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[_findings.Finding]:
        raise RuntimeError("this machine is odd")

    monkeypatch.setattr(_findings, "_namespaces", broken)
    fingerprint = _findings.fingerprint()
    assert fingerprint.usable
    assert any("this machine is odd" in finding.detail for finding in fingerprint.findings)
