"""The fault kit does what it says, as often as it says, and undoes it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shardwright
from limits_here import need_limits
from shardwright.errors import ChannelClosed, ShardwrightError
from shardwright.node import Node
from shardwright.testing import Fault, Faults, FaultyTransport
from shardwright.transport.socket import SocketTransport

MANIFEST = """
[app]
name = "harmed"
[components.store]
code = "store"
resources = { memory = "16MiB" }
limits = { memory = "256MiB" }
state = "memory"
"""
STORE = """
KEPT = []


def keep(mebibytes):
    KEPT.append(b"x" * (mebibytes * 2**20))
    return len(KEPT)
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    (app / "store.py").write_text(STORE)
    with shardwright.start(app, state=tmp_path / "state") as node:
        yield node


def test_shards_are_ended_paused_and_starved(node: Node) -> None:
    need_limits()
    faults = Faults(node, seed=3)
    with node.session("one") as session:
        assert session.call("store.keep", 1) == 1
        with faults.paused("store") as stopped:
            answers: list[int] = []
            waiting = threading.Thread(target=lambda: answers.append(session.call("store.keep", 1)))
            waiting.start()
            waiting.join(0.2)
            assert len(stopped) == 1 and not answers
        waiting.join(20)
        assert answers == [2]
        (shard,) = [s.id for s in faults.shards("store")]
        with faults.short_of_memory(shard), pytest.raises(ShardwrightError, match="memory ceiling"):
            session.call("store.keep", 40)
    with node.session("two") as session:
        assert session.call("store.keep", 1) == 1, "another one, with a ceiling of its own"
        assert session.call("store.keep", 40) == 2
        victim = faults.kill("store")
        assert victim is not None and victim.component == "store"
        with pytest.raises(ShardwrightError):
            session.call("store.keep", 1)
    assert faults.kill("nobody") is None
    assert dict(faults.done) == {"pause": 1, "memory": 1, "kill": 1}


def test_a_large_disk_is_nobodys_to_fill(node: Node, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mount a small file system"), Faults(node).full_disk(Path("/")):
        pass


FILL = """
import errno, sys
from pathlib import Path
from shardwright.testing import Faults
folder, faults = Path(sys.argv[1]), Faults(None)
with faults.full_disk(folder):
    try:
        (folder / "more").write_bytes(b"x" * 5000)
        raise SystemExit("there was room")
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
(folder / "more").write_bytes(b"x" * 5000)
assert [each.name for each in folder.iterdir()] == ["more"] and faults.done["disk"] == 1
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to mount a small file system")
def test_a_small_disk_is_filled_and_emptied_again(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=2m small "$0" && exec "$@"'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, str(tmp_path)]
    done = subprocess.run(
        [*command, sys.executable, "-c", FILL, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_messages_are_delayed_dropped_corrupted_and_channels_broken(
    record_exercised: Callable[[str, int], None],
) -> None:
    def run(seed: int) -> tuple[list[bytes], dict[str, int]]:
        transport = FaultyTransport(
            SocketTransport(),
            [Fault("drop", 0.2), Fault("corrupt", 0.2, "receive"), Fault("delay", 0.05, delay_s=0.001)],
            seed,
        )
        one, other = (transport.open(end) for end in transport.pair())
        try:
            got = []
            for number in range(200):
                one.send([b"message ", str(number).encode()])
                message = other.receive(timeout_s=0)
                if message is not None:
                    got.append(bytes(message))
            while (message := other.receive(timeout_s=0.2)) is not None:
                got.append(bytes(message))
            return got, dict(transport.done)
        finally:
            one.close()
            other.close()

    got, done = run(7)
    assert len(got) == 200 - done["drop at send"]
    sent = {f"message {number}".encode() for number in range(200)}
    assert len([each for each in got if each not in sent]) <= done["corrupt at receive"] <= len(got)
    assert min(done.values()) > 0 and len(done) == 3
    assert run(7)[1]["drop at send"] == done["drop at send"], "the same seed, the same harm"
    record_exercised("messages harmed on purpose", sum(done.values()))
    transport = FaultyTransport(SocketTransport(), [Fault("break", 1.0)])
    one, other = (transport.open(end) for end in transport.pair())
    try:
        with pytest.raises(ChannelClosed, match="on purpose"):
            one.send([b"x"])
        with pytest.raises(ChannelClosed):
            other.receive(timeout_s=5)
    finally:
        one.close()
        other.close()
