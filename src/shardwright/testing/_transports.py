"""check_transport: one conformance suite over every implementation of Transport.

Each check is a plain function of a transport and raises AssertionError with what is wrong. ``transport_checks`` gives
them by name, so that a test runner can show each on its own. Checks that need another process (peer death) live in
``_transport_deaths``.

Over 400 lines because it is one list of independent checks, best read beside each other.
"""

from __future__ import annotations

import array
import contextlib
import os
import random
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shardwright.contracts.transport import Channel, Part, Transport
from shardwright.errors import ChannelClosed, DeadlineExceeded, MessageTooLarge
from shardwright.model.endpoint import Endpoint
from shardwright.testing._transport_deaths import check_peer_deaths, check_peer_in_another_process

TransportCheck = Callable[[Transport], None]
TransportFactory = Callable[[], Transport]

_PATIENCE_S = 20.0


def check_transport(factory: TransportFactory, *, crosses_processes: bool = True, long: bool = False) -> None:
    """Run the whole suite over transports that ``factory`` makes.

    With ``crosses_processes`` the factory must be importable by name (a class or a module-level function), for the
    suite starts peers in other processes and kills them: 30 of them, or 1,000 with ``long``. Raises AssertionError.
    """
    for check in transport_checks(factory, crosses_processes=crosses_processes, long=long).values():
        check(factory())


def transport_checks(
    factory: TransportFactory, *, crosses_processes: bool = True, long: bool = False
) -> dict[str, TransportCheck]:
    """The checks of ``check_transport`` by name."""
    checks: dict[str, TransportCheck] = {
        "sizes_and_order": _check_sizes_and_order,
        "parts": _check_parts,
        "both_ways_at_once": _check_both_ways_at_once,
        "back_pressure": _check_back_pressure,
        "deadlines": _check_deadlines,
        "timeouts": _check_timeouts,
        "close_wakes_receivers": _check_close_wakes_receivers,
        "close_wakes_senders": _check_close_wakes_senders,
        "close_lets_the_peer_drain": _check_close_lets_the_peer_drain,
        "too_large": _check_too_large,
        "dispose": _check_dispose,
        "foreign_endpoint": _check_foreign_endpoint,
        "descriptors": _check_descriptors,
        "readiness": _check_readiness,
    }
    if crosses_processes:
        deaths = 1000 if long else 30
        checks["peer_in_another_process"] = lambda transport: check_peer_in_another_process(factory, transport)
        checks["peer_deaths"] = lambda transport: check_peer_deaths(factory, transport, deaths=deaths)
    return checks


@contextlib.contextmanager
def _channels(transport: Transport) -> Iterator[tuple[Channel, Channel]]:
    here, there = transport.pair()
    first = transport.open(here)
    try:
        second = transport.open(there)
    except BaseException:
        first.close()
        transport.dispose(there)
        raise
    try:
        yield first, second
    finally:
        first.close()
        second.close()


@contextlib.contextmanager
def _threads(*bodies: Callable[[], None]) -> Iterator[None]:
    """Run the bodies beside the block; at its end wait for them, and raise what they raised."""
    failures: list[BaseException] = []

    def guarded(body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(body,), daemon=True) for body in bodies]
    for thread in threads:
        thread.start()
    try:
        yield
    except BaseException as error:
        for failure in failures:
            error.add_note(f"in a thread beside it: {failure!r}")
        raise
    for thread in threads:
        thread.join(_PATIENCE_S)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads), "a thread was not woken, or deadlocked"


def _receive(channel: Channel) -> bytes:
    message = channel.receive(timeout_s=_PATIENCE_S)
    assert message is not None, "a message that was sent did not arrive"
    assert message.nbytes == len(message), "messages must be flat bytes"
    return bytes(message)


def _poll(channel: Channel) -> bytes | None:
    message = channel.receive(timeout_s=0)
    return None if message is None else bytes(message)


def _assert_closed(action: Callable[[], object], what: str) -> None:
    try:
        outcome = action()
    except ChannelClosed:
        return
    raise AssertionError(f"{what} must raise ChannelClosed, not return {outcome!r}")


def _in(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


# -- messages --------------------------------------------------------------------------------------------------


def _check_sizes_and_order(transport: Transport) -> None:
    sizes = [0, 1, 3, 4, 5, 0, 0, 64, 4095, 4096, 32763, 32764, 32765, 65536, 100_000, 2**20, 2**20 + 1, 2**23, 1, 0]
    source = random.Random(1)
    messages = [source.randbytes(size) for size in sizes]
    with _channels(transport) as (first, second):
        for sender, receiver in ((first, second), (second, first)):

            def send_all(sender: Channel = sender) -> None:
                for message in messages:
                    sender.send([message])

            with _threads(send_all):
                for message in messages:
                    received = _receive(receiver)
                    assert received == message, f"a message of {len(message)} bytes arrived changed or out of order"
            assert receiver.receive(timeout_s=0) is None, "more messages arrived than were sent"


def _check_parts(transport: Transport) -> None:
    mutable = bytearray(b"before")
    numbers = array.array("I", range(6000))
    parts: list[Part] = [b"", b"head", mutable, memoryview(numbers), memoryview(b"abcdef")[::2], memoryview(b"")]
    parts += [bytes([index % 256]) for index in range(3000)]
    expected = b"".join(bytes(part) for part in parts)
    with _channels(transport) as (first, second):
        for chosen in (parts, parts[:3], parts[4:6], [], [b"", b""]):
            content = b"".join(bytes(part) for part in chosen)
            with _threads(lambda chosen=chosen: first.send(chosen)):  # type: ignore[misc]
                received = _receive(second)
            assert received == content, "parts must arrive as their concatenation"
        first.send(parts)
        mutable[:] = b"after!"
        message = second.receive(timeout_s=_PATIENCE_S)
        assert message is not None
        assert bytes(message) == expected, "what was sent must not change with the sender's buffer"
        if not message.readonly:
            message[:] = bytes(len(message))
            assert mutable == b"after!", "the receiver's memory must not be the sender's"


def _check_both_ways_at_once(transport: Transport) -> None:
    """Several senders and one receiving thread on each side: no deadlock, each sender's order kept, nothing twice."""
    senders, messages = 3, 120

    def send(channel: Channel, sender: int) -> None:
        source = random.Random(sender)
        for number in range(messages):
            size = source.choice((0, 10, 300, 5_000, 60_000, 200_000))
            channel.send([bytes((sender, number)), source.randbytes(16), bytes([number]) * size])

    def receive(channel: Channel) -> None:
        next_number = [0] * senders
        for _ in range(senders * messages):
            message = _receive(channel)
            sender, number = message[0], message[1]
            assert number == next_number[sender], "messages of one sender arrived lost, twice or out of order"
            assert bytes(message[18:]) == bytes([number]) * (len(message) - 18), "messages were interleaved"
            next_number[sender] += 1

    with _channels(transport) as channels:
        bodies: list[Callable[[], None]] = []
        for channel in channels:
            bodies.append(lambda channel=channel: receive(channel))  # type: ignore[misc]
            bodies += [lambda channel=channel, sender=sender: send(channel, sender) for sender in range(senders)]  # type: ignore[misc]
        with _threads(*bodies):
            pass
        for channel in channels:
            assert channel.receive(timeout_s=0) is None, "a message arrived twice"


# -- time ------------------------------------------------------------------------------------------------------


def _check_back_pressure(transport: Transport) -> None:
    with _channels(transport) as (first, second):
        accepted = 0
        try:
            while True:
                assert accepted < 2**18, "the transport buffers without bound"
                first.send([accepted.to_bytes(4, "little"), bytes(1020)], deadline_ns=_in(0.1))
                accepted += 1
        except DeadlineExceeded as error:
            whole = error.outcome == "not started"
            assert first.closed is not whole, "a channel is closed by a late send if and only if a part was sent"
        for number in range(accepted):
            assert int.from_bytes(_receive(second)[:4], "little") == number, "a blocked sender lost a message"
        if whole:
            first.send([b"again"], deadline_ns=_in(_PATIENCE_S))
            assert _receive(second) == b"again", "after draining, the channel must carry messages again"


def _check_deadlines(transport: Transport) -> None:
    with _channels(transport) as (first, second):
        try:
            first.send([b"late"], deadline_ns=1)
            raise AssertionError("a send whose deadline has passed must raise DeadlineExceeded")
        except DeadlineExceeded as error:
            assert error.outcome == "not started" and not first.closed, "nothing was sent: the channel stays good"
        first.send([b"small"], deadline_ns=_in(_PATIENCE_S))
        start = time.monotonic()
        try:
            for _ in range(3):
                first.send([bytes(2**24)], deadline_ns=_in(0.2))
            raise AssertionError("48 MiB that nobody receives must not be taken over")
        except DeadlineExceeded as error:
            assert 0.15 < time.monotonic() - start < 5.0, "a deadline must be kept, neither early nor late"
            assert first.closed is (error.outcome != "not started"), "closed if and only if a part was sent"
        assert _receive(second) == b"small"
        first.close()
        with contextlib.suppress(ChannelClosed):
            while True:
                assert len(_receive(second)) == 2**24, "a message that was sent in part must never be delivered"


def _check_timeouts(transport: Transport) -> None:
    with _channels(transport) as (first, second):
        assert second.receive(timeout_s=0) is None
        start = time.monotonic()
        assert second.receive(timeout_s=0.05) is None
        assert 0.045 < time.monotonic() - start < 5.0, "a timeout must be kept"
        first.send([b"x"])
        assert second.receive(timeout_s=1e9) is not None
        with _threads(lambda: first.send([b"y"])):
            assert second.receive() is not None


# -- ends ------------------------------------------------------------------------------------------------------


def _check_close_wakes_receivers(transport: Transport) -> None:
    for closer in (0, 1):
        for timeout_s in (None, _PATIENCE_S):
            with _channels(transport) as (first, second):
                ready = threading.Event()

                def body(
                    channel: Channel = first, ready: threading.Event = ready, timeout_s: float | None = timeout_s
                ) -> None:
                    ready.set()
                    _assert_closed(lambda: channel.receive(timeout_s=timeout_s), "receive on a channel being closed")

                with _threads(body):
                    ready.wait()
                    start = time.monotonic()
                    (first, second)[closer].close()
                assert time.monotonic() - start < 1.0, "closing must wake a receiver at once"
                _assert_closed(lambda channel=first: channel.receive(timeout_s=0), "receive after the end")  # type: ignore[misc]
                assert first.closed


def _check_close_wakes_senders(transport: Transport) -> None:
    for closer in (0, 1):
        with _channels(transport) as (first, second):
            sent = [0, 0]

            def body(index: int, channel: Channel = first, sent: list[int] = sent) -> None:
                with contextlib.suppress(ChannelClosed):
                    while True:
                        channel.send([bytes(100_000)])
                        sent[index] += 1

            with _threads(lambda body=body: body(0), lambda body=body: body(1)):  # type: ignore[misc]
                before = -1
                while sum(sent) != before:  # until both are held back
                    before = sum(sent)
                    threading.Event().wait(0.05)
                start = time.monotonic()
                (first, second)[closer].close()
            assert time.monotonic() - start < 1.0, "closing must wake blocked senders at once"
            _assert_closed(lambda channel=first: channel.send([b"x"]), "send after the end")  # type: ignore[misc]


def _check_close_lets_the_peer_drain(transport: Transport) -> None:
    with _channels(transport) as (first, second):
        for number in range(50):
            first.send([bytes([number]) * number])
        first.close()
        first.close()
        assert first.closed
        _assert_closed(lambda: first.send([b"x"]), "send on a closed channel")
        _assert_closed(lambda: first.receive(timeout_s=0), "receive on a closed channel")
        for number in range(50):
            assert _receive(second) == bytes([number]) * number, "what was sent before close must arrive"
        for _ in range(2):
            _assert_closed(lambda: second.receive(timeout_s=_PATIENCE_S), "receive after the peer closed")
        assert second.closed
        _assert_closed(lambda: second.send([b"x"]), "send to a peer that closed")


def _check_too_large(transport: Transport) -> None:
    """A transport takes 64 MiB unless it says otherwise by ``max_message_bytes``."""
    limit = int(getattr(transport, "max_message_bytes", 64 * 2**20))
    piece = bytes(min(2**20, limit))
    whole = [piece] * (limit // max(1, len(piece)))
    with _channels(transport) as (first, second):
        try:
            first.send([*whole, piece, b"x"])
            raise AssertionError("a message above the bound must raise MessageTooLarge")
        except MessageTooLarge:
            assert not first.closed
        with _threads(lambda: first.send(whole)):
            assert len(_receive(second)) == sum(map(len, whole)), "a message as large as the bound must pass"
        first.send([b"good"])
        assert _receive(second) == b"good", "MessageTooLarge must leave the channel good"


def _check_dispose(transport: Transport) -> None:
    here, there = transport.pair()
    transport.dispose(there)
    channel = transport.open(here)
    try:
        _assert_closed(lambda: channel.receive(timeout_s=_PATIENCE_S), "receive from an endpoint given up")
        _assert_closed(lambda: channel.send([b"x"]), "send to an endpoint given up")
    finally:
        channel.close()


def _check_foreign_endpoint(transport: Transport) -> None:
    before = _descriptor_count()
    reader, writer = os.pipe()
    os.close(writer)
    _assert_closed(lambda: transport.open(Endpoint(transport.name, ())), "open of an endpoint without descriptors")
    with contextlib.ExitStack() as stack:
        if transport.name == "inproc":
            stack.callback(os.close, reader)  # its endpoints are known by number: a foreign one is not its to close
        _assert_closed(lambda: transport.open(Endpoint(transport.name, (reader,))), "open of a pipe")
    assert _descriptor_count() == before, "a failing open must use its endpoint up"


def _check_descriptors(transport: Transport) -> None:
    before = _descriptor_count()
    for _ in range(20):
        with _channels(transport) as (first, second):
            first.fileno()
            first.send([b"x"])
            second.send([b"y"])
        here, there = transport.pair()
        transport.dispose(here)
        transport.dispose(there)
    assert _descriptor_count() == before, "descriptors leak"


def _descriptor_count() -> int:
    listing = Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.exists() else 0


# -- readiness -------------------------------------------------------------------------------------------------


def _check_readiness(transport: Transport) -> None:
    """The descriptor is readable before every message, also when several came at once, and idle otherwise."""
    source = random.Random(3)
    for polled_from_the_start in (True, False):
        with _channels(transport) as (first, second), selectors.DefaultSelector() as selector:
            if not polled_from_the_start:  # the first burst may leave messages in a buffer of the channel
                for number in range(5):
                    first.send([bytes([number])])
                assert _receive(second) == b"\0"
                selector.register(second.fileno(), selectors.EVENT_READ)
                for number in range(1, 5):
                    assert selector.select(_PATIENCE_S), "messages wait, but the descriptor is not readable"
                    assert _poll(second) == bytes([number])
            else:
                selector.register(second.fileno(), selectors.EVENT_READ)
            for _ in range(40):
                assert not selector.select(0), "the descriptor is readable though nothing is to be received"
                sizes = [source.choice((0, 1, 100, 20_000, 90_000)) for _ in range(source.randrange(1, 6))]

                def burst(sizes: tuple[int, ...] = tuple(sizes), channel: Channel = first) -> None:
                    for size in sizes:
                        channel.send([bytes(size)])

                with _threads(burst):
                    while sizes:
                        assert selector.select(_PATIENCE_S), "messages wait, but the descriptor is not readable"
                        message = second.receive(timeout_s=0)
                        if message is not None:
                            assert len(message) == sizes.pop(0)
            first.send([b"last"])
            first.close()
            assert selector.select(_PATIENCE_S)
            assert _receive(second) == b"last"
            assert selector.select(_PATIENCE_S), "the peer's end must make the descriptor readable"
            _assert_closed(lambda channel=second: channel.receive(timeout_s=0), "receive after the peer closed")  # type: ignore[misc]
