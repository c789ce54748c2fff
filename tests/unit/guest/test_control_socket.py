"""The guest's end of the control conversation."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from shardwright.errors import ChannelClosed, ProtocolViolation, ShardLost
from shardwright.guest import (
    HEADER,
    NOWHERE,
    Accept,
    Bind,
    Bound,
    Fork,
    Hello,
    Route,
    Stop,
    decode_from_guest,
    frame,
)
from shardwright.guest._control import MAX_FROM_NODE, ControlSocket
from shardwright.guest._shard import ControlBinder, refusal
from shardwright.model.ids import ComponentName


def pair() -> tuple[socket.socket, ControlSocket]:
    node, guest = socket.socketpair()
    node.settimeout(10)
    return node, ControlSocket(guest.detach())


def test_messages_and_descriptors_arrive_together_however_they_are_cut() -> None:
    node, control = pair()
    read, write = os.pipe()
    wire = frame(Stop(1.5)) + frame(Fork("a-1"), 1)
    socket.send_fds(node, [wire[:3]], [read])
    os.close(read)

    def trickle() -> None:
        for at in range(3, len(wire)):
            node.send(wire[at : at + 1])

    thread = threading.Thread(target=trickle)
    thread.start()
    assert control.receive() == (Stop(1.5), [])
    message, (descriptor,) = control.receive()
    thread.join()
    assert message == Fork("a-1")
    os.write(write, b"through")
    assert os.read(descriptor, 9) == b"through"
    for each in (descriptor, write):
        os.close(each)
    control.close()
    node.close()


def test_descriptors_that_were_never_taken_are_closed() -> None:
    node, control = pair()
    read, write = os.pipe()
    socket.send_fds(node, [frame(Stop(0.0))], [read])
    os.close(read)
    control.receive()
    control.close()
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)
    node.close()


@pytest.mark.parametrize("wire", [HEADER.pack(MAX_FROM_NODE + 1, 0), HEADER.pack(1, 33), HEADER.pack(1, 1) + b"\x80"])
def test_a_frame_of_an_impossible_size_is_refused(wire: bytes) -> None:
    node, control = pair()
    node.sendall(wire)
    with pytest.raises(ProtocolViolation):
        control.receive()
    control.close()
    node.close()


def test_the_node_is_gone() -> None:
    node, control = pair()
    node.close()
    with pytest.raises(ChannelClosed):
        control.receive()
    with pytest.raises(ChannelClosed):
        control.send(Hello(1))
    control.shutdown()
    control.close()


def test_shutdown_wakes_who_receives() -> None:
    node, control = pair()
    ended = threading.Event()

    def listen() -> None:
        with pytest.raises(ChannelClosed):
            control.receive()
        ended.set()

    thread = threading.Thread(target=listen)
    thread.start()
    control.shutdown()
    assert ended.wait(10)
    thread.join()
    control.close()
    node.close()


def asked(node: socket.socket) -> Bind:
    header = node.recv(HEADER.size, socket.MSG_WAITALL)
    found = decode_from_guest(node.recv(HEADER.unpack(header)[0], socket.MSG_WAITALL))
    assert isinstance(found, Bind)
    return found


def test_bindings_are_answered_each_its_own_even_out_of_order() -> None:
    node, control = pair()
    binder = ControlBinder(control)
    told: dict[str, str] = {}

    def bind(name: str) -> None:
        try:
            binder.bind(Route(ComponentName(name)), NOWHERE)
        except Exception as error:
            told[name] = f"{type(error).__name__}: {error}"

    threads = [threading.Thread(target=bind, args=(name,)) for name in ("one", "two", "three")]
    for thread in threads:
        thread.start()
    binds = [asked(node) for _ in threads]
    binder.answered(Bound(99, "nobody asked"))
    for each in reversed(binds):
        binder.answered(Bound(each.request, f"no {each.component}", "SW601", "wait"))
        binder.answered(Bound(each.request, "again", "SW601"))
    for thread in threads:
        thread.join(10)
    assert told == {name: f"CompositionRefused: no {name} (wait)" for name in ("one", "two", "three")}
    control.close()
    node.close()


def test_who_waits_for_a_binding_hears_that_the_node_is_gone() -> None:
    node, control = pair()
    binder = ControlBinder(control)
    told: list[BaseException] = []

    def bind() -> None:
        try:
            binder.bind(Route(ComponentName("one")), NOWHERE)
        except ShardLost as error:
            told.append(error)

    thread = threading.Thread(target=bind)
    thread.start()
    asked(node)
    binder.node_gone()
    thread.join(10)
    node.close()
    bind()
    assert len(told) == 2 and all("node is gone" in str(error) for error in told)
    control.close()


@pytest.mark.parametrize(
    ("code", "name"),
    [("SW601", "CompositionRefused"), ("SW416", "NotPermitted"), ("SW411", "ShardLost"), ("??", "CallError")],
)
def test_a_refusal_is_the_error_that_the_node_meant(code: str, name: str) -> None:
    error = refusal(Bound(1, "why", code, "do this", "not started"))
    assert type(error).__name__ == name and str(error) == "why (do this)"


def test_what_the_node_says_is_not_what_a_guest_may_say() -> None:
    with pytest.raises(ProtocolViolation):
        decode_from_guest(frame(Accept("a", "b", "c"))[HEADER.size :])
