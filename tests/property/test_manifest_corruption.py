"""Whatever is in the files: a manifest, or one ManifestError whose problems have their places."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.errors import ManifestError
from shardwright.manifest import load
from shardwright.model.manifest import Manifest

EXAMPLE = (Path(__file__).parents[1] / "unit" / "manifest" / "design_example.toml").read_bytes()

EDITS = st.lists(
    st.tuples(
        st.integers(0, len(EXAMPLE)),
        st.integers(0, 5),
        st.binary(max_size=2)
        | st.sampled_from([b'"""', b"[[", b"${", b"${X}", b"'''", b"\n", b"= {", b"\xff", b"9" * 30]),
    ),
    max_size=4,
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.integers(-(2**70), 2**70)
    | st.floats()
    | st.booleans()
    | st.datetimes()
    | st.times()
    | st.text(max_size=5)
    | st.sampled_from(["a.b:c", "key:", "oci:", "1MiB", "${", "${X}", "[::]:1", "session"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("application")


def outcome(folder: Path, profile: str | None = None) -> Manifest | None:
    try:
        return load(folder, environment={"X": "\ud800\0"}, profile=profile)
    except ManifestError as error:
        assert error.problems
        for problem in error.problems:
            assert problem.startswith(f"{folder}/shardwright.")
            assert "\n" not in problem.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        return None


def corrupted(edits: list[tuple[int, int, bytes]]) -> bytes:
    content = EXAMPLE
    for position, length, replacement in edits:
        content = content[:position] + replacement + content[position + length :]
    return content


@settings(max_examples=300, deadline=None)
@given(edits=EDITS)
def test_bytes_flipped_removed_and_put_in(folder: Path, edits: list[tuple[int, int, bytes]]) -> None:
    (folder / "shardwright.toml").write_bytes(corrupted(edits))
    manifest = outcome(folder)
    assert edits or manifest is not None


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes(folder: Path, content: bytes) -> None:
    (folder / "shardwright.toml").write_bytes(content)
    assert outcome(folder) is None


@settings(max_examples=200, deadline=None)
@given(edits=EDITS)
def test_a_corrupted_overlay(folder: Path, edits: list[tuple[int, int, bytes]]) -> None:
    (folder / "shardwright.toml").write_bytes(EXAMPLE)
    (folder / "shardwright.eu.toml").write_bytes(corrupted(edits))
    outcome(folder, "eu")


@st.composite
def rewired(draw: st.DrawFn) -> dict[str, Any]:
    """The example with some values replaced by values of any type."""
    tree = tomllib.loads(EXAMPLE.decode())
    for _ in range(draw(st.integers(1, 3))):
        table: Any = tree
        while True:
            keys = list(table) if isinstance(table, dict) else list(range(len(table)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(table[key], (dict, list)) and draw(st.integers(0, 3)):
                table = table[key]
                continue
            table[key] = draw(VALUES)
            break
    return tree


@settings(max_examples=300, deadline=None)
@given(tree=rewired())
def test_values_of_any_type_anywhere(folder: Path, tree: dict[str, Any]) -> None:
    (folder / "shardwright.toml").write_text(tomlkit.dumps(tree), encoding="utf-8", newline="")
    outcome(folder)
