"""What walls refused, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwright.model.manifest import Manifest
from shardwright.node._denials import denial


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    path = tmp_path / "shardwright.toml"
    return Manifest(
        "app", str(path), str(tmp_path), places={"components.web": f"{path}:4", "components.web.files": f"{path}:9"}
    )


def test_the_line_to_add_is_named(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "a.csv").touch()
    assert denial(manifest, "web", f"read {tmp_path}/a.csv") == (
        f'may not read {tmp_path}/a.csv: add files = {{ read = ["a.csv"] }} to [components.web] ({tmp_path}/shardwright.toml:9)'
    )
    assert 'write = ["new.txt"]' in denial(manifest, "web", f"write {tmp_path}/new.txt")
    assert denial(manifest, "web", "connect db:5432").endswith(
        f'add network = {{ egress = ["db:5432"] }} to [components.web] ({tmp_path}/shardwright.toml:4)'
    )


@pytest.mark.parametrize(
    "what", ["read /no/such/file", "write /no/such/folder/x", "hear /etc", "", "read /etc/\x1b[31m"]
)
def test_what_is_no_refusal_is_not_told(manifest: Manifest, what: str) -> None:
    assert denial(manifest, "web", what) == ""


def test_a_hostile_name_is_cut_short(manifest: Manifest) -> None:
    assert len(denial(manifest, "web", f"connect {'x' * 100_000}:1")) < 1000
