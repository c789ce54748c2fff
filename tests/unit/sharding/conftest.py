"""Small applications on disk, and their plans."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from shardwright.model.manifest import Component, Manifest
from shardwright.model.shard import ShardPlan
from shardwright.sharding import plan

Files = Mapping[str, str]


def write_app(root: Path, files: Files) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text).lstrip("\n"), "utf-8")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Files], Path]:
    """Writes files below a fresh folder and returns it."""

    def write_files(files: Files) -> Path:
        write_app(tmp_path, files)
        return tmp_path

    return write_files


@pytest.fixture
def plan_app(tmp_path: Path) -> Callable[..., ShardPlan]:
    """``plan_app(files, {name: code or fields}, main="", **manifest)``: writes the files and plans them."""

    def plan_files(
        files: Files, components: Mapping[str, str | dict[str, Any]], main: str = "", **manifest: Any
    ) -> ShardPlan:
        write_app(tmp_path, files)
        made = []
        for name, about in components.items():
            fields = {"code": about} if isinstance(about, str) else about
            made.append(Component(name, **fields))  # type: ignore[arg-type]
        path = str(tmp_path / "shardwright.toml")
        return plan(Manifest("app", path, str(tmp_path), main, components=tuple(made), **manifest))

    return plan_files
