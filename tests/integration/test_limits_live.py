"""Limits of what runs: links with a rate, and what is told of a shard that took more than its ceiling."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import shardwright
from limits_here import need_limits
from shardwright.errors import SandboxError, ShardwrightError
from shardwright.sandbox import ShapedLink

MANIFEST = """
[app]
name = "live-limits"
[components.greedy]
code = "greedy"
limits = { memory = "512MiB" }
state = "memory"
[components.neighbour]
code = "neighbour"
"""


@contextlib.contextmanager
def other_network() -> Iterator[int]:
    """A process in a network namespace of its own."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        failed = ctypes.CDLL(None).unshare(0x40000000)
        os.write(writer, b"-" if failed else b"+")
        signal.pause()
        os._exit(0)
    try:
        assert os.read(reader, 1) == b"+"
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)


ATTEMPTS, FLOOD_S = 5, 0.3


def links() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith("swt")}


@pytest.mark.skipif(os.geteuid() != 0, reason="it takes root to make links")
def test_a_link_has_its_rate_and_another_while_it_is_there(record_exercised: Callable[[str, int], None]) -> None:
    with other_network() as pid:
        link = ShapedLink(f"swt{os.getpid()}", pid, "169.254.85.1", "169.254.85.2", 10_000_000)
        try:
            assert link.rate() == 10_000_000
            for rate in (2_000_000, 80_000_000, 8_000):
                assert link.set_rate(rate) == rate == link.rate()
            with pytest.raises(SandboxError, match="cannot make the link"):
                ShapedLink(link.name, pid, "169.254.85.5", "169.254.85.6", 10_000_000)
            assert link.rate() == 8_000, "the one that is there is unharmed"
            link.set_rate(4_000_000)
            shares = []
            for _ in range(ATTEMPTS):
                begun_s, before = time.monotonic(), _passed(link.name)
                sent = _flood("169.254.85.1", "169.254.85.2")
                took_s = time.monotonic() - begun_s
                passed = _passed(link.name) - before
                assert passed <= 500_000 * took_s * 1.05 + 20_000, f"{passed} bytes of {sent} in {took_s:.3f} s"
                shares.append(passed / (500_000 * took_s))
                if shares[-1] > 0.7:  # a rate, and no wall; its queue may run dry where the machine is busy
                    break
            assert max(shares) > 0.7, f"{shares} of the rate, of {sent} bytes that were offered"
            record_exercised("bytes through a link of a rate", passed)
        finally:
            link.close()
            link.close()
        assert link.name not in links()
    with pytest.raises(SandboxError, match="cannot make the link"):
        ShapedLink(f"swt{os.getpid()}", pid, "169.254.85.1", "169.254.85.2", 10_000_000)
    assert not links() & {link.name}


def _flood(own: str, other: str) -> int:
    """Datagrams towards the other end; how many bytes of them were offered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        sending.bind((own, 0))
        sent, end_s = 0, time.monotonic() + FLOOD_S
        while time.monotonic() < end_s:
            with contextlib.suppress(OSError):  # a full queue is what this is about
                sent += sending.sendto(b"x" * 1_000, (other, 9))
        return sent


def _passed(name: str) -> int:
    return int(Path(f"/sys/class/net/{name}/statistics/tx_bytes").read_text())


def test_who_takes_too_much_is_named_with_what_it_said_last(tmp_path: Path) -> None:
    need_limits()
    (tmp_path / "shardwright.toml").write_text(MANIFEST)
    (tmp_path / "greedy.py").write_text(
        "KEPT = []\n\n\ndef eat(count):\n    print(f'about to take {count} MiB', flush=True)\n"
        "    for _ in range(count):\n        KEPT.append(b'x' * 2**20)\n    return len(KEPT)\n"
    )
    (tmp_path / "neighbour.py").write_text("import os\n\n\ndef who():\n    return os.getpid()\n")
    with shardwright.start(tmp_path, state=tmp_path / "state") as node, node.session("one") as session:
        neighbour = session.call("neighbour.who")
        assert session.call("greedy.eat", 10) == 10
        (shard,) = [s.id for s in node.shards() if s.component == "greedy"]
        assert node.resize(shard, ceiling={"memory": "100MiB"})[shard].ceiling.memory_bytes == 100 * 2**20
        assert session.call("greedy.eat", 20) == 30
        with pytest.raises(ShardwrightError, match="memory ceiling"):
            session.call("greedy.eat", 200)
        (loss,) = node.running.core.journal.tail(100, kind="loss")
        assert (loss.shard, loss.inputs["cause"]) == (shard, "out_of_memory")
        assert loss.inputs["log"].splitlines()[-1] == "about to take 200 MiB"
        assert session.call("neighbour.who") == neighbour
