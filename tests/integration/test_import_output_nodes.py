"""What components print while they are imported is shown, on the stream it was written to, under their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_apps import shardwright, write_app

MANIFEST = """
[app]
name = "printing"
main = "front:main"
[components.a]
code = "a"
start = "START"
"""
A = """
import os, sys
print("imported")
print("imported with care", file=sys.stderr)
def f():
    print("called")
    print("called with care", file=sys.stderr)
    sys.stdout.flush()
    os.system("echo child; echo child with care >&2")
    return 1
"""
FRONT = "import a\ndef main():\n    print('got', a.f())\n"


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_streams_stay_apart(tmp_path: Path, start: str) -> None:
    folder = write_app(tmp_path / "app", MANIFEST.replace("START", start), a=A, front=FRONT)
    # print() of an unbuffered Python writes a line in pieces, between which another thread may write
    done = shardwright(tmp_path, "run", str(folder), more={"PYTHONUNBUFFERED": ""})
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ["called", "child", "got 1", "imported"]
    for line in ("imported with care", "called with care", "child with care"):
        assert line in done.stderr.splitlines()
