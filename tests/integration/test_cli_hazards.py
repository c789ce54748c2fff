"""``run`` says what the cut changes, and ``init`` proposes no cut that changes anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from cli_apps import environment, shardwright, write_app

MANIFEST = """
[app]
name = "counts"
main = "front:main"
[components.one]
code = "one"
[components.two]
code = "two"
depends_on = ["one"]
"""
SHARED = """
SEEN = []
def note(what):
    SEEN.append(what)
    return len(SEEN)
"""
ONE = """
import functools
import shared
def first():
    return shared.note("one")
@functools.lru_cache
def cached():
    return 1
"""
TWO = """
import shared
def second():
    return shared.note("two")
"""
FRONT = """
import one, two
def main():
    print(one.first(), two.second(), one.first(), two.second())
    one.cached()
    one.cached.cache_clear()
"""


def test_run_says_what_the_cut_changes_unless_quiet(tmp_path: Path) -> None:
    app = write_app(tmp_path / "counts", MANIFEST, shared=SHARED, one=ONE, two=TWO, front=FRONT)
    said = shardwright(tmp_path, "run", str(app)).stderr.splitlines()
    assert any(line.startswith("shardwright: warning: SW231 shared.py:4: SEEN of common module") for line in said)
    assert any(line.startswith("shardwright: warning: SW267 front.py:6: main uses attribute cached") for line in said)
    assert not [line for line in said if "SW221" in line or "SW230" in line], "those change nothing"
    assert "SW2" not in shardwright(tmp_path, "run", "--quiet", str(app)).stderr
    ready = json.loads(shardwright(tmp_path, "run", "--json", str(app)).stderr.splitlines()[0])
    assert any(note.startswith("warning: SW231 shared.py:4: ") for note in ready["notes"])


def test_what_init_proposes_computes_the_same(tmp_path: Path) -> None:
    front = FRONT.replace("    one.cached.cache_clear()\n", "")
    app = write_app(tmp_path / "counts", "", shared=SHARED, one=ONE, two=TWO, front=front)
    (app / "shardwright.toml").unlink()
    uncut = subprocess.run(
        [sys.executable, "-c", "import front; front.main()"], capture_output=True, text=True, timeout=60,
        env=environment(tmp_path, {"PYTHONPATH": str(app)}),
    )  # fmt: skip
    assert uncut.stdout == "1 2 3 4\n"
    assert shardwright(tmp_path, "init", str(app)).returncode == 0
    planned = json.loads(shardwright(tmp_path, "plan", str(app), "--json").stdout)
    assert len(planned["definitions"]) > 1
    done = shardwright(tmp_path, "run", str(app))
    assert (done.returncode, done.stdout) == (0, uncut.stdout)
    assert "warning" not in done.stderr


def test_one_shard_is_one_shard(tmp_path: Path) -> None:
    alone = '[app]\nname = "alone"\nmain = "front:main"\n[components.front]\ncode = "front"\n'
    app = write_app(tmp_path / "alone", alone, front="def main(): ...\n")
    assert "alone is ready, 1 shard, " in shardwright(tmp_path, "run", str(app)).stderr
