"""Layers and archives of the OCI image specification 1.0: the same content makes the same bytes, and is kept once.

A layout is a folder of blobs, named by the SHA-256 of what they hold; images that share a layer share its file. An archive is
one image of a layout as a tar, which `skopeo`, `podman load`, `ctr image import` and the like take.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from msgspec import Struct

from shardwright.errors import SandboxError

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX = "application/vnd.oci.image.index.v1+json"
_EPOCH = "1970-01-01T00:00:00Z"
_PIECE = 1 << 20


class Blob(Struct, frozen=True):
    """One file of a layout."""

    kind: str
    digest: str
    size: int

    def told(self) -> dict[str, Any]:
        return {"mediaType": self.kind, "digest": self.digest, "size": self.size}


class Layout:
    """An OCI image layout in a folder, which is made if it is not there. Raises SandboxError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        try:
            self._blobs.mkdir(parents=True, exist_ok=True)
            (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        except OSError as error:
            raise SandboxError(f"{folder} cannot be written: {error.strerror}") from error

    def layer(self, files: Mapping[str, Path | str | bytes]) -> Blob:
        """One of these paths: a file of ours, or a symbolic link (text), or content (bytes). Folders above come with them."""
        with self._writing() as writing:
            with tarfile.open(fileobj=writing, mode="w", format=tarfile.PAX_FORMAT) as archive:
                folders: set[str] = set()
                for path in sorted(files):
                    for parent in reversed(PurePosixPath(path).parents):
                        name = str(parent).lstrip("/")
                        if name and name not in folders:
                            folders.add(name)
                            archive.addfile(_entry(name, tarfile.DIRTYPE, 0o755))
                    _add(archive, path.lstrip("/"), files[path])
            return writing.done(_LAYER)

    def image(
        self, layers: Sequence[Blob], *, machine: str, process: Mapping[str, Any], labels: Mapping[str, str]
    ) -> Blob:
        """Its manifest. ``process`` are the keys of the image configuration's ``config``."""
        config = {
            "created": _EPOCH, "architecture": machine, "os": "linux", "config": {**process, "Labels": dict(labels)},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
            "history": [{"created": _EPOCH, "created_by": "shardwright export image"} for _ in layers],
        }  # fmt: skip
        made = {
            "schemaVersion": 2, "mediaType": _MANIFEST, "config": self._json(config, _CONFIG).told(),
            "layers": [layer.told() for layer in layers], "annotations": dict(labels),
        }  # fmt: skip
        return self._json(made, _MANIFEST)

    def archive(self, image: Blob, name: str, target: Path) -> None:
        """Write that image alone, as one file; nothing is left of it when that fails. Raises SandboxError."""
        made = json.loads((self._blobs / image.digest[7:]).read_bytes())
        told = {**image.told(), "annotations": {"org.opencontainers.image.ref.name": name}}
        index = _bytes({"schemaVersion": 2, "mediaType": _INDEX, "manifests": [told]})
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        try:
            with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as archive:
                for path, content in (("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", index)):
                    _add(archive, path, content)
                digests = {image.digest, made["config"]["digest"], *(layer["digest"] for layer in made["layers"])}
                for folder in ("blobs", "blobs/sha256"):
                    archive.addfile(_entry(folder, tarfile.DIRTYPE, 0o755))
                for digest in sorted(digests):
                    _add(archive, f"blobs/sha256/{digest[7:]}", self._blobs / digest[7:])
            os.replace(partial, target)
        except OSError as error:
            raise SandboxError(
                f"{target} cannot be written: {error.strerror}", remedy="make room, or name another file"
            ) from error
        finally:
            partial.unlink(missing_ok=True)

    def _json(self, content: Mapping[str, Any], kind: str) -> Blob:
        with self._writing() as writing:
            writing.write(_bytes(content))
            return writing.done(kind)

    def _writing(self) -> _Writing:
        try:
            return _Writing(self._blobs)
        except OSError as error:
            raise SandboxError(f"{self._blobs} cannot be written: {error.strerror}") from error


class _Writing(io.RawIOBase):
    """A blob that is being written, and summed; gone unless it was ``done``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sum = hashlib.sha256()
        self._size = 0
        descriptor, self._path = tempfile.mkstemp(dir=folder, prefix=".writing-")
        self._file = os.fdopen(descriptor, "wb", buffering=_PIECE)

    def write(self, piece: Any) -> int:
        self._sum.update(piece)
        self._size += len(piece)
        try:
            return self._file.write(piece)
        except OSError as error:
            raise SandboxError(f"{self._folder} cannot be written: {error.strerror}", remedy="make room") from error

    def tell(self) -> int:
        return self._size

    def done(self, kind: str) -> Blob:
        digest = self._sum.hexdigest()
        try:
            self._file.close()
            os.chmod(self._path, 0o644)
            os.replace(self._path, self._folder / digest)  # the same content, if it is there already
        except OSError as error:
            raise SandboxError(f"{self._folder} cannot be written: {error.strerror}", remedy="make room") from error
        return Blob(kind, f"sha256:{digest}", self._size)

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what it could not write was told already
        Path(self._path).unlink(missing_ok=True)
        super().close()


def _bytes(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


def _add(archive: tarfile.TarFile, name: str, content: Path | str | bytes) -> None:
    if isinstance(content, str):
        entry = _entry(name, tarfile.SYMTYPE, 0o777)
        entry.linkname = content
        archive.addfile(entry)
    elif isinstance(content, bytes):
        entry = _entry(name, tarfile.REGTYPE, 0o644)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    else:
        with open(content, "rb") as file:
            status = os.fstat(file.fileno())
            entry = _entry(name, tarfile.REGTYPE, 0o755 if status.st_mode & 0o100 else 0o644)
            entry.size = status.st_size
            archive.addfile(entry, file)
