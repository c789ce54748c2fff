"""The keeper's own lines: of the form that the node says its in."""

from __future__ import annotations

import json
import socket
import subprocess

import pytest

from shardwright.guest import frame
from shardwright.model.limits import Limits
from shardwright.node._keeper_client import python_command
from shardwright.node._keeper_messages import Launch


@pytest.mark.parametrize("form", ["json", "pretty"])
def test_what_fails_in_a_keeper_is_said_and_ends_nothing(form: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        keeper = subprocess.Popen(
            python_command("shardwright.node._keeper", str(theirs.fileno()), "0", form),
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        theirs.close()
        # more targets than descriptors: a defect of the node's
        ours.sendall(frame(Launch(1, "web-1", ("x",), {}, "/", (5, 6), 4, Limits(), 8)))
        ours.settimeout(30)
        assert b"refused" in ours.recv(4096)
        assert keeper.poll() is None
        ours.close()
        _, lines = keeper.communicate(timeout=30)
    (line,) = [line for line in lines.splitlines() if "a request failed" in line]
    if form == "json":
        told = json.loads(line)
        assert told["of"] == "keeper" and told["request"] == "launch" and told["level"] == "error"
    else:
        assert "request=launch" in line and "of=keeper" in line
