"""Coverage of all processes that a run of the suite starts, whatever environment they are given.

Coverage finds its way into child processes by environment variables; templates and shards get none of ours. So the
test command installs a ``.pth`` file into its own virtual environment which starts a recorder wherever a marker file
lies: it lies there during the measured run and no longer. Coverage itself only reports.
"""

from __future__ import annotations

import argparse
import marshal
import sys
import sysconfig
from pathlib import Path

from house_lines import TABLE, compile_package
from house_recorder import PREFIX

__all__ = ["PTH", "UNMEASURED", "install", "merge", "startup_code"]

PTH = "a0_shardwright_coverage.pth"
UNMEASURED = (
    "SHARDWRIGHT_TESTS_UNMEASURED"  # set for processes that are not to be recorded, for they count something else
)

_STARTUP = """
import os
if os.path.exists({marker!r}) and not os.getenv({unmeasured!r}) and 'house_recorder' not in sys.modules:
    try:  # a folder may be read for such files twice
        with open({marker!r}, encoding="utf-8") as lines:
            here, *settings = lines.read().splitlines()
        sys.path.insert(0, here)
        try:
            import house_recorder
        finally:
            sys.path.remove(here)
        house_recorder.Recorder(*settings).start()
    except (ImportError, OSError, ValueError):
        pass
"""


def startup_code(marker: Path) -> str:
    """The line of a ``.pth`` file that records in every process while ``marker`` is there."""
    return f"import sys; exec({_STARTUP.format(marker=str(marker), unmeasured=UNMEASURED)!r})\n"


def install(marker: Path, package: Path, data_folder: Path, site_packages: Path) -> None:
    """Write the code to ``data_folder``, the ``.pth`` file, and the marker; removing the marker ends the recording."""
    lines = compile_package(package, data_folder / "code")
    (site_packages / PTH).write_text(startup_code(marker), encoding="utf-8")
    settings = (Path(__file__).parent, f"{package}/", data_folder, lines)
    marker.write_text("".join(f"{line}\n" for line in settings), encoding="utf-8")


def merge(data_folder: Path) -> tuple[dict[str, set[int]], int]:
    """The lines of each file that ran in any process, and in how many processes any did."""
    table: dict[str, tuple[int, list[int]]] = marshal.loads((data_folder / "code" / TABLE).read_bytes())
    total = sum(len(lines) for _, lines in table.values())
    ran, processes = 0, 0
    for path in data_folder.glob(f"{PREFIX}*"):
        recorded = path.read_bytes()
        if len(recorded) == total:  # else killed while it wrote
            ran |= int.from_bytes(recorded, "little")
            processes += 1
    hits = ran.to_bytes(total, "little")
    found = {
        name: {line for line, hit in zip(lines, hits[first : first + len(lines)], strict=True) if hit}
        for name, (first, lines) in table.items()
    }
    return found, processes


def report(data_folder: Path, percent: float, *, include: str | None = None) -> int:
    """Print what ran; returns 0 where that is at least ``percent``, else 2 as coverage does."""
    from coverage import Coverage, CoverageData  # which takes 90 ms

    lines, processes = merge(data_folder)
    data_file = data_folder / "coverage"
    data = CoverageData(basename=str(data_file))
    data.erase()
    data.add_lines(lines)
    data.write()
    data.close()
    measured = Coverage(data_file=str(data_file))
    measured.load()
    covered = measured.report(include=include)
    measured.get_data().close()
    print(f"coverage {covered:.2f} % ({percent:g} is asked), of {processes:,} processes whose lines were recorded")
    return 0 if covered >= percent else 2


def main() -> int:
    parser = argparse.ArgumentParser(description="record in every process of this virtual environment, and report")
    parser.add_argument("--install", nargs=3, type=Path, metavar=("MARKER", "PACKAGE", "DATA"))
    parser.add_argument("--report", type=Path, metavar="DATA")
    parser.add_argument("--fail-under", type=float, default=0.0, metavar="PERCENT")
    arguments = parser.parse_args()
    if arguments.report:
        return report(arguments.report, arguments.fail_under)
    marker, package, data_folder = arguments.install
    install(marker, package, data_folder, Path(sysconfig.get_path("purelib")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
