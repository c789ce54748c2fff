"""Small applications for tests of real nodes: written to a folder, started, looked at."""

from __future__ import annotations

import sqlite3
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import shardwright

__all__ = ["journal_rows", "running", "write_application"]


def write_application(folder: Path, manifest: str, **modules: str) -> Path:
    """An application of these modules (by name, without ``.py``); returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shardwright.toml").write_text(textwrap.dedent(manifest))
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return folder


@contextmanager
def running(folder: Path, *, environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A node for the application in ``folder``, its journal in ``folder/.state``."""
    with shardwright.start(folder, state=folder / ".state", environment=environment) as node:
        yield node


def journal_rows(folder: Path, kind: str | None = None) -> list[tuple[str, str, str, str]]:
    """(kind, component, shard, reason) of every record, oldest first."""
    database = sqlite3.connect(folder / ".state" / "journal.sqlite3")
    try:
        rows = database.execute("SELECT kind, component, shard, reason FROM decisions ORDER BY sequence").fetchall()
    finally:
        database.close()
    return [row for row in rows if kind is None or row[0] == kind]
