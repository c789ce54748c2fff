"""WebSocket cases of the ASGI probe. A name of ``CASES`` is one line of the table."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

from protocol_wire import Case, Talk, Wire

__all__ = ["CASES"]

CASES: dict[str, Case] = {}
Frames = tuple[tuple[Any, ...], ...]


def case(script: Case) -> Case:
    CASES["ws-" + script.__name__.replace("_", "-")] = script
    return script


def _says(
    talk: Talk, *, target: str, frames: Frames = (), headers: tuple[tuple[str, str], ...] = (), answers: int = 0
) -> None:
    """Handshake, some frames, then what the server says up to its end; ``answers``: so many frames first, then a close."""
    wire = talk.socket(target, *headers)
    for kind, payload, *rest in frames:
        wire.say(kind, payload, **(rest[0] if rest else {}))
    if answers:
        talk.note("answers", wire.frames(answers))
        wire.say("close", struct.pack("!H", 1000))
    talk.note("frames", wire.frames())
    talk.note_log()


def says(name: str, target: str, *frames: tuple[Any, ...], **more: Any) -> None:
    CASES[f"ws-{name}"] = partial(_says, target=target, frames=frames, **more)


def code(number: int, reason: str = "") -> tuple[str, bytes]:
    return "close", struct.pack("!H", number) + reason.encode()


# -- the handshake -----------------------------------------------------------------------------------------------

_OFFERED = ("Sec-WebSocket-Protocol", "chat, superchat")
says("scope", "/scope/a%20b?q=1&e=%C3%A9", answers=1)
says("scope-with-subprotocols", "/scope", headers=(_OFFERED, ("Sec-WebSocket-Protocol", "third")), answers=1)
says("subprotocol", "/protocol", code(1000), headers=(_OFFERED,))
says("subprotocol-none", "/protocol", code(1000))
says("subprotocol-never-offered", "/stranger", code(1000), headers=(_OFFERED,))
says("headers", "/headers", code(1000))
says("extensions", "/echo", ("text", b"x"), headers=(("Sec-WebSocket-Extensions", "permessage-deflate"),), answers=1)
says("reject", "/reject")
says("deny", "/deny")
says("deny-half", "/deny-half")
says("error-before-accept", "/boom")
says("error-after-accept", "/boom-open")
says("silent", "/silent")
says("returns-open", "/returns")
says("sends-what-it-must-not", "/grumble", code(1000))


def handshake(name: str, **replaced: str) -> None:
    def script(talk: Talk) -> None:
        talk.socket("/echo", **replaced)

    CASES[f"ws-handshake-{name}"] = script


handshake("of-old-version", Sec_WebSocket_Version="8")
handshake("without-version", Sec_WebSocket_Version="")
handshake("without-key", Sec_WebSocket_Key="")
handshake("with-a-bad-key", Sec_WebSocket_Key="short")
handshake("by-post", method="POST")
handshake("in-http10", version="1.0")


@case
def plain_request_to_a_socket(talk: Talk) -> None:
    """Without an upgrade it is a request like any other."""
    talk.raw(b"GET /protocol HTTP/1.1\r\nHost: x\r\n\r\n")


# -- messages ----------------------------------------------------------------------------------------------------

says("text", "/echo", ("text", "grüße ☃".encode()), answers=1)
says("binary", "/echo", ("binary", bytes(range(256))), answers=1)
says("empty", "/echo", ("text", b""), ("binary", b""), answers=2)
says("fragments", "/echo", ("text", b"one,", {"last": False}), ("continuation", b"two,", {"last": False}),
     ("continuation", b"three"), answers=1)  # fmt: skip
says("fragments-of-a-character", "/echo", ("text", "é".encode()[:1], {"last": False}), ("continuation", "é".encode()[1:]),
     answers=1)  # fmt: skip
says("ping-between-fragments", "/echo", ("text", b"one,", {"last": False}), ("ping", b"p"), ("continuation", b"two"),
     answers=2)  # fmt: skip
says("ping", "/echo", ("ping", b"payload"), ("ping", b""), answers=2)
says("pong-unasked", "/echo", ("pong", b"payload"), ("text", b"x"), answers=1)
says("large-up", "/length", ("binary", b"z" * 1_500_000), answers=1)
says("large-text-up", "/length", ("text", b"z" * 70_000), answers=1)
says("large-down", "/large", answers=1)
says("many-down", "/push", answers=301)
says("many-up", "/count", *(("text", b"%d" % n) for n in range(200)), answers=1)
says("empty-events", "/both", answers=3)

# -- closes ------------------------------------------------------------------------------------------------------

says("closed-1000", "/close?1000-done", code(1000, "done"))
says("closed-without-a-code", "/close", code(1000))
says("closed-3456", "/close?3456-own+code", code(3456))
says("closed-4999", "/close?4999-", code(4999))
says("closed-1001", "/close?1001-away", code(1001))
for number, reason in ((1000, ""), (1000, "thanks"), (1001, "away"), (1011, "broken"), (3000, "own"), (4001, "bye ☃")):
    says(f"closes-{number}{'-with-a-reason' if reason else ''}", "/echo", code(number, reason))


@case
def closes_behind_messages(talk: Talk) -> None:
    """All in one piece: nobody can answer the messages before the close is there."""
    wire = talk.socket("/gone")
    wire.send(wire.frame("text", b"one") + wire.frame("text", b"two") + wire.frame(*code(1000)))
    talk.note("frames", wire.frames())
    talk.note_log()


says("closes-without-a-code", "/echo", ("close", b""))
for number in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000):
    says(f"closes-wrongly-{number}", "/echo", code(number))
says("closes-with-one-byte", "/echo", ("close", b"\x03"))
says("closes-with-bad-text", "/echo", ("close", b"\x03\xe8\xff"))

# -- what is not the protocol ------------------------------------------------------------------------------------

says("unmasked", "/echo", ("text", b"x", {"masked": False}))
says("bad-utf8", "/echo", ("text", b"\xff\xfe"))
says("bad-utf8-in-fragments", "/echo", ("text", b"ok", {"last": False}), ("continuation", b"\xff"))
says("unknown-opcode", "/echo", (3, b"x"))
says("unknown-control", "/echo", (11, b"x"))
says("reserved-bits", "/echo", ("text", b"x", {"bits": 0x40}))
says("long-ping", "/echo", ("ping", b"x" * 126))
says("ping-in-pieces", "/echo", ("ping", b"x", {"last": False}))
says("continuation-of-nothing", "/echo", ("continuation", b"x"))
says("text-within-fragments", "/echo", ("text", b"x", {"last": False}), ("text", b"y"))


@case
def too_large(talk: Talk) -> None:
    """Announced is enough."""
    wire = talk.socket("/echo")
    wire.send(b"\x82\xff" + struct.pack("!Q", 17 * 2**20) + b"\0\0\0\0")
    talk.note("frames", wire.frames())
    talk.note_log()


# -- a client that leaves ----------------------------------------------------------------------------------------


def _leaves(talk: Talk, leave: Callable[[Wire], None], target: str) -> None:
    wire = talk.socket(target)
    if target == "/gone":
        wire.say("text", b"hello")
        talk.until(lambda log: len(log) > 1)
    leave(wire)
    talk.note_log()


CASES["ws-client-leaves"] = partial(_leaves, leave=Wire.close, target="/gone")
CASES["ws-client-resets"] = partial(_leaves, leave=Wire.reset, target="/gone")
CASES["ws-client-leaves-a-sender"] = partial(_leaves, leave=Wire.close, target="/gone-raises")
CASES["ws-client-closes-a-sender"] = partial(
    _leaves, leave=lambda wire: wire.say("close", b"\x03\xe8"), target="/gone-raises"
)


@case
def client_leaves_before_the_answer(talk: Talk) -> None:
    wire = talk.wire()
    wire.send(wire.handshake(talk.case, "/gone"))
    wire.close()
    log = talk.until(lambda log: "end" in log)
    talk.note("first", log[0])
