"""What comes back from a shard: answers of functions and failures, checked, as values and errors of the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from shardwright.errors import CallError, ChannelClosed, ProtocolViolation, RemoteError, ShardLost, ShardwrightError
from shardwright.gateway._backend import Raised
from shardwright.guest import (
    Answer,
    BadApplication,
    Bound,
    Described,
    Failure,
    FunctionReply,
    decode_answer,
    decode_failure,
    refusal,
)
from shardwright.model.envelope import Envelope, Kind, PayloadCodec

LONG_WORDS = 2000  # characters of what a shard says of a failure


def answer_in(envelope: Envelope) -> Answer | ShardwrightError:
    """What a RESULT or ERROR says. Raises ProtocolViolation."""
    if envelope.codec is not PayloadCodec.WEB or envelope.buffers:
        raise ProtocolViolation(f"a {envelope.kind.name} of codec {envelope.codec.name} to the gateway")
    if envelope.kind is Kind.RESULT:
        return decode_answer(envelope.payload)
    return error_of(decode_failure(envelope.payload))


def error_of(failure: Failure) -> ShardwrightError:
    """The error that a shard's failure stands for."""
    message, remedy = failure.message[:LONG_WORDS], failure.remedy[:LONG_WORDS]
    if failure.code and failure.code not in (RemoteError.code, BadApplication.code):
        found = refusal(Bound(0, message, failure.code, remedy, failure.outcome))
        # a shard speaks of its own calls, and of nothing else
        if isinstance(found, CallError) and type(found) is not CallError:
            return found
        return CallError(message, outcome=failure.outcome, remedy=remedy)
    return Raised(message, type_name=failure.type[:200], outcome=failure.outcome, remedy=remedy, status=failure.status)


def lost_call(what: str, shard: str, reason: ChannelClosed) -> ShardLost:
    """The error of a call that was under way when the conversation ended."""
    if isinstance(reason, ProtocolViolation):
        return ShardLost(f"{what}: {shard} broke the protocol and was cut off: {reason}")
    return ShardLost(f"{what}: {shard} ended while it was running this call")


def settle(future: asyncio.Future[Answer], found: Answer | ShardwrightError) -> None:
    """Let whoever awaits an answer have it, or the error."""
    if future.done():
        return
    if isinstance(found, ShardwrightError):
        future.set_exception(found)
    else:
        future.set_result(found)


def problem(status: int, title: str, detail: str, errors: list[dict[str, Any]]) -> FunctionReply:
    """An answer of the gateway's own, as problem details (RFC 9457)."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "errors": errors}
    return FunctionReply(status, msgspec.json.encode(body), "application/problem+json")


def operation_of(described: Described) -> dict[str, Any]:
    """The description of a function. Raises ProtocolViolation."""
    try:
        return msgspec.json.decode(described.operation, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"a description cannot be read: {error!s:.200}") from None
