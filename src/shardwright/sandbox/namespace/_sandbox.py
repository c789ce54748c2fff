"""One running sandbox of the ``namespace`` backend."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Collection

from shardwright.contracts.sandbox import Exit, SandboxHandle
from shardwright.sandbox._linux import _pidfd
from shardwright.sandbox._linux._cgroup import ControlGroup
from shardwright.sandbox.namespace._start import STATUS
from shardwright.sandbox.process import ProcessSandbox, _kin

_STATUS_PATIENCE_S = 0.5


class NamespaceSandbox(ProcessSandbox):
    """A process that its namespaces hold, and all that it starts: when the first of its pid namespace ends, so do they.

    That first one is an init of ours where the sandbox was launched (``init`` is its pid), and the shard itself where a
    template forked it. A template's init stays until the last of its forks has ended.
    """

    def __init__(
        self,
        handle: SandboxHandle,
        descriptor: int,
        group: ControlGroup | None,
        spared: Callable[[], Collection[int]] = tuple,
        *,
        init: int | None = None,
        status: int = -1,
        template: bool = False,
    ) -> None:
        super().__init__(handle, descriptor, group, spared=spared)
        self._init = init
        self._init_descriptor = -1
        if init is not None:
            with contextlib.suppress(OSError):
                self._init_descriptor = os.pidfd_open(init)
        self._status = status
        self._template = template

    def __repr__(self) -> str:
        return super().__repr__().replace("ProcessSandbox", "NamespaceSandbox")

    @property
    def init(self) -> int | None:
        """Its init while that is ours to wait for."""
        return self._init

    def poll(self) -> Exit | None:
        if self._exit is None and not self.deleted and _pidfd.has_ended(self._descriptor):
            status = self._told()
            self._exit = Exit(status, out_of_memory=self._ran_out_of_memory(status))
        return self._exit

    def _told(self) -> int | None:
        """How the first process ended, as init tells; minus SIGKILL where init was ended as well."""
        if self._status < 0:
            return _pidfd.exit_status(self._descriptor, reap=False)
        if not _pidfd.has_ended(self._status, _STATUS_PATIENCE_S):
            return None
        said = os.read(self._status, STATUS.size)
        return int(STATUS.unpack(said)[0]) if len(said) == STATUS.size else -signal.SIGKILL

    def _end_kin(self) -> None:
        self._end_init()
        if self._template and (init := self._init) is not None:
            spared = set(self._spared()) - {self.handle.pid}  # its forks
            _kin.end(lambda: (pid for pid in _kin.below([init], spared) if pid != init))

    def kill(self) -> None:
        if self.deleted:
            return
        super().kill()
        self._end_init()

    def _end_init(self) -> None:
        """Its death is that of everything in the namespace. A template's forks have boxes of their own, and live on."""
        if self._init_descriptor >= 0 and not self._template:
            _pidfd.send(self._init_descriptor, signal.SIGKILL)

    def delete(self) -> None:
        if self.deleted:
            return
        end_s = time.monotonic() + 2.0
        super().delete()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1
        if self._init_descriptor >= 0:
            if not self._template:
                _pidfd.has_ended(self._init_descriptor, max(0.0, end_s - time.monotonic()))
            _pidfd.exit_status(self._init_descriptor, reap=True)
            os.close(self._init_descriptor)
            self._init_descriptor = -1

    def release(self) -> None:
        for descriptor in (self._status, self._init_descriptor):
            if descriptor >= 0:
                os.close(descriptor)
        self._status = self._init_descriptor = -1
        super().release()
