"""What an application registers with ``atexit`` runs in shards that are told to stop, and nowhere else."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from guest_apps import running, write_application

MANIFEST = """
[app]
name = "exits"
[components.a]
code = "a"
start = "{start}"
state = "memory"
resources = {{ cpu = 0.01, memory = "16MiB" }}
"""
MODULE = """
import atexit, os, pathlib
PATH = pathlib.Path(__file__).with_name("exits.txt")
calls = 0
def bye():
    with PATH.open("a") as file:
        file.write(f"{os.getpid()} after {calls} calls\\n")
atexit.register(bye)
def pid():
    global calls
    calls += 1
    return os.getpid()
def forever():
    import time
    PATH.write_text("forever began\\n")
    time.sleep(60)
def hang():
    atexit.register(forever)
"""


@pytest.mark.parametrize("start", ["template", "spawn"])
def test_a_shard_that_stops_does_what_its_program_would_do_at_its_exit(tmp_path: Path, start: str) -> None:
    folder = write_application(tmp_path / "app", MANIFEST.format(start=start), a=MODULE)
    with running(folder) as node, node.session() as session:
        pid = session.call("a.pid")
    assert (folder / "exits.txt").read_text() == f"{pid} after 1 calls\n"


def test_a_shard_that_is_killed_does_not(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST.format(start="template"), a=MODULE)
    with running(folder) as node, node.session() as session:
        killed = session.call("a.pid")
        os.kill(killed, signal.SIGKILL)
    exits = folder / "exits.txt"
    assert not exits.exists() or str(killed) not in exits.read_text()  # another may have taken its place


def test_an_exit_that_hangs_ends_with_the_grace(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST.format(start="template"), a=MODULE)
    with running(folder) as node:
        with node.session() as session:
            pid = session.call("a.pid")
            session.call("a.hang")
        node.running.close(grace_s=0.3)
        assert not os.path.exists(f"/proc/{pid}")
    assert (folder / "exits.txt").read_text() == "forever began\n"
