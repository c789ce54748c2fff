"""The control thread of a shard: it survives a channel less, and ends the process for what it cannot survive."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shardwright.guest import (
    HEADER,
    Accept,
    AskLoad,
    Bound,
    Load,
    Note,
    Offer,
    SessionBegins,
    decode_from_guest,
    frame,
)
from shardwright.guest._shard import EXIT_DEFECT, EXIT_NODE_GONE

PROGRAM = """
import sys, threading
from shardwright.errors import CallError
from shardwright.guest import NOWHERE, Route, Runtime
from shardwright.guest._control import ControlSocket
from shardwright.guest._shard import Shard
from shardwright.manifest import load
from shardwright.model.ids import ComponentName, ShardId
from shardwright.sharding import plan
from shardwright.transport.socket import SocketTransport

runtime = Runtime(plan(load(sys.argv[1], environment={})), ComponentName("only"))
shard = Shard(runtime, {"socket": SocketTransport()})
if sys.argv[3]:
    setattr(runtime, sys.argv[3], None)  # what the message is to do cannot be done
shard.enter(ControlSocket(int(sys.argv[2])), ShardId("only-00000001"), {})

def bind():
    try:
        shard.binder.bind(Route(ComponentName("other")), NOWHERE)
    except CallError as error:
        shard.note("told", f"{error.outcome}: {error.message}")

threading.Thread(target=bind, daemon=True).start()
shard.serve()
"""


class Node:
    """The node's end, blocking."""

    def __init__(self, ours: socket.socket, process: subprocess.Popen[str]) -> None:
        self.socket = ours
        self.process = process
        self._reader = ours.makefile("rb")

    def say(self, message: Any, *descriptors: int) -> None:
        socket.send_fds(self.socket, [frame(message, len(descriptors))], descriptors)

    def hear(self) -> Any:
        length, _ = HEADER.unpack(self._reader.read(HEADER.size))
        return decode_from_guest(self._reader.read(length))

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


@contextmanager
def a_shard(folder: Path, broken: str = "") -> Iterator[Node]:
    (folder / "shardwright.toml").write_text(
        '[app]\nname = "one"\n[components.only]\ncode = "only"\n[components.other]\ncode = "other"\n'
    )
    (folder / "only.py").write_text("import other\n")
    (folder / "other.py").write_text("def f():\n    return 1\n")
    ours, theirs = socket.socketpair()
    ours.settimeout(20)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(theirs.fileno()), broken],
        pass_fds=[theirs.fileno()], env={"PYTHONPATH": os.pathsep.join(sys.path)}, text=True, stderr=subprocess.PIPE,
    )  # fmt: skip
    theirs.close()
    node = Node(ours, process)
    try:
        yield node
    finally:
        node.close()
        process.kill()
        process.communicate()


def test_a_channel_that_cannot_be_opened_ends_nothing_and_who_waits_for_it_is_told(tmp_path: Path) -> None:
    with a_shard(tmp_path) as node, (tmp_path / "only.py").open() as no_socket:
        asked = node.hear()
        node.say(Accept("other", "other-1", "socket"), no_socket.fileno())
        note = node.hear()
        assert isinstance(note, Note) and note.kind == "defect" and "Accept" in note.message
        node.say(Offer(asked.request, "other", "other-1", "carrier pigeon"), no_socket.fileno())
        assert "Offer" in node.hear().message
        node.say(Bound(asked.request))
        told = node.hear()
        assert told.kind == "told" and told.message.startswith("not started: other-1 cannot be reached")
        node.say(AskLoad(5))
        load = node.hear()
        assert isinstance(load, Load) and (load.request, load.running) == (5, 0) and load.idle_s >= 0
        node.socket.shutdown(socket.SHUT_RDWR)
        assert node.process.wait(20) == EXIT_NODE_GONE


@pytest.mark.parametrize("what", ["a message that fails", "bytes that are none"])
def test_what_cannot_be_survived_ends_the_process_and_is_said(tmp_path: Path, what: str) -> None:
    with a_shard(tmp_path, "sessions") as node:
        node.hear()
        if what == "a message that fails":
            node.say(SessionBegins(1, "one"))
            assert "SessionBegins could not be done" in node.hear().message
        else:
            node.socket.sendall(HEADER.pack(3, 0) + b"\xc1\xc1\xc1")
        assert "conversation with the node failed" in node.hear().message
        assert node.process.wait(20) == EXIT_DEFECT
