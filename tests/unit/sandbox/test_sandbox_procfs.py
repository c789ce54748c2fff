"""Reading /proc."""

from __future__ import annotations

import os
from pathlib import Path

from shardwright.sandbox._linux import _procfs


def test_command_names_may_hold_anything(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    fields = "S 1 7 7 0 -1 4194560 100 0 0 0 12 8 0 0 20 0 3 0 987654 1000000 250 18446744073709551615"
    (tmp_path / "7" / "stat").write_text(f"7 (evil) S 9 (x)) {fields}\n")
    stat = _procfs.process_stat(7, str(tmp_path))
    assert stat == _procfs.ProcessStat(
        pid=7,
        state="S",
        parent=1,
        group=7,
        session=7,
        cpu_ticks=20,
        threads=3,
        start_ticks=987654,
        resident_pages=250,
    )


def test_no_such_process(tmp_path: Path) -> None:
    assert _procfs.process_stat(7, str(tmp_path)) is None
    assert _procfs.start_ticks(7, str(tmp_path)) is None


def test_this_process() -> None:
    stat = _procfs.process_stat(os.getpid())
    assert stat is not None and stat.parent == os.getppid() and stat.session == os.getsid(0)
    usage = _procfs.process_usage(os.getpid())
    assert usage is not None and usage.memory_bytes > 1 << 20 and usage.threads >= 1
    assert os.getpid() in _procfs.children(os.getppid()) or os.getppid() == 0
    assert os.getpid() in _procfs.all_pids()


def test_memory_total(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemTotal:       24684092 kB\n")
    assert _procfs.memory_total_bytes(str(tmp_path)) == 24684092 * 1024
    assert _procfs.memory_total_bytes(str(tmp_path / "missing")) is None
