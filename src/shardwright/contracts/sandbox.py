"""SandboxBackend and Sandbox: the maker of isolated boxes, and one such box.

``shardwright.testing.check_sandbox_backend`` runs one conformance suite over every implementation.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from msgspec import Struct, field

from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Resources, Usage


class Capabilities(Struct, frozen=True):
    """What a backend can do. ``transports`` are the names of those that reach into its sandboxes."""

    transports: tuple[str, ...]
    starts: tuple[str, ...]  # "spawn", "template"
    isolates: tuple[str, ...]  # "memory", "files", "network", "pids"; "kernel": it is a machine of its own
    enforces: tuple[str, ...]  # resources whose ceiling is really enforced: "cpu", "memory", "pids", ...


class Finding(Struct, frozen=True):
    """One line of ``doctor``: what was looked at, whether it is there, and the remedy when it is not."""

    name: str
    present: bool
    detail: str = ""
    remedy: str = ""


class Fingerprint(Struct, frozen=True):
    """What a backend, or the node, finds on this machine."""

    usable: bool
    findings: tuple[Finding, ...]


class SandboxHandle(Struct, frozen=True):
    """Versioned, storable reference to a running sandbox, enough to adopt it again after a restart."""

    version: int
    backend: str
    shard: ShardId
    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat: tells a process from a later one of the same pid
    control_groups: tuple[str, ...] = ()


class Sight(Struct, frozen=True):
    """What of the machine a sandbox sees beside an interpreter and its libraries. Absolute paths; for backends that isolate.

    ``hidden`` are taken out of what lies in ``read``; ``folders`` are there and empty. ``network`` names the places
    (``host:port``) that it may connect to in the machine's network; without any it has no network but its own, in which
    ``hosts`` are names and their addresses (a link is made to it, see ``sandbox``). ``devices`` are device files that it
    may use beyond null and its like, ``denied`` those that it may not: for backends that show it the whole machine.
    ``changing`` are places that other sandboxes may write to: links in them, as in ``write``, lead to nothing that is shown.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    changing: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    network: tuple[str, ...] = ()
    hosts: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


class LaunchSpec(Struct, frozen=True):
    """What a sandbox must run: the guest's argument vector, its descriptors and environment, and its limits.

    ``descriptors`` maps the number that the guest will see to a descriptor of the caller's. ``template``: it will fork
    processes that get boxes of their own, and that may outlive it.
    """

    shard: ShardId
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    working_directory: str
    descriptors: Mapping[int, int] = field(default_factory=dict)
    limits: Limits = Limits()
    max_pids: int = 256
    sight: Sight = Sight()
    template: bool = False


class Exit(Struct, frozen=True):
    """How a sandbox ended. ``status`` is the exit status, or minus the signal; None when nobody could tell."""

    status: int | None
    out_of_memory: bool = False

    def __str__(self) -> str:
        if self.out_of_memory:
            return "killed: memory ceiling exceeded"
        if self.status is None:
            return "ended"
        return f"killed by signal {-self.status}" if self.status < 0 else f"exited with status {self.status}"


class Sandbox(ABC):
    """One running box. Methods are synchronous and bounded; ``wait`` is a poll."""

    handle: SandboxHandle

    @abstractmethod
    def resize(self, limits: Limits) -> Limits:
        """Apply limits to the running box; returns what reads back. Raises SandboxError when nothing was changed."""

    @abstractmethod
    def usage(self) -> Usage | None:
        """What it takes now; None when it is gone."""

    @abstractmethod
    def kill(self) -> None:
        """End every process in it, at once. Idempotent."""

    @abstractmethod
    def poll(self) -> Exit | None:
        """How it ended, or None while it runs."""

    @abstractmethod
    def fileno(self) -> int:
        """A descriptor (pidfd) that polls readable once the box has ended."""

    @abstractmethod
    def delete(self) -> None:
        """Kill if need be and remove every trace (control groups, descriptors). Idempotent."""


class SandboxBackend(ABC):
    """The maker of sandboxes."""

    name: str

    @abstractmethod
    def fingerprint(self) -> Fingerprint: ...

    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    def launch(self, spec: LaunchSpec) -> Sandbox:
        """Start the guest in a new box, with its limits in force before its first instruction.

        Raises SandboxError; then nothing is left behind.
        """

    @abstractmethod
    def adopt(self, handle: SandboxHandle, limits: Limits | None = None) -> Sandbox | None:
        """Take over a running box by its handle, or put a process that a template forked into a box of its own.

        With ``limits``, control groups are made and the process is put into them first. None when it is gone.
        """

    @abstractmethod
    def capacity(self) -> Resources:
        """What this machine has to give (cores and memory at least)."""
