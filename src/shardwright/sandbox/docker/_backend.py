"""DockerBackend: containers of a Docker daemon, asked for over its socket through docker-py.

The daemon must see the machine's files as we do. Its container's first program waits at our door: it is put into our control
groups before it becomes the guest, so that limits, usage and resizing are those of every backend, without the daemon. What
it makes is labelled, so that what a dead keeper left is found. Root in such a container is root of the machine without any
capability, behind the same list of system calls and Landlock; a daemon's ``userns-remap`` is not needed, and not in the way.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import time
from collections.abc import Collection, Iterator
from typing import Any

from shardwright.contracts.sandbox import Capabilities, Exit, Finding, Fingerprint, LaunchSpec, SandboxHandle
from shardwright.errors import SandboxError
from shardwright.sandbox._linux._cgroup import ControlGroup, ControlGroups
from shardwright.sandbox._linux._procfs import start_ticks
from shardwright.sandbox.docker._boot import Doorstep
from shardwright.sandbox.docker._container import LABEL, container_of
from shardwright.sandbox.docker._image import image_of
from shardwright.sandbox.namespace._backend import SCRATCH_BYTES, check_program, probe
from shardwright.sandbox.namespace._followed import changing_places, refuse_nested
from shardwright.sandbox.namespace._view import view_of
from shardwright.sandbox.process import ProcessBackend, ProcessSandbox

SOCKET = "unix:///var/run/docker.sock"
_API = "1.41"  # of Docker 20.10 and podman 4; later ones speak it too
_CALL_S = 60.0
_SETTLE_S = 5.0
_OPEN_FILES = 65536


class DockerSandbox(ProcessSandbox):
    """A container; its first process is no child of ours, so that the daemon tells how it ended."""

    daemon: Any = None
    container = ""

    def poll(self) -> Exit | None:
        was = self._exit
        found = super().poll()
        if found is not None and was is None and found.status is None:
            self._exit = found = Exit(self._status(), found.out_of_memory)
        return found

    def _status(self) -> int | None:
        """By the daemon, which may take a moment to hear of it. A signal shows as 128 and its number."""
        end_s = time.monotonic() + _SETTLE_S
        while self.container and time.monotonic() < end_s:
            try:
                state = self.daemon.inspect_container(self.container)["State"]
            except Exception:  # gone, with its status
                return None
            if not state["Running"]:
                code = int(state["ExitCode"])
                return 128 - code if 128 < code < 128 + 65 else code
            time.sleep(0.01)
        return None

    def delete(self) -> None:
        if self.deleted:
            return
        self.kill()
        self.poll()
        if self.container:
            remove(self.daemon, self.container)
        super().delete()


class DockerBackend(ProcessBackend):
    """``address``: of the daemon's socket. Needs the right to use it, which is root's in all but name."""

    def __init__(
        self, address: str = SOCKET, groups: ControlGroups | None = None, *, end_with_parent: bool = True
    ) -> None:
        super().__init__(groups, end_with_parent=end_with_parent)
        self.name = "docker" if address == SOCKET else f"docker:{address}"
        self._address = address
        self._daemon: Any = None
        self._images: set[str] = set()

    def __repr__(self) -> str:
        return f"DockerBackend({self._address!r}, {self._groups!r})"

    @property
    def daemon(self) -> Any:
        """The client of its API. Raises SandboxError."""
        if self._daemon is None:
            try:
                import docker
                import requests
            except ImportError:
                raise SandboxError("docker-py is not installed", remedy="pip install 'shardwright[docker]'") from None
            daemon = None
            try:
                daemon = docker.APIClient(base_url=self._address, timeout=_CALL_S, version=_API)
                self._sweep(daemon)
                self._daemon = daemon
            except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
                if daemon is not None:
                    daemon.close()
                raise SandboxError(
                    f"no Docker daemon answers at {self._address}: {_first_line(error)}",
                    remedy="start it, or name its socket in DOCKER_HOST",
                ) from None
        return self._daemon

    def fingerprint(self) -> Fingerprint:
        found, finding = super().fingerprint(), self.finding()
        return Fingerprint(found.usable and finding.present, (*found.findings, finding))

    def finding(self) -> Finding:
        """Whether such containers can be made here, as one line of ``doctor``."""
        trouble = self.trouble()
        told = trouble or f"{self._address}, version {self.daemon.version()['Version']}"
        remedy = 'start the daemon, or use isolation = "namespace"' if trouble else ""
        return Finding("isolation docker", not trouble, told, remedy)

    def trouble(self) -> str:
        """Why there can be no such container, found by making one; empty when there can."""
        try:
            sandbox = self.launch(probe())
        except SandboxError as error:
            return str(error)
        try:
            end_s = time.monotonic() + _SETTLE_S
            while (ended := sandbox.poll()) is None and time.monotonic() < end_s:
                time.sleep(0.01)
            return "" if ended is not None and ended.status in (0, None) else f"a trial {ended or 'does not end'}"
        finally:
            sandbox.delete()

    def capabilities(self) -> Capabilities:
        return Capabilities(
            transports=("socket",),
            starts=("spawn",),
            isolates=("memory", "files", "network", "pids"),
            enforces=self.groups.enforces,
        )

    def _start(self, spec: LaunchSpec, group: ControlGroup | None) -> DockerSandbox:
        check_program(spec)
        view = view_of(spec.sight, spec.working_directory, spec.arguments)
        changing = changing_places((*spec.sight.write, *spec.sight.changing))
        refuse_nested((place.path for place in view.places), changing, "Docker")
        daemon = self.daemon
        with Doorstep() as door, _translated():
            name = self._imported(*image_of(view))
            wanted = container_of(
                spec, view, name, door=door.path, interpreter=sys.executable, owner=self.groups.owner,
                open_files=min(_OPEN_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
                scratch_bytes=SCRATCH_BYTES,
            )  # fmt: skip
            container = str(daemon.create_container_from_config(wanted)["Id"])
            try:
                daemon.start(container)
                pid = door.knock(self._runs(container))
                descriptor, ticks = os.pidfd_open(pid), start_ticks(pid) or 0
                try:
                    if group is not None:
                        group.attach(pid)
                    door.hand_over(spec.descriptors, spec.arguments, spec.environment, spec.working_directory)
                except BaseException:
                    os.close(descriptor)
                    raise
            except BaseException:
                remove(daemon, container)
                raise
        handle = SandboxHandle(
            version=1, backend=self.name, shard=spec.shard, pid=pid, start_ticks=ticks,
            control_groups=group.paths if group is not None else (),
        )  # fmt: skip
        if group is not None:
            group.close()
        sandbox = DockerSandbox(handle, descriptor, group)
        sandbox.daemon, sandbox.container = daemon, container
        self._sandboxes[pid] = sandbox
        return sandbox

    def _runs(self, container: str) -> Iterator[bool]:
        while True:
            yield bool(self.daemon.inspect_container(container)["State"]["Running"])

    def _imported(self, name: str, data: bytes) -> str:
        """The image of that name, made if it is not there. Two that make it at once make the same."""
        if name not in self._images:
            repository, tag = name.split(":")
            if not self.daemon.images(name=name):
                self.daemon.import_image_from_data(data, repository=repository, tag=tag)
            self._images.add(name)
        return name

    def _adopted(
        self, handle: SandboxHandle, descriptor: int, group: ControlGroup | None, mark: int | None
    ) -> DockerSandbox:
        sandbox = DockerSandbox(handle, descriptor, group)
        sandbox.daemon = self.daemon
        known = self._sandboxes.get(handle.pid)
        if isinstance(known, DockerSandbox):
            sandbox.container = known.container
        else:
            sandbox.container = next(
                (each["Id"] for each in self.daemon.containers(filters={"label": LABEL})
                 if self.daemon.inspect_container(each["Id"])["State"]["Pid"] == handle.pid), ""
            )  # fmt: skip
        return sandbox

    def sweep(self, alive: Collection[str] = ()) -> tuple[str, ...]:
        self._sweep(self.daemon)
        return super().sweep(alive)

    def _sweep(self, daemon: Any) -> None:
        """Containers of keepers that are dead."""
        for each in daemon.containers(all=True, filters={"label": LABEL}):
            owner = str(each["Labels"].get(LABEL, "")).split("-")
            if owner[1:2] and owner[1].isdecimal() and str(start_ticks(int(owner[1])) or 0) != owner[2]:
                remove(daemon, each["Id"])

    def close(self) -> None:
        super().close()
        if self._daemon is not None:
            self._daemon.close()
            self._daemon = None


def remove(daemon: Any, container: str) -> None:
    """Whatever it does; idempotent. What the daemon does not remove now is found by the next sweep."""
    with contextlib.suppress(Exception):
        daemon.remove_container(container, force=True, v=True)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    import docker
    import requests

    try:
        yield
    except (docker.errors.DockerException, requests.exceptions.RequestException) as error:
        raise SandboxError(f"the Docker daemon refuses: {_first_line(error)}", remedy="see its log") from error


def _first_line(error: Exception) -> str:
    explanation = getattr(error, "explanation", None)
    return str(explanation or error).splitlines()[0]
