"""ProcessBackend: sandboxes that are plain processes, held by process groups and control groups."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import weakref
from collections.abc import Collection

from shardwright.contracts.sandbox import (
    Capabilities,
    Fingerprint,
    LaunchSpec,
    SandboxBackend,
    SandboxHandle,
)
from shardwright.errors import SandboxError
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources
from shardwright.sandbox._linux import _pidfd
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox._linux._detect import detect
from shardwright.sandbox._linux._files import device_numbers
from shardwright.sandbox._linux._procfs import children, memory_total_bytes, process_stat, start_ticks
from shardwright.sandbox.process import _kin
from shardwright.sandbox.process._sandbox import ProcessSandbox
from shardwright.sandbox.process._start import Plan, signals_blocked, start

HANDLE_VERSION = 1
_CANCEL_S, _LEFT_S = 1.0, 5.0
_ADOPTED_MAX_PIDS = 256


class ProcessBackend(SandboxBackend):
    """Starts guests as child processes of this one, which should be single-threaded and small: a keeper.

    ``end_with_parent``: guests are ended by the kernel when this process dies. Not safe for use by several threads.
    """

    name = "process"

    def __init__(self, groups: ControlGroups | None = None, *, end_with_parent: bool = True) -> None:
        self._groups = groups
        self._end_with_parent = end_with_parent
        self._reserved: dict[str, ControlGroup] = {}
        self._left: list[ControlGroup] = []  # nobody needs them, and somebody was in there still
        self._sandboxes: weakref.WeakValueDictionary[int, ProcessSandbox] = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        return f"ProcessBackend({self._groups!r})"

    @property
    def groups(self) -> ControlGroups:
        """The control groups in use, found at first need. ``groups.reason`` says why less than all is enforced."""
        if self._groups is None:
            self._groups = detect()
        return self._groups

    @property
    def reason(self) -> str:
        """Why some ceilings are not enforced, for people; empty when all are."""
        return self.groups.reason

    def fingerprint(self) -> Fingerprint:
        from shardwright.sandbox._linux._findings import fingerprint  # the keeper never needs it

        return fingerprint(self._groups)

    def capabilities(self) -> Capabilities:
        """It isolates nothing: processes of one user can read each other's memory and files."""
        return Capabilities(
            transports=("shm", "socket"), starts=("spawn", "template"), isolates=(), enforces=self.groups.enforces
        )

    def launch(self, spec: LaunchSpec) -> ProcessSandbox:
        if not spec.arguments:
            raise SandboxError(f"nothing to run for {spec.shard}", remedy="give the guest's argument vector")
        group: ControlGroup | None = None
        sandbox: ProcessSandbox | None = None
        try:
            with signals_blocked():
                group = self.groups.create(spec.shard, spec.limits, spec.max_pids)
                if group is not None and spec.sight.denied:
                    group.deny_devices(device_numbers(spec.sight.denied))
                sandbox = self._start(spec, group)
        except BaseException:  # also of a signal handler, once signals are let in again
            if sandbox is not None:
                sandbox.delete()
            elif group is not None:
                group.remove(1.0)
            raise
        return sandbox

    def _start(self, spec: LaunchSpec, group: ControlGroup | None) -> ProcessSandbox:
        mark = _kin.new_mark()
        pid = start(
            Plan(
                arguments=spec.arguments,
                environment=spec.environment,
                working_directory=spec.working_directory,
                descriptors=spec.descriptors,
                entrances=group.entrances() if group is not None else (),
                end_with_parent=self._end_with_parent,
                mark=mark,
            )
        )
        try:
            descriptor = os.pidfd_open(pid)  # our child, not waited for: nobody else can have that pid
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise SandboxError(
                f"cannot open a pidfd: {error.strerror}", remedy="raise the limit of open files (ulimit -n)"
            ) from error
        handle = self._handle(spec.shard, pid, group)
        if group is not None:
            group.close()  # what was opened to make it: what is used again opens again, and stays
        sandbox = ProcessSandbox(handle, descriptor, group, mark, self._firsts)
        self._sandboxes[pid] = sandbox
        return sandbox

    def _handle(self, shard: ShardId, pid: int, group: ControlGroup | None) -> SandboxHandle:
        return SandboxHandle(
            version=HANDLE_VERSION,
            backend=self.name,
            shard=shard,
            pid=pid,
            start_ticks=start_ticks(pid) or 0,
            control_groups=group.paths if group is not None else (),
        )

    def reserve(self, shard: str, limits: Limits) -> tuple[int, ...]:
        """Make the control groups of a shard that a template will fork, with its limits in force.

        Returns the descriptors to enter them by (ours: copy them). ``adopt`` uses them, ``cancel`` removes them. Raises
        SandboxError.
        """
        group = self.groups.create(shard, limits, _ADOPTED_MAX_PIDS)
        if group is None:
            return ()
        self._reserved[shard] = group
        return group.entrances()

    def give(self, reserved: str, shard: str) -> None:
        """What was reserved under one name is for another shard."""
        if reserved != shard and reserved in self._reserved:
            self._reserved[shard] = self._reserved.pop(reserved)

    def cancel(self, shard: str) -> None:
        """What was reserved for it is not needed; who is in there already is ended."""
        group = self._reserved.pop(shard, None)
        if group is not None and not group.remove(_CANCEL_S):
            self._left.append(group)

    @property
    def left(self) -> bool:
        """Whether something could not be removed when it was cancelled."""
        return bool(self._left)

    def remove_left(self, timeout_s: float = 0.0) -> None:
        """Once more what could not be removed when it was cancelled: who was in there takes time to end."""
        end_s = time.monotonic() + timeout_s
        self._left = [group for group in self._left if not group.remove(max(0.0, end_s - time.monotonic()))]

    def cancel_all(self) -> None:
        """Nothing that was reserved is needed any more."""
        for shard in list(self._reserved):
            self.cancel(shard)

    def adopt(self, handle: SandboxHandle, limits: Limits | None = None) -> ProcessSandbox | None:
        if handle.version != HANDLE_VERSION or handle.backend != self.name:
            raise SandboxError(
                f"a handle of version {handle.version} of backend {handle.backend!r} cannot be adopted by "
                f"version {HANDLE_VERSION} of {self.name!r}",
                remedy="adopt it with the version that made it, or start the shard anew",
            )
        descriptor = _pidfd.open_verified(handle.pid, handle.start_ticks)
        if descriptor is None:
            return None
        try:
            group = self._group_of(handle, limits)
        except BaseException as error:
            gone = _pidfd.has_ended(descriptor)
            os.close(descriptor)
            if gone and isinstance(error, SandboxError):
                return None
            raise
        found = SandboxHandle(
            version=HANDLE_VERSION,
            backend=self.name,
            shard=handle.shard,
            pid=handle.pid,
            start_ticks=handle.start_ticks,
            control_groups=group.paths if group is not None else (),
        )
        sandbox = self._adopted(found, descriptor, group, self._mark_of(handle, limits))
        self._sandboxes[handle.pid] = sandbox
        return sandbox

    def _adopted(
        self, handle: SandboxHandle, descriptor: int, group: ControlGroup | None, mark: int | None
    ) -> ProcessSandbox:
        return ProcessSandbox(handle, descriptor, group, mark, self._firsts)

    def _mark_of(self, handle: SandboxHandle, limits: Limits | None) -> int | None:
        """What a running process is marked with: as before, or anew when it gets a box of its own."""
        known = self._sandboxes.get(handle.pid)
        if limits is None or (known is not None and known.handle.start_ticks == handle.start_ticks):
            return _kin.mark_of(handle.pid)
        mark = _kin.new_mark()
        return mark if mark is not None and _kin.mark(handle.pid, mark) else None

    def _firsts(self) -> set[int]:
        """The first processes of sandboxes that run."""
        return {pid for pid, sandbox in self._sandboxes.items() if not sandbox.deleted and sandbox.poll() is None}

    def _group_of(self, handle: SandboxHandle, limits: Limits | None) -> ControlGroup | None:
        """The control group that a running process is in, or with ``limits`` a new one that it is put into."""
        group = self.groups.open(handle.control_groups)
        if limits is None:
            return group
        if group is not None:
            try:
                group.apply(limits)
            except BaseException:
                group.close()
                raise
            return group
        reserved = self._reserved.pop(handle.shard, None)
        if reserved is not None:  # it goes in by itself; whoever asked looks whether it did
            reserved.close()
            return reserved
        group = self.groups.create(handle.shard, limits, _ADOPTED_MAX_PIDS)
        if group is not None:
            try:
                group.attach(handle.pid)
                group.close()  # as below
            except BaseException:
                group.remove(1.0)
                raise
        return group

    def capacity(self) -> Resources:
        """Cores that this process may run on and the machine's memory, as far as control groups leave them to us."""
        above = self.groups.capacity()
        cores = float(len(os.sched_getaffinity(0)))
        total = memory_total_bytes()
        amounts = [amount for amount in (total, above.memory_bytes) if amount is not None]
        return Resources(
            cpu=cores if above.cpu is None else min(cores, above.cpu), memory_bytes=min(amounts, default=None)
        )

    def sweep(self, alive: Collection[str] = ()) -> tuple[str, ...]:
        """Remove control groups that dead keepers left, and what still runs in them. Returns what was removed."""
        return self.groups.sweep(alive)

    def first_pids(self) -> tuple[int, ...]:
        """Processes that are children of ours and not orphans: the first of each of our sandboxes."""
        return tuple(pid for pid, sandbox in self._sandboxes.items() if not sandbox.deleted)

    def reap_orphans(self, keep: Collection[int] = ()) -> int:
        """Wait for ended children that came to us when their parents died, as they come to a sub-reaper.

        That is every ended child but the first processes of our sandboxes, whose status ``poll`` tells, and ``keep``:
        for a process that starts no other children, as a keeper. Returns how many.
        """
        ours = {pid for pid, sandbox in self._sandboxes.items() if not sandbox.deleted}
        count = 0
        for pid in children(os.getpid()):
            if pid in ours or pid in keep:
                continue
            with contextlib.suppress(ChildProcessError):
                count += os.waitpid(pid, os.WNOHANG)[0] == pid
        return count

    def end_strays(self, keep: Collection[int] = ()) -> None:
        """Without control groups: end orphans that came to us and belong to no sandbox that runs, nor to those to ``keep``.

        For a keeper alone.
        """
        if self.groups.version:
            return
        own = os.getpid()
        running = [self._sandboxes[pid] for pid in self._firsts()]
        marks = {sandbox.mark for sandbox in running if sandbox.mark is not None}
        firsts = {sandbox.handle.pid for sandbox in running} | set(keep)

        def belongs_nowhere(pid: int) -> bool:
            stat = process_stat(pid)
            return stat is not None and _kin.mark_of(pid) not in marks and stat.session not in firsts

        _kin.end(lambda: _kin.below(children(own), firsts), belongs_nowhere)

    def close(self) -> None:
        """Cancel what is reserved; remove the folder of our control groups if nothing is left in it.

        Sandboxes are not touched.
        """
        self.cancel_all()
        self.remove_left(_LEFT_S)
        if self._groups is not None:
            self._groups.close()
            self._groups = None
