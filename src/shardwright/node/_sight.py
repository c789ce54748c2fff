"""What a component's shards see of the machine at isolation `namespace`, worked out from its manifest and its plan.

Code is what can be imported: top-level modules beneath the import root, and folders that hold modules. Data that lies beside
it is not, unless ``files`` names it; nor are secrets, nor what other components declared as theirs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from shardwright.contracts.sandbox import Sight
from shardwright.errors import SandboxError
from shardwright.guest import Walls
from shardwright.model.manifest import Component, Manifest
from shardwright.sandbox import hosts_of
from shardwright.sandbox.namespace import (
    SCRATCH_BYTES,
    PlaceRefused,
    above,
    changing_places,
    followed,
    make_folder,
    tighten,
)

_SUFFIXES = (".py", ".so", ".pyi")
_NO_CODE = frozenset({"node_modules", "__pycache__"})
_DEPTH = 5


def sight_of(
    component: Component,
    manifest: Manifest,
    root: str,
    environment: dict[str, str],
    folder: str,
    *,
    linked: bool = False,
) -> Sight:
    """Makes folders to write to that are missing. Raises SandboxError, and PlaceRefused for links that a shard may have
    made. ``folder`` is the working directory.

    ``linked``: what it may reach it reaches by a link into a network of its own.
    """
    base = Path(manifest.path).parent
    changing = changing_of(manifest)
    write = tuple(_own(base, name, changing, make=name.endswith("/")) for name in component.files.write)
    read = tuple(_own(base, name, changing) for name in component.files.read)
    hidden = [str(base / source.partition(":")[2]) for each in manifest.components for source in each.secrets.values()
              if source.startswith("file:")]  # fmt: skip
    if manifest.gateway is not None:
        hidden += [path for path in (manifest.gateway.certificate, manifest.gateway.key) if path]
    for other in manifest.components:
        if other.name != component.name:
            hidden += [str(base / name) for name in (*other.files.read, *other.files.write)]
    mine = {followed(path, {}, changing) for path in (*read, *write)}
    homes = tuple(path for path in {environment.get("HOME", ""), folder, root} if os.path.isabs(path))
    return Sight(
        read=(*code_of(root), *read),
        write=write,
        hidden=tuple(sorted({path for path in hidden if os.path.realpath(path) not in mine})),
        changing=changing,
        folders=tuple(sorted(homes)),
        network=() if linked else component.network.egress,
        hosts=hosts_of(component.network.egress) if linked else (),
    )


def walls_of(sight: Sight, egress: tuple[str, ...]) -> Walls:
    """What the guest in such a sandbox closes behind itself; it may connect to the ports of ``egress``."""
    return Walls(
        scratch_bytes=SCRATCH_BYTES,
        tighten=tighten(),
        write=tuple(os.path.realpath(path) for path in sight.write),
        ports=tuple(sorted({int(place.rpartition(":")[2]) for place in egress})),
        own_network=not sight.network,
    )


def changing_of(manifest: Manifest) -> tuple[str, ...]:
    """The real places that shards may write to; not those of components stated to be `process`, which have no walls."""
    base = Path(manifest.path).parent
    walled = (each for each in manifest.components if each.isolation != "process")
    return changing_places(str(base / name) for each in walled for name in each.files.write)


def within_changing(paths: Iterable[str], manifest: Manifest) -> bool:
    """Whether one of these lies where a shard may take it away, or put something else in its place."""
    changing, base = changing_of(manifest), Path(manifest.path).parent
    for path in paths:
        try:
            real = followed(str(base / path), {}, changing)
        except PlaceRefused:
            return True
        if above(os.path.dirname(real), changing) is not None:
            return True
    return False


def _own(base: Path, name: str, changing: tuple[str, ...], *, make: bool = False) -> str:
    path = str(base / name)
    real = followed(path, {}, changing)
    if make:
        try:
            make_folder(real)
        except OSError as error:
            raise SandboxError(f"{path} cannot be made: {error.strerror}") from error
    return path


def code_of(root: str) -> tuple[str, ...]:
    """What of the import root can be imported."""
    found = []
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_dir():
                    if _holds_code(entry.path, _DEPTH):
                        found.append(entry.path)
                elif entry.name.endswith(_SUFFIXES):
                    found.append(entry.path)
    except OSError as error:
        raise SandboxError(f"the import root {root} cannot be read: {error.strerror}") from error
    return tuple(sorted(found))


def _holds_code(folder: str, depth: int) -> bool:
    name = os.path.basename(folder)
    if name.startswith(".") or name in _NO_CODE or not depth or os.path.exists(f"{folder}/pyvenv.cfg"):
        return False
    try:
        with os.scandir(folder) as entries:
            inner = list(entries)
    except OSError:
        return False
    if any(entry.name.endswith(_SUFFIXES) for entry in inner):
        return True
    return any(entry.is_dir(follow_symlinks=False) and _holds_code(entry.path, depth - 1) for entry in inner)
