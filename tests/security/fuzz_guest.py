"""A hostile guest by dice: control sockets, callers and callees that send anything.

Everything here is the real other side (the node's ports, a shard's runtime, a client's links) over real sockets, in one
process, so that thousands of conversations take seconds. What must hold, whatever comes: no exception but the library's own
leaves a reader, readers go on reading other conversations, no message runs code (a pickle that would create a file never
does), nothing leaks. ``python tests/security/fuzz_guest.py --seconds N [--seed S]`` runs it for longer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import pickle
import random
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec

from shardwright.errors import ChannelClosed, ShardwrightError
from shardwright.guest import (
    HEADER,
    Accept,
    Bind,
    Bound,
    Ended,
    Failed,
    Finished,
    Forked,
    Hello,
    Hub,
    Link,
    Note,
    Offer,
    Ready,
    Runtime,
    Unbind,
    frame,
)
from shardwright.guest._runtime import peer_of
from shardwright.manifest import load
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import ComponentName, SessionNumber, ShardId
from shardwright.model.shard import ShardPlan
from shardwright.node._frames import control_pair
from shardwright.node._port import GuestPort
from shardwright.sharding import plan as plan_of
from shardwright.transport import ClassTable, TaggedCodec, pack
from shardwright.transport.socket import SocketTransport

__all__ = ["Attack", "main"]

MANIFEST = """
[app]
name = "prey"
[components.prey]
code = "prey_of_fuzz"
state = "memory"
queue = 16
[components.fox]
code = "fox_of_fuzz"
depends_on = ["prey"]
"""
PREY = """
seen = []
def add(a, b=1): return a
def keep(thing): seen.append(thing); del seen[:-3]; return len(seen)
async def later(x): return x
class Thing:
    def __init__(self, n): self.n = n
    def more(self, by=1): self.n = by; return self
def make(n): return Thing(n)
"""


class Bomb:
    """Pickled by the attacker; unpickled, it would create a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.mark), "w")


class Attack:
    """One run of the dice. ``folder`` is for the application and the mark that must never be made."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.dice = random.Random(seed)
        self.mark = folder / "owned"
        self.bombs = [pickle.dumps(Bomb(self.mark), protocol) for protocol in range(6)]
        (folder / "shardwright.toml").write_text(MANIFEST)
        (folder / "prey_of_fuzz.py").write_text(PREY)
        (folder / "fox_of_fuzz.py").write_text("import prey_of_fuzz\ndef hunt(): return prey_of_fuzz.make(1)\n")
        self.plan: ShardPlan = plan_of(load(folder, environment={}))
        self.folder = folder
        self.transport = SocketTransport()
        self.counts = {"control": 0, "caller": 0, "callee": 0}

    # -- what it sends -----------------------------------------------------------------------------------------

    def number(self) -> int:
        dice = self.dice
        return dice.choice([0, 1, 2, 7, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1, dice.getrandbits(64)])

    def text(self) -> str:
        return self.dice.choice(
            ["", "prey", "fox", "node", "__builtins__", "prey-00000001", "a.b", "\0", "☃", "x" * 5000]
        )

    def bytes(self) -> bytes:
        dice = self.dice
        return dice.choice([b"", b"\0", dice.randbytes(dice.choice([1, 9, 99, 999])), *self.bombs])

    def mutated(self, data: bytes) -> bytes:
        dice, found = self.dice, bytearray(data)
        for _ in range(dice.choice([0, 0, 1, 1, 2, 8])):
            match dice.randrange(5):
                case 0 if found:
                    found[dice.randrange(len(found))] = dice.randrange(256)
                case 1 if found:
                    del found[dice.randrange(len(found)) :]
                case 2:
                    found += dice.randbytes(dice.randrange(20))
                case 3 if len(found) > 4:
                    at = dice.randrange(len(found) - 4)
                    found[at : at + 4] = dice.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x01\0\0\0"])
                case _ if found:
                    at = dice.randrange(len(found))
                    found[at:at] = found[: dice.randrange(1, 30)]
        return bytes(found)

    def control_message(self) -> bytes:
        small = min(self.number(), 2**63)
        message = self.dice.choice(
            [
                Hello(small), Ready(0.5, bool(small % 2), self.text()), Failed(self.text(), self.text()), Forked(self.text()),
                Ended(self.text(), -9), Bind(small, self.text(), small, self.text(), self.text()), Unbind(self.text(), self.text()),  # noqa: E501
                Finished(small, self.text()), Note(self.text(), self.text()), Bound(small), Accept("a", "b", "c"), Offer(1, "a", "b", "c"),  # noqa: E501
            ]
        )  # fmt: skip
        wire = frame(message, self.dice.choice([0, 0, 0, 0, 1, 9]))
        if self.dice.random() < 0.2:
            body = msgspec.msgpack.encode({"t": self.text(), self.text(): [self.number(), {}, self.bytes()]})
            wire = HEADER.pack(len(body), 0) + body
        return self.mutated(wire)

    def envelope(self, codec: TaggedCodec, call_id: int, kinds: tuple[Kind, ...]) -> list[bytes]:
        dice = self.dice
        values: list[Any] = [
            None, (None, (), {}), (None, (1, 2), {}), (None, ([1], {"a": (2,)}), {"b": 3}), (self.number(), (1,), {"by": 2}),
            ("prey_of_fuzz", self.text()), (self.number(), self.text()), [1, 2], {"a": 1}, (None, (ValueError("x"),), {}),
        ]  # fmt: skip
        payload = codec.encode_request(dice.choice(values))[0] if dice.random() < 0.7 else self.bytes()
        if dice.random() < 0.1:
            payload = codec.encode_error(ValueError("forged"))[0]
        parts = pack(
            Envelope(
                dice.choice(kinds), call_id, SessionNumber(dice.choice([0, 1, 1, 2])), method=dice.choice([0, 1, 2, 3, 4, 5, 2**32 - 1]),  # noqa: E501
                deadline_ns=dice.choice([0, 0, 0, 1, 2**63]), chain=dice.choice([0, 0, 1, self.number()]),
                codec=dice.choice([PayloadCodec.TAGGED] * 6 + [PayloadCodec.PICKLE5, PayloadCodec.PICKLE5]),
                payload=self.mutated(payload) if dice.random() < 0.5 else payload,
                buffers=tuple(self.bytes() for _ in range(dice.choice([0, 0, 0, 1, 3]))),
            )
        )  # fmt: skip
        whole = b"".join(bytes(part) for part in parts)
        return [self.mutated(whole) if dice.random() < 0.3 else whole]

    # -- the node's ports ----------------------------------------------------------------------------------------

    def control(self, rounds: int) -> None:
        """Guests that talk to the node's ports; a port that never hears nonsense lives through all of it."""
        asyncio.run(self._control(rounds))

    async def _control(self, rounds: int) -> None:
        failures: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        ours, theirs = control_pair()
        honest = GuestPort(ShardId("good-00000001"), ComponentName("good"), ours)
        events = _Events()
        honest.attach(events)
        for number in range(rounds):
            near, far = control_pair()
            port = GuestPort(ShardId("fox-00000001"), ComponentName("fox"), near)
            if self.dice.random() < 0.7:
                port.attach(_Events())
            with far:
                far.setblocking(False)
                for _ in range(self.dice.choice([1, 2, 5])):
                    with contextlib.suppress(OSError):
                        if self.dice.random() < 0.2:
                            socket.send_fds(far, [self.control_message()], [0] * self.dice.choice([1, 5, 40]))
                        else:
                            far.send(self.control_message())
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
            while not port.closed:  # the end of its socket is seen at last
                await asyncio.sleep(0)
            self.counts["control"] += 1
            if number % 50 == 0:
                theirs.send(frame(Note("still", str(number))))
                while events.notes != number // 50 + 1:
                    await asyncio.sleep(0)
        honest.close("the end")
        theirs.close()
        assert not failures, [repr(each)[:400] for each in failures[:3]]

    # -- a shard that is called -----------------------------------------------------------------------------------

    def callers(self, rounds: int) -> None:
        """Callers of a running shard; an honest one is answered all the time."""
        runtime = Runtime(self.plan, ComponentName("prey"))
        sys.path.insert(0, str(self.folder))
        failed: list[Any] = []
        before, threading.excepthook = threading.excepthook, failed.append
        try:
            runtime.activate(ShardId("prey-00000001"), runtime.unbound)
            codec = TaggedCodec(ClassTable(self.plan.value_classes, _no_class))
            honest, hang_up = self._honest(runtime)
            for number in range(rounds):
                ours, theirs = self.transport.pair()
                runtime.connect(self.transport.open(ours), peer_of("fox", "fox-00000001", (1,)), outgoing=False)
                far = self.transport.open(theirs)
                try:
                    for _ in range(self.dice.choice([1, 3, 10])):
                        self._send(far, codec, tuple(Kind))
                    self._drain(far)
                finally:
                    far.close()
                self.counts["caller"] += 1
                if number % 20 == 0:
                    honest()
            honest()
            hang_up()
        finally:
            threading.excepthook = before
            runtime.close()
            sys.path.remove(str(self.folder))
            for name in ("prey_of_fuzz", "fox_of_fuzz"):
                sys.modules.pop(name, None)
        assert not failed, [repr(each)[:400] for each in failed[:3]]

    def _honest(self, runtime: Runtime) -> tuple[Callable[[], None], Callable[[], None]]:
        """Ask and be answered; hang up."""
        ours, theirs = self.transport.pair()
        runtime.connect(self.transport.open(ours), peer_of("fox", "good-00000001", None), outgoing=False)
        far = self.transport.open(theirs)
        codec = TaggedCodec(ClassTable((), _no_class))
        numbers = iter(range(1, 10**9))
        method = runtime.definition.entry("add").method_id

        def ask() -> None:
            call = next(numbers)
            payload, buffers, _ = codec.encode_request((None, (call,), {}))
            envelope = Envelope(
                Kind.CALL, call, SessionNumber(1), method, codec=PayloadCodec.TAGGED, payload=payload, buffers=buffers
            )
            far.send(pack(envelope))
            answer = far.receive(timeout_s=20)
            assert answer is not None, f"no answer from {runtime!r} {runtime.mailbox!r}"

        return ask, far.close

    # -- a caller that is answered --------------------------------------------------------------------------------

    def callees(self, rounds: int) -> None:
        """Callees of the real calling side: each of its calls has one outcome, and decoding it runs nothing."""
        hub = Hub("fuzz-hub")
        failed: list[Any] = []
        before, threading.excepthook = threading.excepthook, failed.append
        codec = TaggedCodec(ClassTable(self.plan.value_classes, _no_class))
        try:
            for _ in range(rounds):
                ours, theirs = self.transport.pair()
                link = Link(self.transport.open(ours), peer_of("prey", "prey-00000001", None), codec, hub, _Deaf())
                far = self.transport.open(theirs)
                tickets = []
                try:
                    for number in range(1, 4):
                        payload, buffers, memo = codec.encode_request((None, ([1], {}), {}))
                        ticket = _Ticket()
                        with contextlib.suppress(ChannelClosed):
                            link.begin(
                                Envelope(
                                    Kind.CALL, number, codec=PayloadCodec.TAGGED, payload=payload, buffers=buffers
                                ),
                                ticket,
                            )
                            tickets.append((ticket, memo))
                    for _ in range(self.dice.choice([1, 3, 6])):
                        self._send(
                            far, codec, (Kind.RESULT, Kind.RESULT, Kind.ERROR, *Kind), self.dice.choice([1, 2, 3, 3, 9])
                        )
                finally:
                    far.close()
                for ticket, memo in tickets:
                    self._look(codec, ticket, memo)
                link.close()
                self.counts["callee"] += 1
        finally:
            threading.excepthook = before
            hub.close()
        assert not failed, [repr(each)[:400] for each in failed[:3]]

    def _look(self, codec: TaggedCodec, ticket: _Ticket, memo: Any) -> None:
        outcome = ticket.got.get(timeout=20)
        if isinstance(outcome, Envelope):
            with contextlib.suppress(ShardwrightError):
                if outcome.kind is Kind.RESULT:
                    codec.decode_reply(outcome.payload, outcome.buffers, memo)
                else:
                    assert isinstance(codec.decode_error(outcome.payload, outcome.buffers, memo), BaseException)
        try:
            again = ticket.got.get_nowait()
        except Empty:
            return
        raise AssertionError(f"a second outcome: {again!r}")

    def _send(self, far: Any, codec: TaggedCodec, kinds: tuple[Kind, ...], call: int | None = None) -> None:
        with contextlib.suppress(ChannelClosed, OSError):
            if self.dice.random() < 0.05:
                far._socket.send(self.bytes() or b"\xff")  # beneath the framing
            else:
                far.send(
                    self.envelope(codec, self.number() if call is None else call, kinds),
                    deadline_ns=time.monotonic_ns() + 10**10,
                )

    def _drain(self, far: Any) -> None:
        with contextlib.suppress(ChannelClosed):
            while far.receive(timeout_s=0.002) is not None:
                pass

    def check(self) -> None:
        assert not self.mark.exists(), "a message ran code"


class _Events:
    def __init__(self) -> None:
        self.notes = 0

    def on_bind(self, port: Any, message: Any) -> None: ...

    def on_unbind(self, port: Any, message: Any) -> None: ...

    def on_finished(self, port: Any, message: Any) -> None: ...

    def on_note(self, port: Any, message: Any) -> None:
        self.notes += 1

    def on_gone(self, port: Any, reason: str) -> None: ...


class _Deaf:
    def on_message(self, link: Link, envelope: Envelope) -> None:
        link.close()

    def on_link_closed(self, link: Link) -> None: ...


class _Ticket:
    def __init__(self) -> None:
        self.got: SimpleQueue[Any] = SimpleQueue()

    def deliver(self, outcome: Any) -> None:
        self.got.put(outcome)


def _no_class(name: str) -> type:
    raise LookupError(name)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    options = parser.parse_args(argv)
    end_s, seed, totals = time.monotonic() + options.seconds, options.seed, {"control": 0, "caller": 0, "callee": 0}
    while time.monotonic() < end_s:
        with tempfile.TemporaryDirectory() as folder:
            print(f"seed {seed}", flush=True)
            attack = Attack(seed, Path(folder))
            attack.control(200)
            attack.callers(100)
            attack.callees(200)
            attack.check()
            totals = {name: totals[name] + count for name, count in attack.counts.items()}
        seed += 1
    print(totals)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
