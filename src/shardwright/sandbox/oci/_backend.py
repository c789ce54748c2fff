"""OciBackend: the walls of ``namespace``, put up by an OCI runtime of the machine, chosen by name."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys

from shardwright.contracts.sandbox import Capabilities, Finding, LaunchSpec
from shardwright.errors import SandboxError
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox._linux._mounts import hierarchies
from shardwright.sandbox.namespace import NamespaceBackend, NamespaceSandbox
from shardwright.sandbox.namespace._start import BoxPlan, Started, start
from shardwright.sandbox.oci._start import Container, ContainerChild, described
from shardwright.sandbox.oci._sweep import CGROUPS, remove_beside

_PATH = f"{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin"
_OPTIONS = {"runsc": ("--platform=ptrace", "--network=none", "--ignore-cgroups")}


@functools.cache
def _passes_descriptors(runsc: str) -> bool:
    """Debian's gVisor of 2022 knows the standard three alone; by what the program says of itself."""
    said = subprocess.run([runsc, "help", "run"], capture_output=True, text=True, check=False)
    return "-fd" in said.stdout + said.stderr


class OciSandbox(NamespaceSandbox):
    """A container, held by the first process of its pid namespace, which is ours."""

    def delete(self) -> None:
        if self.deleted:
            return
        super().delete()
        remove_beside(self.handle.control_groups)


class OciBackend(NamespaceBackend):
    """``oci:<runtime>``: ``runtime`` is the name or the path of a program with runc's command line.

    Needs root. Shards are spawned: a container's processes cannot be forked from another's.
    """

    _sandbox_type = OciSandbox

    def __init__(self, runtime: str, groups: ControlGroups | None = None, *, end_with_parent: bool = True) -> None:
        super().__init__(groups, end_with_parent=end_with_parent)
        self.name = f"oci:{runtime}"
        self._runtime = runtime

    def __repr__(self) -> str:
        return f"OciBackend({self._runtime!r}, {self._groups!r})"

    def finding(self) -> Finding:
        """Whether such containers can be made here, as one line of ``doctor``."""
        try:
            path = self._program()
        except SandboxError as error:
            return Finding(f"isolation {self.name}", False, error.message, error.remedy)
        trouble = self.trouble()
        remedy = f'look at what {path} says, or use isolation = "namespace"' if trouble else ""
        return Finding(f"isolation {self.name}", not trouble, trouble or path, remedy)

    def trouble(self) -> str:
        try:
            self._program()
        except SandboxError as error:
            return f"{error.message}: {error.remedy}"
        return super().trouble()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            transports=("socket",),
            starts=("spawn",),
            isolates=("memory", "files", "network", "pids"),
            enforces=self.groups.enforces,
        )

    def is_there(self) -> bool:
        """Whether there is such a program at all."""
        return self._found() is not None

    @property
    def program(self) -> str:
        """Its path. Raises SandboxError where there is none, or no right to use it."""
        return self._program()

    def _found(self) -> str | None:
        found = self._runtime if "/" in self._runtime else shutil.which(self._runtime, path=_PATH)
        return found if found is not None and os.access(found, os.X_OK) else None

    def _program(self) -> str:
        """The runtime's path. Raises SandboxError."""
        found = self._found()
        if found is None:
            raise SandboxError(
                f"there is no OCI runtime {self._runtime} on this machine",
                remedy=f"install it (Debian: apt-get install {os.path.basename(self._runtime)}), or choose another isolation",
            )
        if os.path.basename(found) == "runsc" and not _passes_descriptors(found):
            raise SandboxError(
                f"{found} passes no descriptors into a container, and a shard is nothing without its channels",
                remedy="take a runsc of 2023 or later, or another isolation",
            )
        if os.geteuid() != 0:
            raise SandboxError(f"{self.name} needs root", remedy='run as root, or use isolation = "namespace"')
        return found

    def launch(self, spec: LaunchSpec) -> NamespaceSandbox:
        self._program()  # before anything is made
        sandbox = super().launch(spec)
        assert isinstance(sandbox, NamespaceSandbox)
        return sandbox

    def _begin(self, plan: BoxPlan, group: ControlGroup | None) -> Started:
        container = self._container(plan, group)
        try:
            return start(plan, lambda plan, said, status: ContainerChild(plan, said, status, container))
        except SandboxError:
            remove_beside(group.paths if group is not None else ())
            raise

    def _container(self, plan: BoxPlan, group: ControlGroup | None) -> Container:
        found = hierarchies(CGROUPS, "/proc")
        seen: dict[str, str] = {}
        unseen: list[str] = []
        if found.controllers:
            for name, folder in found.controllers.items():
                top = found.tops[name]
                if folder != top:
                    seen[top] = folder
            if found.unified_top and found.unified_top != CGROUPS:
                unseen.append(found.unified_top)  # beside version 1, where runtimes expect nothing or all of it
        elif found.unified and found.unified != found.unified_top:
            seen[found.unified_top] = found.unified
        path = (
            "/" + "/".join(group.paths[0].rsplit("/", 2)[-2:]) if group is not None and group.paths else "/shardwright"
        )
        made, passed = described(plan, path, sys.executable)
        return Container(
            runtime=self._program(),
            options=_OPTIONS.get(os.path.basename(self._runtime), ()),
            control_group=path,
            seen=seen,
            unseen=tuple(unseen),
            config=made,
            descriptors=passed,
        )
