"""The other side of ``_transport_deaths``: a program that forks peers when told. Run by that module alone."""

from __future__ import annotations

import contextlib
import importlib
import mmap
import os
import random
import signal
import socket
import sys
from operator import attrgetter

from shardwright.contracts.transport import Channel, Transport
from shardwright.errors import ChannelClosed
from shardwright.model.endpoint import Endpoint

_MOST_DESCRIPTORS = 16


def _count(counter: mmap.mmap, number: int) -> None:
    """In one store: ``struct.pack_into`` writes zeros first, and we are killed at any moment."""
    with memoryview(counter) as page, page.cast("Q") as words:
        words[0] = number


def _stream(channel: Channel, counter: mmap.mmap, seed: int) -> None:
    source = random.Random(seed)
    number = 0
    while True:
        size = source.choice((0, 1, 100, 5_000, 70_000, 300_000))
        channel.send([number.to_bytes(8, "little"), bytes([number % 251]) * size])
        number += 1
        _count(counter, number)


def _echo(channel: Channel, counter: mmap.mmap, seed: int) -> None:
    number = 0
    while True:
        message = channel.receive()
        assert message is not None
        channel.send([message])
        number += 1
        _count(counter, number)


_BEHAVIOURS = {"stream": _stream, "echo": _echo}


def _live(transport: Transport, behaviour: str, seed: int, descriptors: list[int]) -> None:
    with mmap.mmap(descriptors[0], mmap.PAGESIZE) as counter:
        channel = transport.open(Endpoint(transport.name, tuple(descriptors[1:])))
        with contextlib.closing(channel), contextlib.suppress(ChannelClosed):
            _BEHAVIOURS[behaviour](channel, counter, seed)


def main(control_descriptor: int, factory_name: str) -> None:
    module, _, name = factory_name.partition(":")
    transport: Transport = attrgetter(name)(importlib.import_module(module))()
    children: set[int] = set()
    with socket.socket(fileno=control_descriptor) as control:
        while True:
            order, descriptors, _, _ = socket.recv_fds(control, 256, _MOST_DESCRIPTORS)
            if not order:
                break
            verb, number = order.decode().split()
            if verb == "kill":
                _end(int(number), children)
                control.send(b"0")
                continue
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    control.close()
                    _live(transport, verb, int(number), descriptors)
                    status = 0
                finally:
                    os._exit(status)
            children.add(child)
            for descriptor in descriptors:
                os.close(descriptor)
            control.send(str(child).encode())
        for child in list(children):
            _end(child, children)


def _end(child: int, children: set[int]) -> None:
    children.remove(child)
    os.kill(child, signal.SIGKILL)  # ours and not yet reaped: the number cannot be another's
    os.waitpid(child, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
