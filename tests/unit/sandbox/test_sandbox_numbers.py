"""Single numbers out of the files of a control group, read without a look at the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from shardwright.model.limits import Usage
from shardwright.sandbox._linux._cgroup import Looked
from shardwright.sandbox._linux._cgroup_v1 import GroupV1
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


def test_who_took_no_time_is_not_read_again_but_in_turn(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    def write(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)

    write("cpuacct.usage", "1000000000\n")
    write("memory.usage_in_bytes", "8192\n")
    write("memory.stat", "cache 0\ntotal_inactive_file 4096\n")
    write("pids.current", "2\n")
    write("cpu.stat", "nr_periods 0\nnr_throttled 0\nthrottled_time 500000000\n")
    group = GroupV1(dict.fromkeys(("pids", "cpu", "memory", "cpuacct"), str(tmp_path)))
    first = group.usage()
    assert first == Usage(1.0, 4096, 2, 0.5)
    write("memory.usage_in_bytes", "12288\n")  # reclaim, or whatever happens to a group that does not run
    seen = [group.usage() for _ in range(40)]
    anew = seen.index(Usage(1.0, 8192, 2, 0.5))
    assert anew <= 16
    assert seen[:anew] == [first] * anew
    write("memory.usage_in_bytes", "16384\n")
    write("cpuacct.usage", "1000000001\n")
    assert group.usage() == Usage(1.000000001, 12288, 2, 0.5)
    group.close()
    record_exercised("looks at a group", 42)


def test_groups_are_read_anew_in_turn() -> None:
    groups = [Looked() for _ in range(32)]
    usage = Usage(0.0, 1)
    for each in groups:
        each.keep(0, usage)
    anew = [0] * 32
    for look in range(32):
        for each in groups:
            if each.unless_moved(0) is None:
                each.keep(0, usage)
                anew[look] += 1
    assert max(anew) <= 4
    assert sum(anew) >= 32
