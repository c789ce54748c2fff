"""Lines that run in templates and shards, for the coverage run of whoever tests the application."""

from __future__ import annotations

import atexit
import contextlib
import sys
from typing import Any

_measuring: Any = None


def measure(configuration: str) -> None:
    """Begin to collect, before user code is imported. ``configuration`` is what ``CoverageConfig.serialize`` gives.

    Without the coverage package, or with one that does not know the configuration, nothing is collected, and a line on
    the log says so.
    """
    global _measuring
    try:
        import coverage

        # shards of a template share its memory, and so what it has collected: each writes a file of its own
        _measuring = coverage.Coverage(config_file=f":data:{configuration}", data_suffix=True)
        _measuring._warn_no_data = _measuring._warn_unimported_source = _measuring._warn_preimported_source = False
        _measuring.start()
    except Exception as error:
        _measuring = None
        print(f"shardwright: no coverage from here: {error}", file=sys.stderr)
        return
    atexit.register(keep)


def keep() -> None:
    """Write what was collected so far. Templates do so once they have imported, shards when they end."""
    if _measuring is not None:
        with contextlib.suppress(Exception):  # the application's tests must not fail for their measuring
            _measuring.save()
