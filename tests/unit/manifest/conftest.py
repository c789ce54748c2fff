"""An application folder to write manifests into."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from shardwright.errors import ManifestError
from shardwright.manifest import load

# What the design promises of the manifest, word for word, and the one component that it leaves out.
EXAMPLE = Path(__file__).with_name("design_example.toml")

Write = Callable[..., Path]
Problems = Callable[..., tuple[str, ...]]


@pytest.fixture
def example() -> str:
    return EXAMPLE.read_text()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a manifest, or the overlay of a profile, into the application's folder."""

    def write(text: str | bytes, profile: str | None = None) -> Path:
        file = tmp_path / (f"shardwright.{profile}.toml" if profile else "shardwright.toml")
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return tmp_path

    return write


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """The problems of what lies in the application's folder, without the folder's own path."""

    def problems(environment: Mapping[str, str] | None = None, profile: str | None = None) -> tuple[str, ...]:
        with pytest.raises(ManifestError) as caught:
            load(tmp_path, environment=environment, profile=profile)
        assert caught.value.problems
        return tuple(problem.replace(f"{tmp_path}/", "") for problem in caught.value.problems)

    return problems


@pytest.fixture
def fits() -> Callable[[str, str], bool]:
    """Whether a problem reads as expected; an ellipsis stands for any text."""

    def fits(problem: str, expected: str) -> bool:
        return re.fullmatch(".*".join(map(re.escape, expected.split("…"))), problem) is not None

    return fits
