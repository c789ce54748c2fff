"""Isolation `auto` in a running node: walls where analysis found that nothing reaches out, a process elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import ComponentImportError, ShardwrightError

MANIFEST = """
[app]
name = "auto"
[components.sums]
code = "sums"
scope = "session"
{more}
[components.notes]
code = "notes"
"""
# What walls are for: the caller chooses an attribute, and nothing in the code says that `os` can be had by it.
SUMS = """
import operator, random

def add(a, b):
    return a + b

def choose(name, *given):
    return repr(operator.attrgetter(name)(random)(*given))
"""
NOTES = "def read(place):\n    with open(place) as file:\n        return file.read()\n"
ATTEMPTS = {
    "settings of the machine": ("_os.listdir", "/etc/security"),
    "the application's data": ("_os.listdir", "{app}/private"),
    "a folder to write to": ("_os.mkdir", "{app}/made"),
    "another's process": ("_os.listdir", "/proc/{notes}"),
    "a neighbour's process": ("_os.kill", "{notes}", "0"),
}


def _application(folder: Path, more: str = "", sums: str = SUMS) -> Path:
    app = folder / "app"
    (app / "private").mkdir(parents=True)
    (app / "private" / "key").write_text("sesame")
    (app / "shardwright.toml").write_text(MANIFEST.format(more=more))
    (app / "sums.py").write_text(sums)
    (app / "notes.py").write_text(NOTES)
    return app


def _events(node: shardwright.Node, kind: str) -> list[str]:
    return [each.event.message for each in node.running.core.events.since(0) if each.event.kind == kind]


def _isolations(node: shardwright.Node) -> dict[str, str]:
    return {each.component: each.isolation for each in node.shards()}


def _attempts(app: Path) -> dict[str, str]:
    """What becomes of each attempt: what it answered, or the exception."""
    told = {}
    with shardwright.start(app) as node, node.session() as session:
        session.call("notes.read", str(app / "private" / "key"))
        pids = {each.component: each.pid for each in node.shards()}
        for name, (path, *given) in ATTEMPTS.items():
            texts = [each.format(app=app, notes=pids["notes"]) for each in given]
            arguments = [int(each) if each.isdecimal() else each for each in texts]
            try:
                told[name] = f"done: {session.call('sums.choose', path, *arguments)}"
            except OSError as error:
                told[name] = type(error).__name__
        told["isolation"] = _isolations(node)["sums"]
    return told


def test_who_only_computes_is_behind_walls_and_who_opens_files_is_not(tmp_path: Path) -> None:
    app = _application(tmp_path)
    plan = shardwright.plan(app)
    notes = plan.definition("notes").auto
    assert notes is not None and (notes.isolation, notes.reason) == ("process", "notes.py:2: open")
    with shardwright.start(app) as node, node.session() as session:
        assert session.call("sums.add", 2, 3) == 5
        assert session.call("notes.read", str(app / "private" / "key")) == "sesame"
        assert _isolations(node) == {"sums": "namespace", "notes": "process"}
        assert _events(node, "denied") == [] and _events(node, "isolation") == []


def test_hostile_attempts_succeed_in_a_process_and_none_where_auto_is_walls(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "walled").mkdir()
    plain = _attempts(_application(tmp_path / "open", 'isolation = "process"'))
    walled = _attempts(_application(tmp_path / "walled"))
    assert (plain.pop("isolation"), walled.pop("isolation")) == ("process", "namespace")
    assert all(became.startswith("done") for became in plain.values()), plain
    assert (tmp_path / "open" / "app" / "made").is_dir() and not (tmp_path / "walled" / "app" / "made").exists()
    walled.pop("a folder to write to")  # this one is made, in a temporary folder of its own
    assert not [name for name, became in walled.items() if became.startswith("done")], walled
    record_exercised("attempts that walls of auto blocked", len(plain))


def test_who_cannot_start_behind_walls_starts_without_and_it_is_told_once(tmp_path: Path) -> None:
    app = _application(tmp_path, 'files = { read = ["nowhere/"] }')
    with shardwright.start(app) as node, node.session() as one, node.session() as two:
        assert one.call("sums.add", 1, 1) == two.call("sums.add", 1, 1) == 2
        assert _isolations(node)["sums"] == "process"
        [told] = _events(node, "isolation")
        assert told.startswith("isolation auto of sums is `process`") and "nowhere" in told


def test_an_import_that_fails_everywhere_says_so_as_before(tmp_path: Path) -> None:
    app = _application(tmp_path, sums="raise ValueError('never')\n")
    with pytest.raises(ComponentImportError, match="never"), shardwright.start(app):
        pass


def test_stated_walls_are_never_given_up(tmp_path: Path) -> None:
    app = _application(tmp_path, 'isolation = "namespace"\nfiles = { read = ["nowhere/"] }')
    with pytest.raises(ShardwrightError, match="nowhere"), shardwright.start(app):
        pass


def test_code_that_begins_to_open_files_leaves_its_walls_with_a_reload(tmp_path: Path) -> None:
    app = _application(tmp_path)
    with shardwright.start(app) as node:
        with node.session() as session:
            assert session.call("sums.add", 2, 3) == 5 and _isolations(node)["sums"] == "namespace"
        for text, isolation in (("\ndef own(): return open(__file__).read(3)\n", "process"), ("", "namespace")):
            (app / "sums.py").write_text(SUMS + text)
            node.reload()
            with node.session() as session:
                assert session.call("sums.add", 2, 3) == 5
                assert _isolations(node)["sums"] == isolation


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a root folder of one's own takes root"
)
def test_a_machine_without_walls_runs_it_all_in_processes_and_says_so_once(tmp_path: Path) -> None:
    app = _application(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    manifest = (app / "shardwright.toml").read_text()
    (app / "shardwright.toml").write_text(manifest.replace('name = "auto"', 'name = "auto"\nmain = "run:main"'))
    (app / "run.py").write_text("import sums\ndef main(): print(sums.add(2, 3))\n")

    def in_chroot(*arguments: str) -> subprocess.CompletedProcess[str]:
        """Who is in a root folder of its own may make no user namespaces, as where they are switched off."""
        command = " ".join((sys.executable, "-m", "shardwright", *arguments))
        return subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c",
             f"mount --rbind / {root} && PATH=$PATH:/usr/sbin:/sbin && exec chroot {root} {command}"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip

    done = in_chroot("run", str(app))
    assert done.stdout == "5\n"
    assert done.stderr.count("isolation auto is `process` for all: this machine permits no walls") == 1, done.stderr
    assert "auto is process for all, for this machine permits no walls" in in_chroot("plan", str(app)).stdout


def test_plan_says_what_auto_comes_to_and_why(tmp_path: Path) -> None:
    app = _application(tmp_path)
    told = subprocess.run(
        [sys.executable, "-m", "shardwright", "plan", str(app)], capture_output=True, text=True, check=True
    ).stdout
    assert "  sums: namespace, for its code reaches no files, no network and no processes\n" in told
    assert '  notes: process, for notes.py:2: open; remedy: isolation = "namespace" in [components.notes]' in told
    given = json.loads(
        subprocess.run(
            [sys.executable, "-m", "shardwright", "plan", str(app), "--json"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )
    by_name = {each["component"]: each["auto"] for each in given["definitions"]}
    assert by_name["sums"]["isolation"] == "namespace" and by_name["sums"]["reaches"] == []
    assert by_name["notes"]["reaches"] == [
        {"kind": "files", "site": {"path": "notes.py", "line": 2}, "what": "open", "place": "", "writes": False}
    ]
    assert given["no_walls"] == ""
