"""Code of a component runs nowhere but in its own shards, and where others import it; nodes run none at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guest_apps import running, write_application
from shardwright.errors import CutRefused, ProtocolViolation
from shardwright.guest._kept import limits_within
from shardwright.node._api_client import ApiClient
from shardwright.node._api_values import TooMuch, readable
from shardwright.transport import TaggedCodec

MANIFEST = """
    [app]
    name = "steal"
    root = "."
    [components.evil]
    code = "evil"
    [components.victim]
    code = "victim"
    [components.friend]
    code = "friend"
"""
COMMON = """
    import os
    with open("TRACE", "a") as trace:
        trace.write(f"common {os.getpid()}\\n")
    class Text(str):
        def encode(self, *_):
            with open("TRACE", "a") as trace:
                trace.write(f"encode {os.getpid()}\\n")
            return b""
"""
EVIL = """
    import enum, os
    from dataclasses import dataclass, field
    from typing import NamedTuple
    import common, friend, victim
    def mark(what):
        with open("TRACE", "a") as trace:
            trace.write(f"{what} {os.getpid()}\\n")
    mark("import")
    @dataclass
    class Key:
        x: list = field(default_factory=list)
        def __hash__(self):
            self.x.append(os.getpid())
            return 1
        def size(self):
            return len(self.x)
    @dataclass(frozen=True)
    class Plain:
        x: int
        y: tuple = (1, 2)
        z: list = field(default_factory=list, compare=False)
    class Pair(NamedTuple):
        a: int
        b: int = 2
    class Colour(enum.Flag):
        RED = 1
        BLUE = enum.auto()
        BOTH = RED | BLUE
    class Fault(Exception):
        def __init__(self, code, text):
            super().__init__(code)
            self.text = text
        def __str__(self):
            mark("str")
            return f"fault: {self.text}"
    def steal():
        key = Key()
        given = {key: 1}
        key.x.clear()
        try:
            victim.size(given)
        except Exception as error:
            return key.x, str(error)
        return key.x, ""
    def ask():
        return victim.size_of(Key([1, 2]))
    def befriend():
        return friend.size_of(Key([1, 2]))
    def honest():
        given = Plain(1), Pair(1), Colour.BOTH
        found = victim.back(*given)
        assert found == given and type(found[0]) is Plain and found[2] is Colour.BOTH
        assert victim.find({Plain(1): "one", Pair(3): "two"}, Plain(1)) == "one"
        try:
            victim.fail(Fault(3, "broken"))
        except Fault as fault:
            assert fault.args == (3,) and fault.text == "broken" and str(fault) == "fault: broken"
        return victim.said(Fault(3, "broken"))
    def fail():
        raise Fault(3, "broken")
    def text():
        return common.Text("abc")
    def pid():
        return os.getpid()
"""
VICTIM = """
    def size(x): return len(x)
    def size_of(x): return x.size()
    def back(*x): return x
    def find(table, key): return table[key]
    def fail(error): raise error
    def said(error): return str(error)
"""
FRIEND = """
    from typing import TYPE_CHECKING
    if TYPE_CHECKING:
        from evil import Key
    def size_of(x): return x.size()
"""


@pytest.fixture
def trace(tmp_path: Path) -> Callable[[], set[str]]:
    """Who ran what: lines of ``what pid``."""
    path = tmp_path / "trace"
    return lambda: set(path.read_text().split("\n")) if path.exists() else set()


def application(tmp_path: Path) -> Path:
    sources = {"evil": EVIL, "victim": VICTIM, "friend": FRIEND, "common": COMMON}
    path = str(tmp_path / "trace")
    return write_application(tmp_path / "steal", MANIFEST, **{k: v.replace("TRACE", path) for k, v in sources.items()})


def test_a_class_brings_its_data_to_strangers_and_no_code(
    tmp_path: Path, trace: Callable[[], set[str]], record_exercised: Any
) -> None:
    with running(application(tmp_path)) as node, node.session("one") as session:
        evil = session.call("evil.pid")
        taken, why = session.call("evil.steal")
        assert taken == [] and "evil.Key.__hash__ is code of evil, and does not run in victim" in why
        with pytest.raises(CutRefused, match=r"evil.Key.size is code of evil") as refused:
            session.call("evil.ask")
        assert "import evil in victim" in refused.value.remedy
        assert session.call("evil.befriend") == 2  # its own code names the module
        assert session.call("evil.honest") == "fault: broken"
        ran = trace()
    others = {line for line in ran if line.startswith("str") and line.split()[1] not in {str(evil)}}
    assert not others, others
    record_exercised("classes of a stranger shown as data", 5)


def request(target: str) -> dict[str, Any]:
    return {"target": target, "args": [], "kwargs": {}, "timeout_s": 10.0, "session": None}


def test_the_node_runs_nothing_of_what_it_shows(tmp_path: Path, trace: Callable[[], set[str]]) -> None:
    with running(application(tmp_path)) as node:
        with ApiClient(node.running.api.path) as client:
            with pytest.raises(Exception, match="fault: broken"):
                client.ask("call", **request("evil.fail"))
            assert client.ask("call", **request("evil.text"))["value"] == "abc"
        ran = trace()
    assert ran and not {line for line in ran if line.endswith(f" {os.getpid()}")}, ran


def test_a_small_value_that_would_be_shown_at_length_is_refused_in_time() -> None:
    value: Any = ["lol"]
    for _ in range(9):
        value = [value] * 10
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch):
            readable(value, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(TimeoutError):
        readable(value, 1 << 40, 0.0)


def test_a_message_is_read_within_the_ceiling_of_its_reader() -> None:
    sender, reader = TaggedCodec(), TaggedCodec(reads=limits_within(96 << 20))
    payload, buffers, _ = sender.encode_request([[] for _ in range(500_000)])
    with pytest.raises(ProtocolViolation, match="items"):
        reader.decode_request(payload, buffers)
    payload, buffers, _ = reader.encode_request([[] for _ in range(100_000)])  # sending has its own limits
    assert len(reader.decode_request(payload, buffers)[0]) == 100_000


LIFELINE = """
import os, socket, sys
from shardwright.guest._fresh import hold_lifeline
os.setsid()
held = socket.socket(fileno=int(sys.argv[1]))
hold_lifeline(held.fileno())
held.send(b"x")
try:
    os.open(f"/proc/self/fd/{held.fileno()}", os.O_WRONLY)
    print("opened", flush=True)
except OSError:
    print("no", flush=True)
sys.stdin.read()
"""


def test_a_lifeline_is_nobody_elses_and_counts_only_when_it_closes() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(LIFELINE), str(theirs.fileno())], pass_fds=[theirs.fileno()],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert child.stdin is not None and child.stdout is not None
        with child.stdin, child.stdout:
            assert child.stdout.readline() == "no\n"
            assert child.poll() is None
            theirs.close()
            ours.close()
            assert child.wait(10) == -9
