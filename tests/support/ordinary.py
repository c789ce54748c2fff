"""An interpreter and our packages for somebody who may not read this environment, such as one in root's home."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

import shardwright

__all__ = ["ordinary_home"]


@contextlib.contextmanager
def ordinary_home(user: int) -> Iterator[tuple[Path, str, list[str]]]:
    """A folder of that user's, an interpreter that can be run from there, and where it finds what it needs.

    The interpreter is the system's where that is of this version, else a copy of this one's.
    """
    python = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    base = Path(sys.base_prefix)
    folder = Path(tempfile.mkdtemp(prefix="swk-", dir="/tmp"))
    ignored = shutil.ignore_patterns("__pycache__", "test", "idlelib", "ensurepip", "lib2to3", "pip", "mypy", "numpy*")
    try:
        folder.chmod(0o755)
        if not os.path.exists(python):
            library = Path(python).name
            shutil.copytree(base / "bin", folder / "python" / "bin", symlinks=True)
            shutil.copytree(base / "lib" / library, folder / "python" / "lib" / library, ignore=ignored)
            for shared in (base / "lib").glob("libpython*"):
                shutil.copy(shared, folder / "python" / "lib")
            python = str(folder / "python" / "bin" / library)
        site = Path(msgspec.__file__).parent.parent
        shutil.copytree(Path(shardwright.__file__).parent, folder / "src" / "shardwright", ignore=ignored)
        shutil.copytree(site, folder / "site", ignore=ignored, symlinks=True)
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, user, user, follow_symlinks=False)
        yield folder, python, [str(folder / "src"), str(folder / "site")]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
