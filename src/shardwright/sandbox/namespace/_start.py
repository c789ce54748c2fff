"""From the keeper to a guest behind its walls: three steps, each a process of ours.

*Outer* (a plain fork, in our own namespaces) builds the new root and clones *init* into new namespaces as a sister of itself.
Init (pid 1 inside; ran no code but ours, holds nothing) enters that root and forks the *guest*, which enters its control
groups, gives up its powers and becomes the program. Init waits for it, tells its status over a pipe, and takes everything
that is left with it when it ends; a template's init stays until the last fork is gone.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from msgspec import Struct

from shardwright.errors import SandboxError
from shardwright.sandbox._linux import _libc
from shardwright.sandbox.namespace import _net, _root
from shardwright.sandbox.namespace._view import View
from shardwright.sandbox.process._start import answer, arrange

STATUS = struct.Struct("<i")
_NAMESPACES = _libc.CLONE_NEWUSER | _libc.CLONE_NEWPID | _libc.CLONE_NEWNS | _libc.CLONE_NEWIPC | _libc.CLONE_NEWUTS
_KEPT_BY_TEMPLATES = frozenset({_libc.CAP_SYS_ADMIN, _libc.CAP_NET_ADMIN})  # in its own user namespace alone
_NO_ROOT = 0b101111  # securebits: a user id of 0 means nothing, for good
_LAST_CAPABILITY = 63


class BoxPlan(Struct, frozen=True):
    """Everything that is needed on the way, worked out before the first fork."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    working_directory: str
    descriptors: Mapping[int, int]
    entrances: tuple[int, ...]
    end_with_parent: bool
    view: View
    filter: bytes
    template: bool
    network: bool  # of the machine
    host_name: str
    scratch_bytes: int
    inner_ids: tuple[int, int]
    outer_ids: tuple[int, int]
    open_files: int


class Started(Struct, frozen=True):
    """Init's pid, the reading end of its status pipe, and by what number init knows the guest, if it has other children."""

    init: int
    status: int
    first: int = 0


def start(plan: BoxPlan, make: Callable[[BoxPlan, int, int], BoxChild] | None = None) -> Started:
    """Once the program has been loaded.

    Raises SandboxError that says which step failed; then everything is gone and waited for. To be called with signals
    blocked, from a process with a single thread.
    """
    ends = [*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC)]
    said_r, said_w, news_r, news_w, status_r, status_w = ends
    try:
        pid = os.fork()
    except OSError as error:
        for end in ends:
            os.close(end)
        raise SandboxError(f"cannot fork: {error.strerror}", remedy="see the limits of processes and memory") from error
    if pid == 0:
        (make or BoxChild)(plan, said_w, status_w).outer(news_w)
    for end in (said_w, news_w, status_w):
        os.close(end)
    failure = answer(said_r, pid)
    os.waitpid(pid, 0)
    init, _, first = os.read(news_r, 64).partition(b" ")
    os.close(news_r)
    if not failure and init:
        return Started(int(init), status_r, int(first or 0))
    os.close(status_r)
    if init:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(int(init), signal.SIGKILL)  # our child, not waited for
            os.waitpid(int(init), 0)
    raise SandboxError(failure or "the sandbox ended before its program was loaded", remedy="see `shardwright doctor`")


class OwnerMap:
    """A user namespace by which files of ours belong to the sandbox's user; none where that is not needed.

    It takes a process in it, which is begun at once and asked for when there is something to map: the kernel takes its time to
    make and to end it. Used by a process that ends soon, so that nobody need wait for it.
    """

    def __init__(self, outer_ids: tuple[int, int], *, needed: bool) -> None:
        self._outer_ids = outer_ids
        self._pid = 0
        self._found = -1
        if not needed or outer_ids == (os.geteuid(), os.getegid()):
            return
        self._ready, ready = os.pipe2(os.O_CLOEXEC)
        done, self._done = os.pipe2(os.O_CLOEXEC)
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(self._done)
                _libc.unshare(_libc.CLONE_NEWUSER)
                os.write(ready, b"+")
                os.read(done, 1)
            finally:
                os._exit(0)
        os.close(ready)
        os.close(done)

    def __call__(self) -> int:
        """Its descriptor; -1 where there is none."""
        if self._pid:
            try:
                if os.read(self._ready, 1) == b"+":
                    _map_ids(self._pid, (os.geteuid(), os.getegid()), self._outer_ids)
                    self._found = os.open(f"/proc/{self._pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                pass  # not on this machine
            self._pid = 0
            os.close(self._ready)
            os.close(self._done)
        return self._found


def _map_ids(pid: int | str, inner: tuple[int, int], outer: tuple[int, int]) -> None:
    for name, inside, outside in zip(("uid_map", "gid_map"), inner, outer, strict=True):
        with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
            file.write(f"{inside} {outside} 1")


class BoxChild:
    """What the three processes do to themselves. Nothing here returns or raises."""

    def __init__(self, plan: BoxPlan, said: int, status: int) -> None:
        self._plan = plan
        self._said = said
        self._status = status
        self._step = "start"

    def outer(self, news: int) -> NoReturn:
        try:
            self._step = "leave the signals of the parent"
            self._default_signals()
            plan = self._plan
            owners = OwnerMap(plan.outer_ids, needed=plan.view.owned())
            if os.geteuid() != 0:
                self._step = "make a user namespace"
                own = os.geteuid(), os.getegid()
                _libc.unshare(_libc.CLONE_NEWUSER)
                with contextlib.suppress(OSError), open("/proc/self/setgroups", "w", encoding="ascii") as file:
                    file.write("deny")
                _map_ids("self", own, own)
            self._step = "build its root folder"
            _root.build(plan.view, owners, plan.scratch_bytes)
            self._step = "make its namespaces"
            mapped_r, mapped_w = os.pipe2(os.O_CLOEXEC)
            flags = _NAMESPACES | _libc.CLONE_PARENT | (0 if plan.network else _libc.CLONE_NEWNET)
            pid = _libc.clone_into(flags)
            if pid == 0:
                os.close(mapped_w)
                os.close(news)
                self._init(mapped_r)
            self._step = "map its user"
            os.write(news, str(pid).encode())
            _map_ids(pid, plan.inner_ids, plan.outer_ids)
            os.write(mapped_w, b"+")
            os._exit(0)
        except BaseException as error:
            self._fail(error)

    @staticmethod
    def _default_signals() -> None:
        signal.set_wakeup_fd(-1)
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)

    def _init(self, mapped: int) -> NoReturn:
        plan = self._plan
        try:
            self._step = "become its user"
            if os.read(mapped, 1) != b"+":
                os._exit(127)
            os.close(mapped)
            with contextlib.suppress(
                PermissionError
            ):  # where supplementary groups may not be given up, there are none of use
                os.setgroups(())
            os.setresgid(*(plan.inner_ids[1],) * 3)
            os.setresuid(*(plan.inner_ids[0],) * 3)
            if plan.end_with_parent:
                _libc.prctl(_libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            _libc.prctl(_libc.PR_SET_DUMPABLE, 0)
            self._step = "mount its /proc"
            _libc.mount("none", "/", "", _libc.MS_REC | _libc.MS_PRIVATE)
            proc = _libc.MS_RDONLY | _libc.MS_NOSUID | _libc.MS_NODEV | _libc.MS_NOEXEC
            _libc.mount(_root.STAGE, _root.STAGE, "", _libc.MS_BIND | _libc.MS_REC)
            _libc.mount("proc", f"{_root.STAGE}/proc", "proc", proc)
            self._step = "enter its root folder"
            os.chdir(_root.STAGE)
            _libc.pivot_root(".", ".")
            _libc.unmount(".", _libc.MNT_DETACH)
            os.chdir("/")
            self._step = "name itself"
            _net.set_host_name(plan.host_name)
            if not plan.network:
                self._step = "bring up its loopback"
                _net.loopback_up()
            self._step = "fork its first process"
            gc.freeze()
            pid = os.fork()
            if pid == 0:
                self._guest()
            self._wait(pid)
        except BaseException as error:
            self._fail(error)

    def _wait(self, first: int) -> NoReturn:
        """Init's life: reap; tell how the first process ended; go, unless forks of a template are left."""
        os.set_inheritable(self._status, False)
        if self._status != 3:
            os.dup2(self._status, 3, inheritable=False)
        for number in (0, 1, 2):
            with contextlib.suppress(OSError):
                os.close(number)
        os.closerange(4, self._plan.open_files)
        _libc.prctl(_libc.PR_SET_NO_NEW_PRIVS, 1)
        _libc.set_capabilities(frozenset())
        while True:
            try:
                pid, status = os.waitpid(-1, 0)
            except ChildProcessError:
                os._exit(0)
            if pid == first:
                os.write(3, STATUS.pack(os.waitstatus_to_exitcode(status)))
                if not self._plan.template:
                    os._exit(0)
                os.close(3)

    def _guest(self) -> NoReturn:
        plan = self._plan
        try:
            self._step = "make a session of its own"
            os.setsid()
            _libc.prctl(_libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            self._step = "enter its control groups"
            for entrance in plan.entrances:
                os.write(entrance, b"0")
            _libc.unshare(_libc.CLONE_NEWCGROUP)
            self._step = "set its resource limits"
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
            resource.setrlimit(resource.RLIMIT_MSGQUEUE, (819200, 819200))
            resource.setrlimit(resource.RLIMIT_NOFILE, (plan.open_files, plan.open_files))
            self._step = f"enter the working directory {plan.working_directory!r}"
            os.chdir(plan.working_directory)
            self._step = "arrange its descriptors"
            self._said = arrange(plan.descriptors, self._said)
            self._step = "give up its powers"
            held = _KEPT_BY_TEMPLATES if plan.template else frozenset()
            _libc.prctl(_libc.PR_SET_SECUREBITS, _NO_ROOT)
            for capability in range(_LAST_CAPABILITY + 1):
                if capability not in held:
                    with contextlib.suppress(OSError):  # this kernel knows fewer
                        _libc.prctl(_libc.PR_CAPBSET_DROP, capability)
            _libc.set_capabilities(held, held)
            for capability in held:
                _libc.prctl(_libc.PR_CAP_AMBIENT, _libc.PR_CAP_AMBIENT_RAISE, capability)
            _libc.prctl(_libc.PR_SET_NO_NEW_PRIVS, 1)
            self._step = f"run {plan.arguments[0]!r}"
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            environment = dict(plan.environment)
            _libc.install_filter(plan.filter)
            os.execvpe(plan.arguments[0], list(plan.arguments), environment)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> NoReturn:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        try:
            text = f"the sandbox could not {self._step}: {reason}{where}"
            os.write(self._said, text.encode("utf-8", "replace"))
        finally:
            os._exit(127)
