"""Single numbers out of the files of a control group, read without a look at the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from shardwright.sandbox._linux._files import ControlFiles


@pytest.fixture
def files(tmp_path: Path) -> ControlFiles:
    (tmp_path / "one").write_text("4096\n")
    (tmp_path / "none").write_text("max\n")
    rows = [f"name_{number} {number}" for number in range(2000)]
    (tmp_path / "table").write_text("\n".join(["first 7", "total_first 8", *rows, "last 9"]) + "\n")
    return ControlFiles(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "number"), [("first", 7), ("total_first", 8), ("name_1", 1), ("name_1999", 1999), ("last", 9), ("name_", 0)]
)
def test_a_key_is_found_wherever_it_stands_and_only_whole(files: ControlFiles, key: str, number: int) -> None:
    assert files.number("table", key) == number == files.table("table").get(key, 0)
    files.close()


def test_a_file_of_one_number(files: ControlFiles) -> None:
    assert files.number("one") == 4096
    with pytest.raises(ValueError, match="max"):
        files.number("none")
    with pytest.raises(OSError, match="nowhere"):
        files.number("nowhere")
    files.close()
