"""Coverage of processes that are started with an environment of their own.

Coverage finds its way into child processes by environment variables; templates and shards get none of ours. So the
test command installs a ``.pth`` file into its own virtual environment which starts coverage wherever a marker file
lies: it lies there during the measured run and no longer.
"""

from __future__ import annotations

import argparse
import sysconfig
from pathlib import Path

__all__ = ["PTH", "install", "startup_code"]

PTH = "a0_shardwright_coverage.pth"  # read before coverage's own, which is a1_coverage.pth
MAIN = "COVERAGE_MAIN"  # set for the process that measures by itself (pytest)

_STARTUP = """
import os
if os.path.exists({marker!r}):
    # A signal handler that raises inside the collector's own lock_data(), which is Python, would leave the lock
    # taken for ever. Called straight from C, acquire and release leave no moment for a handler between them.
    try:
        from coverage.collector import Collector
        Collector.lock_data = property(lambda self: self.data_lock.acquire if self.data_lock else bool)
        Collector.unlock_data = property(lambda self: self.data_lock.release if self.data_lock else bool)
    except ImportError:
        pass
if not (os.getenv("COVERAGE_PROCESS_START") or os.getenv("COVERAGE_PROCESS_CONFIG") or os.getenv({main!r})):
    try:
        with open({marker!r}, encoding="utf-8") as lines:
            config, data = lines.read().splitlines()
        import coverage
    except (ImportError, OSError, ValueError):
        pass
    else:
        os.environ.update(COVERAGE_PROCESS_START=config, COVERAGE_FILE=data)
        try:
            coverage.process_startup()
        finally:
            for name in ("COVERAGE_PROCESS_START", "COVERAGE_PROCESS_CONFIG", "COVERAGE_FILE"):
                os.environ.pop(name, None)
"""


def startup_code(marker: Path) -> str:
    """The line of a ``.pth`` file that starts coverage in every process while ``marker`` is there."""
    return f"import sys; exec({_STARTUP.format(main=MAIN, marker=str(marker))!r})\n"


def install(marker: Path, config: Path, data_file: Path, site_packages: Path) -> None:
    """Write the ``.pth`` file and the marker; removing the marker ends the measuring."""
    (site_packages / PTH).write_text(startup_code(marker), encoding="utf-8")
    marker.write_text(f"{config}\n{data_file}\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="measure every process of this virtual environment")
    parser.add_argument("--install", nargs=3, type=Path, required=True, metavar=("MARKER", "CONFIG", "DATA"))
    marker, config, data_file = parser.parse_args().install
    install(marker, config, data_file, Path(sysconfig.get_path("purelib")))
