"""Making shards: a Launcher turns a decided launch into a running, ready shard, or into one clear error."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shardwright.contracts.sandbox import Exit
from shardwright.errors import NodeError
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Usage
from shardwright.model.manifest import Component, Manifest
from shardwright.node._port import ShardPort

PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "PYTHONPATH", "PYTHONHASHSEED"),
    "PYTHONUNBUFFERED",  # how its output comes
    *("PYTHONHOME", "LD_LIBRARY_PATH"),  # without them this interpreter may not even start
)
THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Launcher(ABC):
    """Starts and ends shards for a node."""

    @abstractmethod
    async def prepare(self) -> None:
        """Make templates, so that shards start fast. Raises ComponentImportError, StartFailed."""

    @abstractmethod
    async def launch(self, component: ComponentName, shard: ShardId, limits: Limits, terminal: bool) -> ShardPort:
        """A ready shard. Raises ComponentImportError, StartFailed, SandboxError; then nothing of it is left."""

    @abstractmethod
    async def end(self, port: ShardPort) -> Exit | None:
        """Kill it if it still runs, and remove every trace; tells how it ended."""

    @abstractmethod
    async def usages(self, shards: list[ShardId]) -> Mapping[str, Usage | None]: ...

    @abstractmethod
    async def resize(self, shard: ShardId, limits: Limits) -> Limits: ...

    @abstractmethod
    async def close(self) -> None:
        """End everything that is left."""

    def how(self, component: ComponentName) -> str:
        """How shards of this component start, for people."""
        return "spawn"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the shards' processes inherit from whoever started the node."""

    environment: Mapping[str, str]
    working_directory: str
    argv: tuple[str, ...]
    secrets: Mapping[ComponentName, Mapping[str, str]] = field(default_factory=dict)

    def environment_of(self, component: Component | None) -> dict[str, str]:
        """No host environment beyond a fixed few and what the manifest names."""
        names = [*PASSED_ON, *(component.env if component is not None else ())]
        return THREADS | {name: self.environment[name] for name in names if name in self.environment}


def end_in_words(reason: str, ended: Exit | None) -> str:
    """Why the conversation ended, and how the process did. ``reason`` says no more than that it ended, or it matters."""
    if ended is None or (ended.status is None and not ended.out_of_memory):
        return reason
    plain = reason in ("", "it ended", "it was ended") or reason.startswith("its control socket broke")
    return str(ended) if plain else f"{reason}; {ended}"


def remedy_of(component: ComponentName, ended: Exit | None) -> str:
    """What to do about a process that ended while it imported its component."""
    if ended is not None and ended.out_of_memory:
        return f"raise memory in limits of [components.{component}], or let its import take less"
    if ended is not None and ended.status is not None and ended.status < 0:
        return (
            "look at what ended it: a signal of the system, of another process, or of native code that its import runs"
        )
    return "its import must not end the process"


def parent_of(pid: int) -> int | None:
    """The parent's pid; None when there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def read_secrets(manifest: Manifest, environment: Mapping[str, str]) -> dict[ComponentName, dict[str, str]]:
    """The values of all secrets. Raises NodeError that names the secret, never its value."""
    found: dict[ComponentName, dict[str, str]] = {}
    folder = Path(manifest.path).parent
    for component in manifest.components:
        for name, source in component.secrets.items():
            kind, _, rest = source.partition(":")
            try:
                if kind == "file":
                    value = (folder / rest).read_text().removesuffix("\n")
                elif kind == "env":
                    value = environment[rest]
                else:
                    raise NodeError(
                        f"secret {name} of {component.name}: {kind!r} is no source", remedy="use file: or env:"
                    )
            except (OSError, UnicodeDecodeError) as error:
                raise NodeError(f"secret {name} of {component.name} cannot be read: {error}") from None
            except KeyError:
                raise NodeError(f"secret {name} of {component.name}: {rest} is not in the environment") from None
            found.setdefault(component.name, {})[name] = value
    return found
