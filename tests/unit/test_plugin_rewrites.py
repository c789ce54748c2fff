"""pytest rewrites the asserts of what is for tests, and leaves the rest of Shardwright as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from house_coverage import UNMEASURED

LOADERS = """
import importlib

def test_loaders():
    for module, loader in {
        "shardwright.gateway._limits": "SourceFileLoader",
        "shardwright.testing._transports": "AssertionRewritingHook",
    }.items():
        assert type(importlib.import_module(module).__spec__.loader).__name__ == loader
"""


def test_only_modules_for_tests_are_rewritten(tmp_path: Path) -> None:
    (tmp_path / "test_loaders.py").write_text(LOADERS, encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, UNMEASURED: "1"},  # where lines are counted, modules have a loader that does
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0 and "1 passed" in ended.stdout, ended.stdout + ended.stderr
