"""Coverage of processes that are started with an environment of their own.

Coverage finds its way into child processes by environment variables; templates and shards get none of ours. So the
test command installs a ``.pth`` file into its own virtual environment which starts a recorder wherever a marker file
lies: it lies there during the measured run and no longer.
"""

from __future__ import annotations

import argparse
import importlib.util
import sysconfig
from pathlib import Path

__all__ = ["PTH", "install", "startup_code"]

PTH = "a0_shardwright_coverage.pth"  # read before coverage's own, which is a1_coverage.pth
MAIN = "COVERAGE_MAIN"  # set for the processes that measure by themselves (pytest, its workers)

_STARTUP = """
import os
if os.path.exists({marker!r}):
    if os.getenv({main!r}):
        # A signal handler that raises inside the collector's own lock_data(), which is Python, would leave the lock
        # taken for ever. Called straight from C, acquire and release leave no moment for a handler between them.
        try:
            from coverage.collector import Collector
            Collector.lock_data = property(lambda self: self.data_lock.acquire if self.data_lock else bool)
            Collector.unlock_data = property(lambda self: self.data_lock.release if self.data_lock else bool)
        except ImportError:
            pass
    elif 'house_recorder' not in sys.modules:  # a folder may be read for such files twice
        try:
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
    return f"import sys; exec({_STARTUP.format(main=MAIN, marker=str(marker))!r})\n"


def install(marker: Path, package: Path, data_folder: Path, site_packages: Path) -> None:
    """Write the ``.pth`` file and the marker; removing the marker ends the recording. Raises ImportError without coverage."""
    tracer = importlib.util.find_spec("coverage.tracer")
    if tracer is None or tracer.origin is None:
        raise ImportError("coverage was installed without its C tracer")
    (site_packages / PTH).write_text(startup_code(marker), encoding="utf-8")
    settings = (Path(__file__).parent, tracer.origin, f"{package}/", data_folder)
    marker.write_text("".join(f"{line}\n" for line in settings), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="record in every process of this virtual environment")
    parser.add_argument("--install", nargs=3, type=Path, required=True, metavar=("MARKER", "PACKAGE", "DATA"))
    marker, package, data_folder = parser.parse_args().install
    install(marker, package, data_folder, Path(sysconfig.get_path("purelib")))
