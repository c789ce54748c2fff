"""The command line. The only reader of the process's environment; ``main`` is the console script."""

from __future__ import annotations

from shardwright.cli._main import main

__all__ = ["main"]
