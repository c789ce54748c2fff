"""Shards in containers: run as an application, refused where they cannot be had, and removed when nobody owns them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import shardwright
from containers import RUNTIMES, need
from shardwright.contracts.sandbox import LaunchSpec
from shardwright.errors import ManifestError, SandboxError, StartFailed
from shardwright.model.ids import ShardId
from shardwright.sandbox._linux._mounts import hierarchies
from shardwright.sandbox.oci import OciBackend, sweep_containers
from shardwright.sandbox.process import ProcessBackend
from waiting import eventually, what_is

FRONT = """
    import os
    import store

    def add(word):
        return [*store.add(word), os.getpid()]
"""
STORE = """
    import os

    kept = []

    def add(word):
        kept.append(word)
        with open("out/words", "a") as file:
            file.write(word)
        return list(kept), os.path.exists("secret"), os.listdir("/tmp")
"""


def application(folder: Path, isolation: str, more: str = "") -> Path:
    folder.mkdir()
    manifest = f"""
        [app]
        name = "boxed"
        [components.front]
        code = "front"
        isolation = "{isolation}"
        [components.store]
        code = "store"
        isolation = "{isolation}"
        files = {{ write = ["out/"] }}
        limits = {{ memory = "96MiB" }}
        {more}
    """
    (folder / "shardwright.toml").write_text(textwrap.dedent(manifest))
    (folder / "front.py").write_text(textwrap.dedent(FRONT))
    (folder / "store.py").write_text(textwrap.dedent(STORE))
    (folder / "secret").write_text("not to be seen")
    return folder


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_application_runs_in_containers(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch, record_exercised: Callable[[str, int], None]
) -> None:
    need(runtime)
    app = application(tmp_path / "app", f"oci:{runtime}")
    monkeypatch.chdir(app)
    with shardwright.start(app, state=tmp_path / "state") as node, node.session("one") as session:
        words, sees_secret, scratch, pid = session.call("front.add", "one")
        assert (words, sees_secret) == (["one"], False)
        assert str(tmp_path) not in str(scratch)
        assert session.call("front.add", "two")[0] == ["one", "two"]
        shards = node.shards()
        assert {shard.isolation for shard in shards} == {f"oci:{runtime}"}
        assert {shard.start for shard in shards} == {"spawn"}
        assert pid not in {shard.pid for shard in shards}, "it sees numbers of its own"
        changed = node.resize("store", ceiling={"memory": "80MiB"})
        assert {limits.ceiling.memory_bytes for limits in changed.values()} == {80 * 2**20}
    assert (app / "out" / "words").read_text() == "onetwo", "what it may write outlives it"
    record_exercised("shards in containers that served calls", len(shards))


def test_a_missing_runtime_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"no OCI runtime nosuchruntime.*apt-get install nosuchruntime"):
        shardwright.start(application(tmp_path / "app", "oci:nosuchruntime"), state=tmp_path / "state")
    finding = OciBackend("nosuchruntime").finding()
    assert not finding.present and "install it" in finding.remedy


def test_containers_do_not_start_from_templates(tmp_path: Path) -> None:
    app = application(tmp_path / "app", "oci:runc", 'start = "template"')
    with pytest.raises(ManifestError, match="cannot be forked from a template"):
        shardwright.start(app, state=tmp_path / "state")


def test_what_the_runtime_says_is_told_and_nothing_is_left(request: pytest.FixtureRequest) -> None:
    need("runc")
    folder = tempfile.TemporaryDirectory(dir="/var/tmp")  # runtimes do not see the /tmp of the machine
    request.addfinalizer(folder.cleanup)
    failing = Path(folder.name, "failing")
    failing.write_text("""#!/bin/sh\necho '{"level": "error", "msg": "no room here"}' > "$4"\nexit 3\n""")
    failing.chmod(0o755)
    backend = OciBackend(str(failing))
    try:
        for _ in range(2):  # its name is free again
            with pytest.raises(SandboxError, match=r"could not be made by failing: no room here \(status 3\)"):
                backend.launch(LaunchSpec(ShardId("refused"), (sys.executable,), {}, "/"))
        assert not [folder for folder in made() if os.path.exists(f"{folder}/refused")]
    finally:
        backend.close()


KEEPER = """
import sys
from shardwright.contracts.sandbox import LaunchSpec
from shardwright.model.ids import ShardId
from shardwright.sandbox.oci import OciBackend
backend = OciBackend(sys.argv[1], end_with_parent=True)
kept = backend.launch(LaunchSpec(ShardId("left"), (sys.executable, "-c", "import time; time.sleep(300)"), {}, "/"))
print(kept.handle.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_container_ends_with_who_made_it_and_the_next_one_sweeps(runtime: str) -> None:
    need(runtime)
    maker = subprocess.Popen(
        [sys.executable, "-c", KEEPER, runtime], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert maker.stdin is not None and maker.stdout is not None
    with maker, maker.stdin, maker.stdout:
        pid = int(maker.stdout.readline())
        mine = {folder for folder in made() if f"-{maker.pid}-" in folder}
        assert mine
        maker.send_signal(signal.SIGKILL)
        maker.wait()
    assert eventually(lambda: not os.path.exists(f"/proc/{pid}")), what_is(pid)
    next_one = ProcessBackend()
    next_one.sweep()
    next_one.close()
    sweep_containers()
    assert not mine & made()


def made() -> set[str]:
    """Control groups of ours and of runtimes, in every hierarchy."""
    tops = set(hierarchies("/sys/fs/cgroup", "/proc").tops.values())
    return {str(path) for top in tops for path in Path(top).glob("shardwright-*")}
