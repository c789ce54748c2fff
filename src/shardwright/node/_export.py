"""An OCI image of a component, from this very environment and without a network: what its shards need, in three layers.

*System*: the interpreter, its standard library, the system libraries that it and all extensions need. *Packages*: the
distributions that the code imports, Shardwright, and what those require. *Code*: what can be imported beneath the root. So
components of one application share the first layer, mostly the second, and a change of code makes a new third.
"""

from __future__ import annotations

import ast
import importlib.metadata
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from shardwright._syntax import parsed
from shardwright.errors import NodeError
from shardwright.model.manifest import Manifest
from shardwright.node._sight import code_of
from shardwright.sandbox.oci import Blob, Layout, needed

_LEFT_OUT = frozenset(
    {"__pycache__", "test", "tests", "idlelib", "turtledemo", "ensurepip", "site-packages", "lib2to3"}
)
_ETC = {
    "/etc/passwd": b"root:x:0:0:root:/:/nowhere\nshard:x:65532:65532:shard:/:/nowhere\n",
    "/etc/group": b"root:x:0:\nshard:x:65532:\n",
    "/etc/nsswitch.conf": b"passwd: files\ngroup: files\nhosts: files dns\n",
}
_DATA = ("/usr/share/zoneinfo", "/etc/ssl/certs/ca-certificates.crt")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

Files = dict[str, "Path | str | bytes"]


class Exported(Struct, frozen=True):
    """What was written. ``layers`` are the system's, the packages' and the code's."""

    image: str  # the digest of its manifest
    layers: tuple[Blob, ...]
    distributions: tuple[str, ...]


def export_image(
    manifest: Manifest, root: str, component: str, target: Path, layout: Path, *, extra: Iterable[str] = ()
) -> Exported:
    """Write the archive ``target`` of that component; blobs are kept in ``layout``, for the next one.

    ``extra``: distributions that the code imports by computed names. Raises NodeError, SandboxError.
    """
    declared = manifest.component(component)
    paths = code_of(root)
    code: Files = {}
    for path in paths:
        code.update({str(each): each for each in files_beneath(Path(path))})
    base = Path(manifest.path).parent
    for name in declared.files.read:
        code.update({str(each): each for each in files_beneath(base / name)})
    system, packages, distributions = _parts(code, extra)
    store = Layout(layout)
    layers = tuple(store.layer(files) for files in (system, packages, code))
    sites = tuple(dict.fromkeys((root, *(_site(each) for each in distributions))))
    name = f"{manifest.app}-{component}"
    image = store.image(
        layers,
        machine=_ARCHITECTURES.get(platform.machine(), platform.machine()),
        process={
            "Entrypoint": [os.path.realpath(sys.executable)], "WorkingDir": "/", "User": "65532:65532",
            "Env": [f"PYTHONPATH={':'.join(sites)}", "PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1"],
        },
        labels={
            "org.opencontainers.image.title": name, "io.shardwright.component": component,
            "io.shardwright.python": platform.python_version(),
        },
    )  # fmt: skip
    store.archive(image, "latest", target)
    return Exported(image.digest, layers, tuple(each.metadata["Name"] for each in distributions))


def files_for(code: Files, extra: Iterable[str] = ()) -> tuple[Files, Files, tuple[str, ...]]:
    """What that code needs to run: the system's files with the packages', the packages' alone, and the names of these.

    Raises NodeError.
    """
    system, packages, distributions = _parts(code, extra)
    return {**system, **packages}, packages, tuple(each.metadata["Name"] for each in distributions)


def _parts(code: Files, extra: Iterable[str]) -> tuple[Files, Files, list[importlib.metadata.Distribution]]:
    distributions = _distributions({*_imported(code), "shardwright"}, extra)
    packages: Files = {}
    for distribution in distributions:
        packages.update(_of_distribution(distribution))
    system = _system()
    elf = (str(each) for each in (*system.values(), *packages.values()) if isinstance(each, Path) and _is_binary(each))
    for library in needed(elf):
        with_links(library, system)
    return system, packages, distributions


def files_beneath(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(each for each in folders if each != "__pycache__" and not each.startswith("."))
        yield from (Path(folder, name) for name in names)


def _imported(files: Mapping[str, Path | str | bytes]) -> set[str]:
    """The distributions of all top-level modules that the code names in an import statement."""
    names: set[str] = set()
    for path in files.values():
        if not isinstance(path, Path) or path.suffix != ".py":
            continue
        try:
            tree = parsed(path.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names.add(node.module.partition(".")[0])
    known = importlib.metadata.packages_distributions()
    return {distribution for name in names for distribution in known.get(name, ())}


def _distributions(names: Iterable[str], extra: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """These and all that they require here, by name. Raises NodeError for one of ``extra`` that is not installed."""
    found: dict[str, importlib.metadata.Distribution] = {}
    todo = [(name, False) for name in names] + [(name, True) for name in extra]
    while todo:
        name, wanted = todo.pop()
        key = name.lower().replace("_", "-")
        if key in found:
            continue
        try:
            found[key] = distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            if wanted:
                raise NodeError(f"{name} is not installed here", remedy="an image is made of what is") from None
            continue
        for text in (
            distribution.requires or ()
        ):  # whatever else a marker says: what is not needed is not installed here
            if (named := _NAME.match(text)) and "extra ==" not in text.replace("==", " ==").replace("  ", " "):
                todo.append((named[0], False))
    return [found[key] for key in sorted(found)]


def _site(distribution: importlib.metadata.Distribution) -> str:
    if distribution.metadata["Name"] == "shardwright":
        return str(Path(__file__).parent.parent.parent)
    return str(distribution.locate_file(""))


def _of_distribution(distribution: importlib.metadata.Distribution) -> Files:
    if distribution.metadata["Name"] == "shardwright":  # it may be installed in place
        return {str(each): each for each in files_beneath(Path(__file__).parent.parent)}
    found: Files = {}
    site = os.path.realpath(_site(distribution))
    for each in distribution.files or ():
        path = Path(os.path.normpath(str(each.locate())))
        if "__pycache__" not in path.parts and path.is_file() and str(path).startswith(f"{site}/"):
            found[str(path)] = path
    return found


def _system() -> Files:
    found: Files = dict(_ETC)
    executable = os.path.realpath(sys.executable)
    found[executable] = Path(executable)
    library = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix})
    for folder, folders, names in os.walk(library):
        folders[:] = sorted(each for each in folders if each not in _LEFT_OUT and not each.startswith("config-"))
        for name in names:
            if not name.endswith((".a", ".pyc")):
                found[f"{folder}/{name}"] = Path(folder, name)
    for place in _DATA:
        for path in files_beneath(Path(place)):
            found[str(path)] = Path(os.path.realpath(path))
    return found


def _is_binary(path: Path) -> bool:
    return ".so" in path.name or bool(path.stat().st_mode & 0o100)


def with_links(path: str, into: Files) -> None:
    """A file at its real path, and the symbolic links that lead there."""
    while True:
        parts = path.strip("/").split("/")
        link = next((p for n in range(len(parts)) if os.path.islink(p := "/" + "/".join(parts[: n + 1]))), None)
        if link is None:
            into[path] = Path(path)
            return
        target = os.readlink(link)
        into[link] = target
        path = os.path.normpath(os.path.join(os.path.dirname(link), target) + path[len(link) :])
