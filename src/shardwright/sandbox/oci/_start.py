"""From the keeper to a guest in a container: *outer* and *init* as for ``namespace``, and between them the runtime.

Outer builds the root folder in a mount namespace of its own and clones init, the first process of a new pid namespace. Init
prepares what the runtime is to see: its /proc, an empty /run for its books, and our control groups. The runtime is run once
(``run --detach``), inside; the container it leaves is init's child. So no daemon and no state is left on the machine: when
init ends, so do the container, the mounts and the runtime's books.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import platform
import resource
import signal
from collections.abc import Mapping
from typing import NoReturn

from msgspec import Struct

from shardwright.sandbox._linux import _libc
from shardwright.sandbox.namespace import _root
from shardwright.sandbox.namespace._start import STATUS, BoxChild, BoxPlan, OwnerMap
from shardwright.sandbox.oci._config import config
from shardwright.sandbox.process._start import arrange

_BOOKS = "/run"  # hidden by an empty one, in init's mount namespace alone
_BUNDLE, _STATE, _LOG, _PID = f"{_BOOKS}/bundle", f"{_BOOKS}/state", f"{_BOOKS}/log", f"{_BOOKS}/pid"
_CGROUPS = "/sys/fs/cgroup"
_FIRST = 3
_SAID = 126  # it could not be run, and has said so
# Runtimes pass descriptors on by their count, and add HOME: where numbers have gaps, or there is no HOME, the guest's
# interpreter puts that right before it becomes the guest.
_MEND = """\
import fcntl, os, sys
count, *rest = sys.argv[1:]
to = [int(number) for number in rest[: int(count)]]
away = [fcntl.fcntl(3 + index, fcntl.F_DUPFD, 200) for index in range(len(to))]
os.closerange(3, 200)
for number, descriptor in zip(to, away):
    os.dup2(descriptor, number)
    os.close(descriptor)
rest = rest[int(count) :]
given = dict(each.split(b"=", 1) for each in open("/proc/self/environ", "rb").read().split(b"\\0") if each)
if rest[0]:
    given.pop(b"HOME", None)
os.execve(rest[1], rest[1:], given)
"""


class Container(Struct, frozen=True):
    """What else the way takes: the runtime, its general options, and where our control groups are.

    ``control_group`` is the folder for all hierarchies, ``seen`` maps mount points of hierarchies to the folder that takes
    their place there, and ``unseen`` are hierarchies that are none of the runtime's business.
    """

    runtime: str
    options: tuple[str, ...]
    control_group: str
    seen: Mapping[str, str]
    unseen: tuple[str, ...]
    config: bytes
    descriptors: Mapping[int, int]  # as the runtime gets them: without gaps


def described(plan: BoxPlan, control_group: str, interpreter: str) -> tuple[bytes, dict[int, int]]:
    """The configuration of a container, and the descriptors that the runtime is to pass on. Worked out before any fork."""
    numbers = sorted(set(plan.descriptors) - {0, 1, 2})
    arguments = list(plan.arguments)
    homeless = "" if "HOME" in plan.environment else "1"
    if homeless or numbers != list(range(_FIRST, _FIRST + len(numbers))):
        arguments = [interpreter, "-I", "-S", "-c", _MEND, str(len(numbers)), *map(str, numbers), homeless, *arguments]
    passed = {number: plan.descriptors[number] for number in (0, 1, 2) if number in plan.descriptors}
    passed |= {_FIRST + index: plan.descriptors[number] for index, number in enumerate(numbers)}
    made = config(
        arguments=arguments,
        environment=plan.environment,
        working_directory=plan.working_directory,
        root=_root.STAGE,
        host_name=plan.host_name,
        network=plan.network,
        inner_ids=plan.inner_ids,
        outer_ids=plan.outer_ids,
        control_group=control_group,
        open_files=plan.open_files,
        machine=platform.machine(),
        devices=plan.view.devices,
    )
    return made, passed


class ContainerChild(BoxChild):
    """What the processes do to themselves. Nothing here returns or raises."""

    def __init__(self, plan: BoxPlan, said: int, status: int, container: Container) -> None:
        super().__init__(plan, said, status)
        self._container = container

    def outer(self, news: int) -> NoReturn:
        try:
            self._step = "leave the signals of the parent"
            self._default_signals()
            self._step = "build its root folder"
            owners = OwnerMap(self._plan.outer_ids, needed=self._plan.view.owned())
            _root.build(self._plan.view, owners, self._plan.scratch_bytes)
            self._step = "make its namespaces"
            pid = _libc.clone_into(_libc.CLONE_NEWPID | _libc.CLONE_NEWNS | _libc.CLONE_PARENT)
            if pid == 0:
                self._first(news)
            os.write(news, str(pid).encode())
            os._exit(0)
        except BaseException as error:
            self._fail(error)

    def _first(self, news: int) -> NoReturn:
        plan = self._plan
        try:
            if plan.end_with_parent:
                _libc.prctl(_libc.PR_SET_PDEATHSIG, signal.SIGKILL)
            self._step = "mount its /proc"
            _libc.mount("none", "/", "", _libc.MS_REC | _libc.MS_PRIVATE)
            proc = _libc.MS_NOSUID | _libc.MS_NODEV | _libc.MS_NOEXEC
            _libc.mount("proc", "/proc", "proc", proc)
            _libc.mount(_root.STAGE, _root.STAGE, "", _libc.MS_BIND | _libc.MS_REC)
            _libc.mount("proc", f"{_root.STAGE}/proc", "proc", proc | _libc.MS_RDONLY)
            self._step = "arrange the control groups"
            for path in self._container.unseen:
                _libc.mount("none", path, "tmpfs", _libc.MS_NOSUID | _libc.MS_NODEV, "mode=0755,size=64k")
            for path, folder in self._container.seen.items():
                _libc.mount(folder, path, "", _libc.MS_BIND)
            self._step = "write its configuration"
            self._write_bundle()
            self._step = "fork its runtime"
            gc.freeze()
            runtime = os.fork()
            if runtime == 0:
                self._run()
            os.setsid()
            _libc.prctl(_libc.PR_SET_DUMPABLE, 0)
            self._step = f"be made by {os.path.basename(self._container.runtime)}"
            self._made(runtime, news)
        except BaseException as error:
            self._fail(error)

    def _write_bundle(self) -> None:
        _libc.mount("books", _BOOKS, "tmpfs", _libc.MS_NOSUID | _libc.MS_NODEV, "mode=0700,size=16m")
        os.mkdir(_BUNDLE)
        with open(f"{_BUNDLE}/config.json", "wb") as file:
            file.write(self._container.config)

    def _run(self) -> NoReturn:
        container = self._container
        try:
            self._said = arrange(container.descriptors, self._said)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            environment = {"PATH": os.defpath, "XDG_RUNTIME_DIR": _BOOKS}
            passed = sum(number >= _FIRST for number in container.descriptors)
            os.execve(
                container.runtime,
                [
                    container.runtime, *container.options, "--root", _STATE, "--log", _LOG, "--log-format", "json",
                    "run", "--detach", "--bundle", _BUNDLE, "--pid-file", _PID, "--preserve-fds", str(passed), "shard",
                ],
                environment,
            )  # fmt: skip
        except BaseException as error:
            with contextlib.suppress(OSError):
                reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
                os.write(self._said, f"{container.runtime} cannot be run: {reason}".encode("utf-8", "replace"))
        os._exit(_SAID)

    def _made(self, runtime: int, news: int) -> NoReturn:
        """Init's life: reap; tell how the container's first process ended, and go."""
        ended: dict[int, int] = {}
        while runtime not in ended:
            pid, status = os.waitpid(-1, 0)
            ended[pid] = os.waitstatus_to_exitcode(status)
        if ended[runtime] == _SAID:
            os._exit(_SAID)
        if ended[runtime] != 0:
            raise ChildProcessError(_reason(ended[runtime]))
        with open(_PID, encoding="ascii") as file:
            first = int(file.read())
        os.write(news, f" {first}".encode())
        os.close(self._said)
        self._let_go()
        if first in ended:
            self._tell(ended[first])
        while True:
            pid, status = os.waitpid(-1, 0)
            if pid == first:
                self._tell(os.waitstatus_to_exitcode(status))

    def _let_go(self) -> None:
        """Of everything but the status pipe."""
        if self._status != 3:
            os.dup2(self._status, 3, inheritable=False)
        for number in (0, 1, 2):
            with contextlib.suppress(OSError):
                os.close(number)
        os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])

    @staticmethod
    def _tell(status: int) -> NoReturn:
        os.write(3, STATUS.pack(status))
        os._exit(0)


def _reason(status: int) -> str:
    """The last error of the runtime's log."""
    found = ""
    with contextlib.suppress(OSError), open(_LOG, encoding="utf-8", errors="replace") as file:
        for line in file:
            with contextlib.suppress(ValueError, AttributeError):
                said = json.loads(line)
                found = said.get("msg", found) if said.get("level", "error") in ("error", "fatal") else found
    return f"{found or 'it says nothing'} (status {status})"
