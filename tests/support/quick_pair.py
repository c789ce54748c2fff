"""A caller and a callee of the quick way of calls, in one process and without all that a shard has around them.

As a script it makes calls, for an instruction counter (``quick_pair.py CALLS``), from many threads (``quick_pair.py many
THREADS CALLS SEED``, in a build in which a lost wake-up is for ever), or beside peers that write anything (``quick_pair.py
hostile SECONDS SEED``, in a build with sanitizers).
"""

from __future__ import annotations

import contextvars
import itertools
import random
import sys
import threading
import time
import types
from collections import deque
from types import CoroutineType
from typing import Any

from shardwright.errors import ChannelClosed
from shardwright.guest._chains import Patience
from shardwright.guest._context import NOWHERE, CallContext, Life, current_call
from shardwright.guest._mailbox import Mailbox
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.ids import MethodId, SessionNumber
from shardwright.transport import ClassTable, TaggedCodec, pack, unpack
from shardwright.transport.shm import Desk, Doorbell, Line, Outlet, RingTransport, Worker

FAR = types.ModuleType("quick_far")


def echo(value: object, key: object = None) -> object:
    return value


def fail() -> None:
    raise LookupError("as asked")


def waits() -> bool:
    entered.set()
    return gate.wait(20)


entered, gate = threading.Event(), threading.Event()
FAR.echo, FAR.fail, FAR.waits = echo, fail, waits  # type: ignore[attr-defined]
ENTRIES = ("echo", "fail", "waits")


class SomeWorker(Worker):
    """What a mailbox knows of a thread."""

    def __init__(self) -> None:
        self.listens = True


class Side:
    """One process's: a doorbell and a desk. ``left``: what was not the quick way's."""

    def __init__(self, mailbox: Mailbox | None, main: int = 0) -> None:
        self.bell: Any = Doorbell(0)  # it does not spin, for instructions are counted
        self.transport = RingTransport(doorbell=self.bell)
        self.mailbox = mailbox
        self.left: list[tuple[Any, Any]] = []
        self.answered_slowly: list[tuple[Any, ...]] = []
        self._ears = threading.local()
        self.desk = desk = Desk(self.bell, main, mailbox)
        desk.arrived, desk.ear, desk.rest, desk.service = deque(), self.ear, self.rest, lambda: ""
        desk.context_get, desk.context_set = current_call.get, current_call.set
        desk.context_type, desk.context_class, desk.life_class = contextvars.Context, CallContext, Life
        desk.coroutine_class, desk.nowhere, desk.outside = CoroutineType, NOWHERE, lambda: NOWHERE
        desk.names, desk.dropped, desk.unended = {}, deque(), []
        desk.waiting_slowly, desk.stuck = {}, {}
        desk.end_lines = desk.after_call = lambda: None
        desk.answer = lambda *told: self.answered_slowly.append(told)

    def ear(self) -> Any:
        if not hasattr(self._ears, "waiter"):
            self._ears.waiter = self.bell.waiter()
        return self._ears.waiter

    def rest(self) -> None:
        """As the hub does."""
        arrived = self.desk.arrived
        if not arrived:
            arrived.extend(self.bell.take(64))
        while arrived:
            channel, message = arrived.popleft()
            if isinstance(message, ChannelClosed):
                channel.ended = True
                if (line := lines.get(channel)) is not None:
                    line.end(message, {})
                channel.close()
            elif (line := lines.get(channel)) is None or not line.reply(message):
                self.left.append((channel, message))
                if self.mailbox is not None:
                    self.answer(channel, message)

    def answer(self, channel: Any, frame: Any) -> None:
        """A call that came beside others' messages, answered as the slow way would; what is no call is nobody's."""
        codec = TaggedCodec(ClassTable((), lambda name: object))
        try:
            envelope = unpack(frame)
            if envelope.kind is not Kind.CALL or envelope.method != 0:
                return
            (_, args, kwargs), memo = codec.decode_request(envelope.payload, envelope.buffers)
            payload, buffers = codec.encode_reply(echo(*args, **(kwargs or {})), memo)
            reply = Envelope(Kind.RESULT, envelope.call_id, codec=PayloadCodec.TAGGED, payload=payload, buffers=buffers)
            channel.send(pack(reply), deadline_ns=time.monotonic_ns() + 1_000_000_000)
        except Exception:
            return

    def line(self, endpoint: Any) -> tuple[Any, Line]:
        channel = self.transport.open(endpoint)
        codec = TaggedCodec(ClassTable((), lambda name: object))
        writes, reads = codec.forms
        link: Any = types.SimpleNamespace(close=channel.close, _close_retired=lambda: None)
        line = Line(self.desk, channel.ring, link, Patience(), int(PayloadCodec.TAGGED), False)  # type: ignore[arg-type]
        line.write_request, line.write_reply = writes.write_request, writes.write_reply
        line.read_request, line.read_reply = reads.read_request, reads.read_reply
        line.open = True
        lines[channel] = line
        return channel, line


lines: dict[Any, Line] = {}


class Unusual(Exception):
    """A call left the quick way: by which door, and with what."""


def unusual(door: str) -> Any:
    def leave(*told: Any) -> Any:
        raise Unusual(door, told)

    return leave


def outlet(method: int, line: Line) -> Outlet:
    doors = [unusual(door) for door in ("slow", "written", "go_on", "finish", "nested", "give_up")]
    made = Outlet(method, *doors)
    made.leads(0, line)
    return made


class Pair:
    """``call(method, args)`` of the near side is answered by a thread of the far one. ``main``: who runs signal handlers."""

    def __init__(self, main: int = 0) -> None:
        sys.modules["quick_far"] = FAR
        self.far = Side(Mailbox(limit=64))
        self.near = Side(None, main)
        self.worker = SomeWorker()
        mailbox = self.far.mailbox
        assert mailbox is not None
        mailbox._idle.append(self.worker)  # type: ignore[arg-type]
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.outlets, _, _ = self.connect()
        self.thread.start()

    def connect(self) -> tuple[list[Outlet], Line, Line]:
        here, there = self.near.transport.pair()
        _, near = self.near.line(here)
        _, far = self.far.line(there)
        for method, name in enumerate(ENTRIES):
            far.serves(method, "quick_far", name)
        return [outlet(method, near) for method in range(len(ENTRIES))], near, far

    def _work(self) -> None:
        self.far.desk.work(self.worker, self.far.ear(), None)

    def call(self, method: int, *args: Any) -> Any:
        return self.outlets[method].call(args, {})

    def close(self) -> None:
        self.worker.ends = True
        self.far.bell.poke()
        self.thread.join(10)
        for side in (self.near, self.far):
            side.desk.off = True
            side.bell.close()
        for channel in list(lines):
            channel.close()
        lines.clear()


# -- a peer that writes anything -----------------------------------------------------------------------------------


def requests(chance: random.Random) -> bytes:
    """A CALL, more or less."""
    codec = TaggedCodec(ClassTable((), lambda name: object))
    value = chance.choice(
        [(None, ("x", 1), None), (None, (), {"key": 2}), (None, (b"b" * 3000,), None), (7, (), None), 5]
    )
    payload, _, _ = codec.encode_request(value)
    envelope = Envelope(
        kind=chance.choice([Kind.CALL] * 6 + list(Kind)),
        call_id=chance.randrange(1, 50),
        session=SessionNumber(chance.choice((0, 0, 9))),
        method=MethodId(chance.choice((0, 0, 1, 2, 4000, 2**32 - 1))),
        deadline_ns=chance.choice((0, 0, 1, 2**63)),
        chain=chance.choice((0, 5)),
        codec=PayloadCodec.TAGGED,
        payload=payload,
    )
    return b"".join(bytes(part) for part in pack(envelope))


def replies(chance: random.Random, ids: range) -> bytes:
    """A RESULT, more or less, to one of these."""
    codec = TaggedCodec(ClassTable((), lambda name: object))
    _, _, memo = codec.encode_request((None, ("x",), None))
    payload, _ = codec.encode_reply(chance.choice([1, "two", [3], ("x", b"y"), None]), memo)
    kind = chance.choice([Kind.RESULT] * 6 + [Kind.ERROR])
    call_id = chance.choice((chance.choice(ids), 0, 2**63)) if chance.random() < 0.3 else chance.choice(ids)
    envelope = Envelope(kind=kind, call_id=call_id, codec=PayloadCodec.TAGGED, payload=payload)
    return b"".join(bytes(part) for part in pack(envelope))


def spoiled(chance: random.Random, frame: bytes) -> bytes:
    """Often as it is; else with some bytes changed, cut or added."""
    what = chance.random()
    raw = bytearray(frame)
    if what < 0.4:
        return frame
    if what < 0.8:
        for _ in range(chance.randrange(1, 4)):
            raw[chance.randrange(len(raw))] = chance.choice((0, 1, 255, chance.randrange(256)))
    elif what < 0.9:
        del raw[chance.randrange(len(raw)) :]
    else:
        raw += chance.randbytes(chance.choice((1, 8, 4096, 70_000)))
    return bytes(raw)


def attack(seconds: float, seed: int) -> dict[str, int]:
    """Two hostile peers, one of each side, beside honest calls, of which none may fail."""
    chance = random.Random(seed)
    pair = Pair()
    counts = dict.fromkeys(("honest", "requests", "replies", "quick", "unusual", "ended"), 0)
    end_s = time.monotonic() + seconds
    foreign = RingTransport()
    while time.monotonic() < end_s:
        # it calls the far side
        theirs, ours = foreign.pair()
        caller = foreign.open(theirs)
        _, line = pair.far.line(ours)
        for method, name in enumerate(ENTRIES):
            line.serves(method, "quick_far", name)
        # and answers the near one
        theirs, ours = foreign.pair()
        callee = foreign.open(theirs)
        channel, asked = pair.near.line(ours)
        asks = outlet(0, asked)
        for _ in range(chance.randrange(1, 60)):
            try:
                caller.send([spoiled(chance, requests(chance))], deadline_ns=time.monotonic_ns() + 20_000_000)
                counts["requests"] += 1
            except Exception:
                break
            if chance.random() < 0.3:
                caller.receive_ready(64)
        first = asked.next_id()
        outcome: list[str] = []

        def ask(asks: Outlet = asks, outcome: list[str] = outcome, channel: Any = channel) -> None:
            try:
                for n in range(3):
                    asks.call(("x", n), {})
                    outcome.append("quick")
            except Exception:  # it is told something, whatever it is
                outcome.append("unusual")

        thread = threading.Thread(target=ask)
        thread.start()
        while thread.is_alive():
            try:
                callee.send(
                    [spoiled(chance, replies(chance, range(first, first + 6)))],
                    deadline_ns=time.monotonic_ns() + 1_000_000,
                )
                counts["replies"] += 1
                if chance.random() < 0.02:
                    callee.close()
            except Exception:
                pass
            if callee.closed:
                asked.end(ChannelClosed("gone"), {})
                counts["ended"] += 1
            thread.join(0.0002)
        for came in outcome:
            counts[came] += 1
        for number in range(5):
            value = ("honest", number, counts["honest"])
            assert pair.call(0, value) == value
            counts["honest"] += 1
        for end in (caller, callee):
            end.close()
        for each in list(lines):
            if each.closed or lines[each] is line or lines[each] is asked:
                lines.pop(each).end(ChannelClosed("over"), {})
                each.close()
        pair.near.left.clear()
        pair.far.left.clear()
        pair.far.answered_slowly.clear()
    pair.close()
    return counts


def many(threads: int, calls: int, seed: int) -> int:
    """So many threads, each with so many calls, now and then a while apart; how many were answered, all of them rightly."""
    pair = Pair()
    answered = [0] * threads

    def one(number: int) -> None:
        chance = random.Random(seed + number)
        for turn in range(calls):
            assert pair.call(0, (number, turn)) == (number, turn)
            answered[number] += 1
            what = chance.random()
            if what < 0.02:
                time.sleep(chance.random() / 500)
            elif what < 0.04:
                sum(range(chance.randrange(20_000)))

    began = [threading.Thread(target=one, args=(number,)) for number in range(threads)]
    for thread in began:
        thread.start()
    for thread in began:
        thread.join()
    pair.close()
    return sum(answered)


def main() -> None:
    if sys.argv[1] == "hostile":
        print(attack(float(sys.argv[2]), int(sys.argv[3])))
        return
    if sys.argv[1] == "many":
        print(many(int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
        return
    pair = Pair()
    for number in itertools.repeat(7, int(sys.argv[1])):
        assert pair.call(0, "sword", number) == "sword"
    pair.close()


if __name__ == "__main__":
    main()
