"""NamespaceBackend: sandboxes of namespaces, a root folder of their own, no powers and few system calls."""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import resource

from shardwright.contracts.sandbox import Capabilities, Finding, Fingerprint, LaunchSpec, SandboxHandle
from shardwright.errors import SandboxError
from shardwright.sandbox._linux import _pidfd
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox._linux._procfs import children, process_stat, read_text, start_ticks
from shardwright.sandbox.namespace import _seccomp
from shardwright.sandbox.namespace._sandbox import NamespaceSandbox
from shardwright.sandbox.namespace._start import BoxPlan, Started, start
from shardwright.sandbox.namespace._view import view_of
from shardwright.sandbox.process import ProcessBackend

_USERS = range(0x70000000, 0x7FFFFFF0)  # nobody's, by the convention of systemd's "Users, Groups, UIDs and GIDs"
_MAX_OPEN_FILES = 65536
_LOOKS, _LOOK_S = 500, 0.002
SCRATCH_BYTES = 256 * 2**20  # of the temporary folder; what is in it counts as the shard's memory, too


def check_program(spec: LaunchSpec) -> None:
    """Whether that program can be shown within walls. Raises SandboxError."""
    if not _seccomp.supported():
        raise SandboxError("there is no seccomp profile for this architecture", remedy='use isolation = "process"')
    if not os.path.isabs(spec.arguments[0]):
        raise SandboxError(f"{spec.arguments[0]!r} is no absolute path", remedy="a sandbox has no search path")
    for path in (spec.arguments[0], spec.working_directory):
        if not os.path.exists(path):
            raise SandboxError(f"{path} does not exist", remedy="name a program and a folder of this machine")


class NamespaceBackend(ProcessBackend):
    """As ProcessBackend, with walls: user, pid, mount, network, ipc, uts and control-group namespaces, and seccomp.

    As root, each sandbox runs as a user of the machine that nobody else is, and files appear in it as if it were us.
    Without root it runs as us, without any power. ``adopt`` takes forks of a template that has such walls.
    """

    name = "namespace"
    _sandbox_type: type[NamespaceSandbox] = NamespaceSandbox

    def __init__(self, groups: ControlGroups | None = None, *, end_with_parent: bool = True) -> None:
        super().__init__(groups, end_with_parent=end_with_parent)
        self._random = random.SystemRandom()
        self._inits: dict[int, int] = {}  # of templates: when each began, in ticks

    def __repr__(self) -> str:
        return f"NamespaceBackend({self._groups!r})"

    def fingerprint(self) -> Fingerprint:
        found = super().fingerprint()
        finding = self.finding()
        return Fingerprint(found.usable and finding.present, (*found.findings, finding))

    def finding(self) -> Finding:
        """Whether such sandboxes can be made here, as one line of ``doctor``."""
        trouble = self.trouble()
        told = trouble or "namespaces, a root folder and a user of its own, seccomp" + _landlock()
        remedy = 'permit user namespaces (see above), or use isolation = "process"' if trouble else ""
        return Finding("isolation namespace", not trouble, told, remedy)

    def trouble(self) -> str:
        """Why there can be no such sandbox on this machine, found by making one; empty when there can."""
        try:
            sandbox = self.launch(probe())
        except SandboxError as error:
            return error.message
        except OSError as error:
            return str(error)
        try:
            _pidfd.has_ended(sandbox.fileno(), 10.0)
            ended = sandbox.poll()
            return "" if ended is not None and ended.status == 0 else f"a trial {ended or 'does not end'}"
        finally:
            sandbox.delete()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            transports=("shm", "socket"),
            starts=("spawn", "template"),
            isolates=("memory", "files", "network", "pids"),
            enforces=self.groups.enforces,
        )

    def first_pids(self) -> tuple[int, ...]:
        """Processes that are children of ours and not orphans: the inits of our sandboxes, and of templates that ended
        before their forks, whose lives hang on them.
        """
        self._inits = {pid: ticks for pid, ticks in self._inits.items() if _lives(pid, ticks)}
        boxes = (s for s in self._sandboxes.values() if isinstance(s, NamespaceSandbox) and not s.deleted)
        return tuple({*(box.init for box in boxes if box.init is not None), *self._inits})

    def _start(self, spec: LaunchSpec, group: ControlGroup | None) -> NamespaceSandbox:
        check_program(spec)
        inner = os.geteuid(), os.getegid()
        begun = self._begin(
            BoxPlan(
                arguments=spec.arguments,
                environment=spec.environment,
                working_directory=spec.working_directory,
                descriptors=spec.descriptors,
                entrances=group.entrances() if group is not None else (),
                end_with_parent=self._end_with_parent,
                view=view_of(spec.sight, spec.working_directory, spec.arguments),
                filter=_seccomp.profile(template=spec.template),
                template=spec.template,
                network=bool(spec.sight.network),
                host_name="shard",
                scratch_bytes=SCRATCH_BYTES,
                inner_ids=inner,
                outer_ids=self._outer_ids() if inner[0] == 0 else inner,
                open_files=_open_files(),
            ),
            group,
        )
        init, status = begun.init, begun.status
        try:
            pid, descriptor = _hold_first(init, begun.first, status)
        except OSError as error:
            self._give_up(init, status)
            raise SandboxError(
                f"cannot open a pidfd: {error.strerror}", remedy="raise the limit of open files (ulimit -n)"
            ) from error
        if descriptor < 0:  # it ended already; init has its status, and is as good to wait for
            pid, descriptor = init, os.pidfd_open(init)
        handle = self._handle(spec.shard, pid, group)
        if group is not None:
            group.close()
        sandbox = self._sandbox_type(
            handle, descriptor, group, self._firsts, init=init, status=status, template=spec.template
        )
        self._sandboxes[pid] = sandbox
        if spec.template and (ticks := start_ticks(init)) is not None:
            self._inits[init] = ticks
        return sandbox

    def _begin(self, plan: BoxPlan, group: ControlGroup | None) -> Started:
        """Raises SandboxError, and has left nothing then."""
        return start(plan)

    @staticmethod
    def _give_up(init: int, status: int) -> None:
        os.kill(init, 9)
        os.waitpid(init, 0)
        os.close(status)

    def _outer_ids(self) -> tuple[int, int]:
        while True:
            number = self._random.randrange(_USERS.start, _USERS.stop)
            try:
                pwd.getpwuid(number)
            except KeyError:
                return number, number

    def _adopted(
        self, handle: SandboxHandle, descriptor: int, group: ControlGroup | None, mark: int | None
    ) -> NamespaceSandbox:
        return self._sandbox_type(handle, descriptor, group, self._firsts, init=_init_of(handle.pid))


def _hold_first(init: int, first: int, status: int) -> tuple[int, int]:
    """The pid of the guest, which init started (and knows as ``first`` inside, if not 0), and a pidfd of it; 0 and -1 when
    it has ended: then ``status`` can be read.

    The kernel's list of children may lack one while others of them end, so it is read again until init says so.
    """
    for _ in range(_LOOKS):
        pid = next((pid for pid in children(init) if first in (0, _inner_pid(pid))), 0)
        if pid:
            with contextlib.suppress(ProcessLookupError):  # it ends while we look
                return pid, os.pidfd_open(pid)
        if _pidfd.has_ended(status, _LOOK_S):
            break
    return 0, -1


def _lives(pid: int, ticks: int) -> bool:
    """Whether it is that process and not another of its number, and has not ended."""
    stat = process_stat(pid)
    return stat is not None and stat.start_ticks == ticks and stat.state not in "ZX"


def _inner_pid(pid: int) -> int:
    """The number of a process in its own pid namespace; 0 when there is no such process."""
    lines = (read_text(f"/proc/{pid}/status") or "").splitlines()
    return next((int(line.split()[-1]) for line in lines if line.startswith("NSpid:")), 0)


def _init_of(pid: int) -> int | None:
    """The init of a launched guest; None for the fork of a template, which is its own."""
    stat = process_stat(pid)
    if stat is None:
        return None
    try:
        with open(f"/proc/{stat.parent}/status", encoding="utf-8", errors="replace") as file:
            numbers = next((line.split()[1:] for line in file if line.startswith("NSpid:")), [])
        own = os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{stat.parent}/ns/pid")
    except OSError:
        return None
    return stat.parent if own and len(numbers) > 1 and numbers[-1] == "1" else None


def probe() -> LaunchSpec:
    """The least that shows whether such sandboxes can be made."""
    import sys

    from shardwright.model.ids import ShardId

    return LaunchSpec(ShardId(f"probe-{os.getpid()}"), (sys.executable, "-I", "-S", "-c", ""), {}, "/")


def _landlock() -> str:
    from shardwright.sandbox._linux._libc import landlock_abi

    try:
        return f", Landlock {landlock_abi()}"
    except OSError:
        return "; no Landlock on this kernel"


def _open_files() -> int:
    """How many descriptors a sandbox may have: fewer than the node.

    The kernel holds against this limit also the descriptors that all processes of the user have sent and nobody has
    received yet. What sandboxes of our own user leave lying so must not use up what the node and the keeper may send.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(hard - hard // 4, _MAX_OPEN_FILES)
