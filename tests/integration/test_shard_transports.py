"""How messages go between the shards of one node: what the manifest wants, what there is, and what `ps` says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guest_apps import running, write_application
from shardwright.errors import NodeError
from shardwright.transport import shm

MANIFEST = """
[app]
name = "wires"
[components.near]
code = "near"
[components.far]
code = "far"
isolation = "{isolation}"
[policy]
transport = "{transport}"
"""
NEAR = """
import far

def ask(size):
    return len(far.echo(bytes(size)))

def links():
    return far.links()
"""
FAR = """
import os

def echo(data):
    return data

def links():
    return sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                  if os.path.lexists(f"/proc/self/fd/{fd}"))
"""


def application(folder: Path, transport: str, isolation: str = "process") -> Path:
    return write_application(
        folder / "app", MANIFEST.format(transport=transport, isolation=isolation), near=NEAR, far=FAR
    )


@pytest.mark.parametrize("wanted", ["auto", "shm", "socket"])
@pytest.mark.parametrize("isolation", ["process", "namespace"])
def test_shards_speak_by_what_the_manifest_wants(
    tmp_path: Path, wanted: str, isolation: str, record_exercised: Callable[[str, int], None]
) -> None:
    with running(application(tmp_path, wanted, isolation)) as node, node.session("one") as session:
        for size in (0, 64, 4096, 100_000, 3_000_000):
            assert session.call("near.ask", size) == size
        found = {shard.component: shard.transport for shard in node.shards()}
        memory = [link for link in session.call("near.links") if "shardwright-bell" in link]
    assert found == dict.fromkeys(("near", "far"), "socket" if wanted == "socket" else "shm")
    assert bool(memory) == (wanted != "socket")
    record_exercised("calls over a transport that the manifest named", 5)


def test_without_the_extension_sockets_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "available", lambda: False)
    monkeypatch.setattr(shm, "reason", lambda: "the C extension was not built; install a C compiler")
    with running(application(tmp_path, "auto")) as node, node.session("one") as session:
        assert session.call("near.ask", 100_000) == 100_000
        assert {shard.transport for shard in node.shards()} == {"socket"}
        assert not [link for link in session.call("near.links") if "shardwright-bell" in link]


def test_shared_memory_that_is_wanted_and_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shm, "available", lambda: False)
    monkeypatch.setattr(shm, "reason", lambda: "the C extension was not built; install a C compiler")
    with pytest.raises(NodeError, match="was not built"), running(application(tmp_path, "shm")):
        pass
