"""What this machine offers to sandboxes, looked at by trying, with a remedy for what is missing. Never raises."""

from __future__ import annotations

import errno
import os
import platform
import resource
import signal
import sys
import sysconfig
from collections.abc import Callable

from shardwright.contracts.sandbox import Finding, Fingerprint
from shardwright.sandbox._linux import _libc
from shardwright.sandbox._linux._cgroup import ControlGroups
from shardwright.sandbox._linux._detect import detect
from shardwright.sandbox._linux._procfs import read_text

_NAMESPACES = (
    ("user", _libc.CLONE_NEWUSER),
    ("pid", _libc.CLONE_NEWPID),
    ("mount", _libc.CLONE_NEWNS),
    ("network", _libc.CLONE_NEWNET),
)
_CAPABILITIES = {"CAP_KILL": 5, "CAP_NET_ADMIN": 12, "CAP_SYS_PTRACE": 19, "CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24}
_WANTED_DESCRIPTORS = 4096
_WANTED_SHARED_MEMORY = 256 << 20


def fingerprint(groups: ControlGroups | None = None) -> Fingerprint:
    """Everything that ``doctor`` shows about sandboxes. ``usable``: the ``process`` backend can run here.

    ``groups`` are the control groups already in use; without, they are found by trying and left as they were.
    """
    checks: tuple[Callable[[], list[Finding]], ...] = (
        _system,
        _user,
        lambda: _control_groups(groups),
        _pidfd,
        _namespaces,
        _filters,
        _memory_files,
        _descriptors,
        _python,
    )
    findings: list[Finding] = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # one check that this machine breaks must not hide the others
            findings.append(Finding(getattr(check, "__name__", "check").strip("_<>"), False, f"not known: {error!r}"))
    usable = sys.platform == "linux" and any(each.name == "pidfd" and each.present for each in findings)
    return Fingerprint(usable, tuple(findings))


def in_container() -> str:
    """The kind of container that we seem to be in, "" for none."""
    if os.path.exists("/.dockerenv"):
        return "docker"
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/var/run/secrets/kubernetes.io"):
        return "kubernetes"
    return (read_text("/run/systemd/container") or "").strip()


def _system() -> list[Finding]:
    release = platform.release()
    numbers = [int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal()]
    container = in_container()
    return [
        Finding(
            "kernel",
            numbers >= [5, 4],
            f"{platform.system()} {release} {platform.machine()}",
            "" if numbers >= [5, 4] else "use Linux 5.4 or later",
        ),
        Finding(
            "container", True, f"inside one ({container})" if container else "not inside one, as far as can be told"
        ),
    ]


def _user() -> list[Finding]:
    effective = 0
    for line in (read_text("/proc/self/status") or "").splitlines():
        if line.startswith("CapEff:"):
            effective = int(line.split()[1], 16)
    held = [name for name, bit in _CAPABILITIES.items() if effective >> bit & 1]
    lacking = [name for name in _CAPABILITIES if name not in held]
    remedy = "run as root (in a container: --cap-add SYS_ADMIN); only namespaces of the whole machine need it"
    return [
        Finding("user", True, f"uid {os.geteuid()}{' (root)' if os.geteuid() == 0 else ''}, gid {os.getegid()}"),
        Finding(
            "capabilities",
            "CAP_SYS_ADMIN" in held,
            f"held: {', '.join(held) or 'none'}" + (f"; lacking: {', '.join(lacking)}" if lacking else ""),
            "" if "CAP_SYS_ADMIN" in held else remedy,
        ),
    ]


def _control_groups(groups: ControlGroups | None) -> list[Finding]:
    found = detect() if groups is None else groups
    try:
        remedy = found.remedy if found.reason else ""
        findings = [
            Finding(
                "control groups",
                found.version > 0,
                f"version {found.version}" if found.version else found.reason,
                "" if found.version else remedy,
            )
        ]
        for name in ("cpu", "memory", "pids"):
            there = name in found.enforces
            detail = "ceilings are enforced" if there else f"ceilings are not enforced: {found.reason}"
            findings.append(Finding(f"control group {name}", there, detail, "" if there else remedy))
        return findings
    finally:
        if groups is None:
            found.close()


def _pidfd() -> list[Finding]:
    try:
        descriptor = os.pidfd_open(os.getpid())
    except (AttributeError, OSError) as error:
        return [Finding("pidfd", False, str(error), "use Linux 5.4 or later, outside of filters that deny pidfd_open")]
    try:
        signal.pidfd_send_signal(descriptor, 0)
    finally:
        os.close(descriptor)
    return [Finding("pidfd", True, "processes are held by descriptor")]


def _namespaces() -> list[Finding]:
    findings = [_namespace(name, flag, _try_unshare(flag)) for name, flag in _NAMESPACES]
    if all(each.present for each in findings[1:]):
        return findings
    # without privileges the others come with a user namespace of one's own
    for index, (name, flag) in enumerate(_NAMESPACES[1:], 1):
        if not findings[index].present:
            code = _try_unshare(_libc.CLONE_NEWUSER | flag)
            if code == 0:
                findings[index] = Finding(f"namespace {name}", True, "inside a user namespace")
            else:
                findings[index] = _namespace(name, flag, code)
    return findings


def _namespace(name: str, flag: int, code: int) -> Finding:
    if code == 0:
        return Finding(f"namespace {name}", True, "may be unshared")
    container = in_container()
    if container:
        remedy = (
            f"this {container} container denies unshare: start it with --security-opt seccomp=unconfined "
            "(and --cap-add SYS_ADMIN), or run outside; the process backend works as it is"
        )
    elif code == errno.ENOSPC:
        remedy = "raise sysctl user.max_user_namespaces (and its fellows) above 0"
    elif flag == _libc.CLONE_NEWUSER:
        remedy = "permit user namespaces: sysctl kernel.unprivileged_userns_clone=1 (Debian), or "
        remedy += "kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
    else:
        remedy = "run as root, or permit user namespaces; the process backend works as it is"
    return Finding(f"namespace {name}", False, f"unshare is denied: {os.strerror(code)}", remedy)


def _try_unshare(flags: int) -> int:
    """Do it in a forked child, which it cannot harm. Returns the errno, 0 for success."""
    pid = os.fork()
    if pid == 0:
        code = 0
        try:
            _libc.unshare(flags)
        except OSError as error:
            code = error.errno or 255
        except BaseException:
            code = 255
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _filters() -> list[Finding]:
    findings = []
    try:
        _libc.prctl(_libc.PR_SET_SECCOMP, _libc.SECCOMP_MODE_FILTER, 0)
        code = 0
    except OSError as error:
        code = error.errno or 0
    # a filter at address 0 cannot be read: EFAULT says that the kernel would have taken one
    there = code in (errno.EFAULT, errno.EACCES)
    status = _libc.prctl(_libc.PR_GET_SECCOMP)
    findings.append(
        Finding(
            "seccomp",
            there,
            "filters can be installed" + (", one is in force already" if status == _libc.SECCOMP_MODE_FILTER else "")
            if there
            else os.strerror(code),
            "" if there else "use a kernel with CONFIG_SECCOMP_FILTER",
        )
    )
    try:
        findings.append(Finding("landlock", True, f"ABI {_libc.landlock_abi()}"))
    except OSError as error:
        remedy = "use Linux 5.13 or later with landlock among its security modules (lsm=landlock,…)"
        findings.append(Finding("landlock", False, error.strerror or str(error), remedy))
    return findings


def _memory_files() -> list[Finding]:
    findings = []
    try:
        os.close(os.memfd_create("shardwright-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        findings.append(Finding("memfd", True, "sealed shared memory without names"))
    except OSError as error:
        findings.append(Finding("memfd", False, error.strerror or str(error), "use a kernel with CONFIG_MEMFD_CREATE"))
    try:
        room = os.statvfs("/dev/shm")
        size, free = room.f_blocks * room.f_frsize, room.f_bavail * room.f_frsize
        enough = size >= _WANTED_SHARED_MEMORY or size == 0
        findings.append(
            Finding(
                "/dev/shm",
                enough,
                f"{free >> 20} of {size >> 20} MiB free",
                "" if enough else "give it 256 MiB at least (docker: --shm-size=256m)",
            )
        )
    except OSError as error:
        findings.append(Finding("/dev/shm", False, error.strerror or str(error), "mount a tmpfs at /dev/shm"))
    return findings


def _descriptors() -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = hard == resource.RLIM_INFINITY or hard >= _WANTED_DESCRIPTORS
    remedy = "" if enough else f"raise the hard limit of open files to {_WANTED_DESCRIPTORS} at least (ulimit -Hn)"
    return [Finding("open files", enough, f"soft limit {soft}, hard limit {hard}", remedy)]


def _python() -> list[Finding]:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    starts = "spawn, template" if hasattr(os, "fork") else "none: os.fork is missing"
    version = platform.python_version()
    return [
        Finding(
            "python",
            hasattr(os, "fork"),
            f"{platform.python_implementation()} {version}{' free-threaded' if free_threaded else ''} "
            f"({sys.executable}); starts: {starts}",
        )
    ]
