"""One running sandbox of the ``process`` backend."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection, Iterator

from msgspec.structs import replace

from shardwright.contracts.sandbox import Exit, Sandbox, SandboxHandle
from shardwright.errors import SandboxError
from shardwright.model.limits import Limits, Usage
from shardwright.sandbox._linux import _pidfd
from shardwright.sandbox._linux._cgroup import ControlGroup
from shardwright.sandbox._linux._procfs import children, process_stat, process_usage, start_ticks
from shardwright.sandbox.process import _kin

_END_TIMEOUT_S = 2.0  # of ``delete`` in all: the keeper serves nobody else meanwhile
_OOM_PATIENCE_S = 0.5


class ProcessSandbox(Sandbox):
    """A process, those it started, and their control group if there is one.

    Without a control group it holds on to its processes by their mark (see ``_kin``); orphans are found as long as this
    process is a sub-reaper, and ``usage`` tells of the first process alone. An ended child stays a zombie until
    ``delete``, so that its pid keeps naming its process group.
    """

    def __init__(
        self,
        handle: SandboxHandle,
        descriptor: int,
        group: ControlGroup | None,
        mark: int | None = None,
        spared: Callable[[], Collection[int]] = tuple,
    ) -> None:
        self.handle = handle
        self._descriptor = descriptor
        self._group = group
        self._exit: Exit | None = None
        self._killed = False
        self.mark = mark
        self._spared = spared  # the first processes of other sandboxes
        self.deleted = False

    def __repr__(self) -> str:
        state = "deleted" if self.deleted else str(self._exit) if self._exit else "running"
        return f"<ProcessSandbox {self.handle.shard} pid={self.handle.pid} {state}>"

    def fileno(self) -> int:
        """The pidfd. Raises SandboxError after ``delete``."""
        if self._descriptor < 0:
            raise SandboxError(f"the sandbox of {self.handle.shard} was deleted")
        return self._descriptor

    def resize(self, limits: Limits) -> Limits:
        """Amounts that ``limits`` does not state stay as they are."""
        if self.deleted or self.poll() is not None:
            raise SandboxError(f"the sandbox of {self.handle.shard} has ended")
        if self._group is None:
            raise SandboxError(
                f"the limits of {self.handle.shard} cannot be changed: it has no control group",
                remedy="`shardwright doctor` says what this machine lacks for limits to be enforced",
            )
        found = self._group.apply(limits)
        if self._group.paths != self.handle.control_groups:  # a limit of another kind may need another folder
            self.handle = replace(self.handle, control_groups=self._group.paths)
        return found

    def usage(self) -> Usage | None:
        if self.deleted or self.poll() is not None:
            return None
        measured = self._group.usage() if self._group is not None else None
        return measured or process_usage(self.handle.pid)

    def poll(self) -> Exit | None:
        if self._exit is None and not self.deleted and _pidfd.has_ended(self._descriptor):
            status = _pidfd.exit_status(self._descriptor, reap=False)
            self._exit = Exit(status, out_of_memory=self._ran_out_of_memory(status))
        return self._exit

    def _ran_out_of_memory(self, status: int | None) -> bool:
        """The kernel's count tells its SIGKILL from other people's; one that we sent ourselves counts as ours."""
        if self._group is None or self._killed or status not in (None, -signal.SIGKILL):
            return False
        return self._group.out_of_memory_kills() > 0

    def kill(self) -> None:
        if self.deleted:
            return
        if self.poll() is None and self._group is not None and self._group.out_of_memory_kills():
            # the kernel kills here already: its sockets close some time before its end shows
            _pidfd.has_ended(self._descriptor, _OOM_PATIENCE_S)
            self.poll()  # how it ended by itself, if it did, is known from here on
        self._killed = True
        if self._group is not None:
            self._group.kill()
        else:
            self._end_kin()
        # its process group: the number is its own as long as the process exists, be it as a zombie
        stat = process_stat(self.handle.pid)
        if stat is not None and stat.start_ticks == self.handle.start_ticks and stat.group == self.handle.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # the pidfd below has the last word
                os.killpg(self.handle.pid, signal.SIGKILL)
        _pidfd.send(self._descriptor, signal.SIGKILL)

    def _end_kin(self) -> None:
        """Everything that descends from its first process, wherever it went."""
        first, own = self.handle.pid, os.getpid()

        def find() -> Iterator[int]:
            spared = set(self._spared()) - {first}
            if start_ticks(first) == self.handle.start_ticks:
                yield from _kin.below([first], spared)
            # after those that still descend from it, for they may come to us meanwhile
            yield from _kin.below(children(own), spared)

        def belongs(pid: int) -> bool:
            if self.mark is not None:
                return _kin.mark_of(pid) == self.mark
            # a number stays taken while it names a session: if another process has it, no such session is left
            stat = process_stat(pid)
            now = start_ticks(first)
            return stat is not None and stat.session == first and now in (None, self.handle.start_ticks)

        _kin.end(find, belongs)

    def delete(self) -> None:
        """Takes two seconds at most. Raises SandboxError when something did not end by then; it may be called again."""
        if self.deleted:
            return
        end_s = time.monotonic() + _END_TIMEOUT_S
        self.kill()
        if not _pidfd.has_ended(self._descriptor, max(0.0, end_s - time.monotonic())):
            raise SandboxError(
                f"process {self.handle.pid} of {self.handle.shard} does not end",
                remedy="it waits inside the kernel, for a disk or a network file system; delete it again later",
            )
        self.poll()
        if self._group is not None and not self._group.remove(max(0.0, end_s - time.monotonic())):
            left = self._group.members()
            raise SandboxError(
                f"the control group of {self.handle.shard} cannot be removed: processes {left} do not end",
                remedy="they wait inside the kernel; delete it again later",
            )
        _pidfd.exit_status(self._descriptor, reap=True)
        os.close(self._descriptor)
        self._descriptor = -1
        self.deleted = True

    def release(self) -> None:
        """Close descriptors and let it run: whoever holds the handle may adopt it."""
        if self.deleted:
            return
        if self._group is not None:
            self._group.close()
        os.close(self._descriptor)
        self._descriptor = -1
        self.deleted = True
