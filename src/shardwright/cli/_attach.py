"""``attach``: this terminal debugs a running shard."""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import shutil
import socket
import sys
import termios
import tty
from collections.abc import Iterator

import click

from shardwright.cli._ask import node_of, target_option
from shardwright.cli._errors import OK
from shardwright.cli._invocation import Invocation, common_options, harmless

_PIECE = 65536
_CTRL_D = b"\x04"


@click.command()
@click.argument("shard")
@target_option
@click.option("--now", is_flag=True, help="Stop at the very next line of the application, whichever thread runs.")
@click.option(
    "--at", default="", metavar="PLACE", help="Stop at MODULE:FUNCTION or FILE:LINE, whenever it comes there."
)
@click.option("--debugpy", is_flag=True, help="Let debugpy listen on loopback instead, for an editor; print its port.")
@common_options
def attach(invocation: Invocation, shard: str, app: str | None, now: bool, at: str, debugpy: bool) -> int:
    """Debug a running shard with pdb, from this terminal.

    SHARD is a shard's id or a component's name. Without --now and --at the next call into the application stops. The
    thread that comes there stands still, and with it what waits for it: other calls to that shard queue, calls elsewhere
    go on, and deadlines are not extended. Ctrl-C stops the running program at its next line; Ctrl-D or quit detaches, and
    the program goes on. So it does when this terminal is lost. breakpoint() in components stops while you are attached.

    \b
    Examples:
      shardwright attach physics
      shardwright attach physics --at arena.physics:World.step
      shardwright attach auth-1f3c --now
    """
    if now and at:
        raise click.UsageError("--now and --at exclude each other")
    size = shutil.get_terminal_size()
    with node_of(invocation, app) as node:
        connection = node.terminal(
            "attach", shard=shard, at=at, now=now, debugpy=debugpy, rows=size.lines, columns=size.columns
        )
        with _raw(sys.stdin.fileno()) as interactive:
            _forward(connection, sys.stdin.fileno(), sys.stdout.fileno(), interactive)
    return OK


@contextlib.contextmanager
def _raw(descriptor: int) -> Iterator[bool]:
    """The terminal hands every byte on, as typed; whether it is one."""
    if not os.isatty(descriptor):
        yield False
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _forward(connection: socket.socket, source: int, sink: int, interactive: bool) -> None:
    """Bytes both ways until the other side ends."""
    connection.settimeout(None)
    screen = _Screen(sink)
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        with contextlib.suppress(PermissionError):  # a file: it is sent whole
            selector.register(source, selectors.EVENT_READ)
        if source not in selector.get_map():
            connection.sendall(_all_of(source) + _CTRL_D)
        while True:
            for key, _ in selector.select():
                if key.fileobj is connection:
                    data = connection.recv(_PIECE)
                    if not data:
                        return
                    screen.show(data)
                    continue
                typed = os.read(source, _PIECE)
                with contextlib.suppress(OSError):  # it has ended, and said so
                    connection.sendall(typed or _CTRL_D)
                if not typed:
                    selector.unregister(source)


def _all_of(source: int) -> bytes:
    parts = []
    while data := os.read(source, _PIECE):
        parts.append(data)
    return b"".join(parts)


class _Screen:
    """What the shard says, without anything that a terminal would obey but ends of lines, tabs and backspaces."""

    def __init__(self, sink: int) -> None:
        self._sink = sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._obeys = os.isatty(sink)

    def show(self, data: bytes) -> None:
        if self._obeys:
            text = self._decoder.decode(data)
            data = "".join(c if c in "\r\b\a" else harmless(c) for c in text).encode()
        while data:
            data = data[os.write(self._sink, data) :]
