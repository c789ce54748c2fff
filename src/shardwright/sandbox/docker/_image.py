"""The image of a container: nothing but symbolic links and empty folders to mount upon, named by its content.

Files come by read-only bind mounts, as for ``namespace``: an image takes a few kilobytes, is made without a network, and is
the same for all components that see the same folders.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import PurePosixPath

from shardwright.sandbox.namespace._view import View

REPOSITORY = "shardwright"
_ALWAYS = ("/proc", "/sys", "/dev", "/run", "/tmp", "/etc")


def image_of(view: View) -> tuple[str, bytes]:
    """Its name (``repository:tag``), and the tar to import it from. The same view makes the same bytes."""
    links = dict(view.links)
    folders = {path for path in (*_ALWAYS, *view.folders) if path not in links and path != "/"}
    for path in (*links, *view.folders, *(place.path for place in view.places)):
        folders.update(str(parent) for parent in PurePosixPath(path).parents if str(parent) != "/")
    folders -= links.keys()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folders):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for path, target in sorted(links.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
            archive.addfile(entry)
    data = buffer.getvalue()
    return f"{REPOSITORY}:{hashlib.sha256(data).hexdigest()[:32]}", data
