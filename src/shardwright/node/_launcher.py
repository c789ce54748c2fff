"""Making shards: a Launcher turns a decided launch into a running, ready shard, or into one clear error."""

from __future__ import annotations

import errno
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from msgspec import Struct, field

from shardwright.contracts.sandbox import Exit
from shardwright.errors import NodeError
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.limits import Limits, Usage
from shardwright.model.manifest import Component, Manifest
from shardwright.model.shard import ShardPlan
from shardwright.node._port import ShardPort

PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "PYTHONPATH", "PYTHONHASHSEED"),
    "PYTHONUNBUFFERED",  # how its output comes
    *("PYTHONHOME", "LD_LIBRARY_PATH"),  # without them this interpreter may not even start
)
LEAST_TOKEN = 16  # characters: this one is guessed at from afar
_LARGEST_SECRET = 2**20
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/-]{{{LEAST_TOKEN},512}}=*")
THREADS = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


Secrets = Mapping[ComponentName, Mapping[str, str]]


class Staged(Struct, frozen=True):
    """Code that shards may be launched by. ``commit`` is called on the node's loop, and does not wait."""

    commit: Callable[[], None]


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
    async def stage(
        self, manifest: Manifest, plan: ShardPlan, secrets: Secrets, components: Collection[ComponentName]
    ) -> Staged:
        """Get other code ready for those components, as far as can be tried beforehand; shards start by it once it was
        committed. Raises ComponentImportError, StartFailed, and has changed nothing then.
        """

    @abstractmethod
    async def close(self) -> None:
        """End everything that is left."""

    def how(self, component: ComponentName) -> str:
        """How shards of this component start, for people."""
        return "spawn"

    def isolation(self, component: ComponentName) -> str:
        """What holds shards of this component apart from others: the name of a sandbox backend; empty where nothing does."""
        return ""


class Surroundings(Struct, frozen=True):
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


def cause_of(kind: str, ended: Exit | None) -> str:
    """The same in one word of a few, for counting."""
    if ended is not None and ended.out_of_memory:
        return "out_of_memory"
    if kind == "ended":
        return "stopped"
    if ended is None or ended.status is None:
        return "unknown"
    return "signal" if ended.status < 0 else "exit"


def remedy_of(component: ComponentName, ended: Exit | None) -> str:
    """What to do about a process that ended while it imported its component."""
    if ended is not None and ended.out_of_memory:
        return f"raise memory in limits of [components.{component}], or let its import take less"
    if ended is not None and ended.status is not None and ended.status < 0:
        return (
            "look at what ended it: a signal of the system, of another process, or of native code that its import runs"
        )
    return "its import must not end the process"


def read_secrets(manifest: Manifest, environment: Mapping[str, str]) -> dict[ComponentName, dict[str, str]]:
    """The values of all secrets. Raises NodeError that names the secret, never its value."""
    found: dict[ComponentName, dict[str, str]] = {}
    for component in manifest.components:
        for name, source in component.secrets.items():
            key = f"components.{component.name}.secrets.{name}"
            what = f"{manifest.place(key)}: secret {name} of {component.name}"
            value = _secret(what, source, manifest, environment)
            found.setdefault(component.name, {})[name] = value
    return found


def read_token(manifest: Manifest, environment: Mapping[str, str]) -> str:
    """The gateway's token; empty where it has none. Raises NodeError that never tells its value, also for files of its
    certificate that a shard may change.
    """
    if manifest.gateway is None:
        return ""
    for path in filter(None, (manifest.gateway.certificate, manifest.gateway.key)):
        _check_place(f"{manifest.place('gateway.tls')}: [gateway] tls", path, manifest)
    if not manifest.gateway.token:
        return ""
    token = _secret(
        f"{manifest.place('gateway.token')}: [gateway] token", manifest.gateway.token, manifest, environment
    )
    if not _TOKEN.fullmatch(token):
        raise NodeError(
            "[gateway] token is not one that can be sent as a bearer token, or is too short",
            remedy=f"at least {LEAST_TOKEN} letters, digits or -._~+/ , such as `openssl rand -hex 32` makes",
        )
    return token


def _check_place(what: str, path: str, manifest: Manifest) -> None:
    """Whoever reads it would follow what a shard put there. The manifest is checked already, but for links on the way."""
    from shardwright.node._sight import within_changing  # as few manifests name files as need it

    if within_changing((path,), manifest):
        raise NodeError(
            f"{what}: {path} lies where shards may write", remedy="keep it out of what components' files.write names"
        )


def _file_of_a_secret(path: Path) -> str:
    """What that file holds, if it is a file and no larger than secrets are. Raises OSError, UnicodeDecodeError."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:  # a pipe would wait
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size > _LARGEST_SECRET:
            raise OSError(errno.EFBIG, f"{status.st_size} bytes are too many for a secret", str(path))
        return file.read(_LARGEST_SECRET)


def _secret(what: str, source: str, manifest: Manifest, environment: Mapping[str, str]) -> str:
    kind, _, rest = source.partition(":")
    try:
        if kind == "file":
            _check_place(what, rest, manifest)
            return _file_of_a_secret(Path(manifest.path).parent / rest).removesuffix("\n")
        if kind == "env":
            return environment[rest]
    except (OSError, UnicodeDecodeError) as error:
        raise NodeError(
            f"{what} cannot be read: {error}", remedy=f"write it to {rest}, readable for you alone"
        ) from None
    except KeyError:
        raise NodeError(
            f"{what}: {rest} is not in the environment", remedy=f"set {rest} where shardwright starts"
        ) from None
    raise NodeError(f"{what}: {kind!r} is no source", remedy="use file: or env:")
