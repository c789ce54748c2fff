"""The Envelope: the framed message, as values. Bytes are the business of ``transport``."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from shardwright.model.ids import NO_SESSION, MethodId, SessionNumber


class Kind(IntEnum):
    """What a message is. Numbers are part of the protocol and never reused."""

    CALL = 1  # run an entry point
    RESULT = 2  # its result
    ERROR = 3  # it raised, or could not be run
    CANCEL = 4  # the caller no longer waits
    GET = 5  # read an attribute of a module or of an object behind a handle
    ADDREF = 6  # one more holder of an object
    RELEASE = 7  # one holder less
    BYE = 8  # no further messages will come
    DATA = 9  # events of an open exchange
    CREDIT = 10  # so many more bytes of DATA may be sent
    ANNOUNCE = 11  # a call of this entry point may come at once: nothing is run, and nothing answered


class PayloadCodec(IntEnum):
    NONE = 0
    TAGGED = 1
    PICKLE5 = 2
    WEB = 3  # requests and events of the web, as plain data


class Envelope(msgspec.Struct, frozen=True):
    """One message. Deadlines are absolute CLOCK_MONOTONIC nanoseconds of this machine; 0 means none.

    ``chain`` is the call id of the first call of a causal chain: a call that comes back into a waiting shard carries the
    chain that the shard is waiting on, and so may be run there at once.

    ``blocked``: the event loops that stand still until a call of this chain is answered, an OR of their marks (8 bits each):
    a coroutine of such a loop cannot be run on behalf of that call.

    A struct of msgspec, for several are made for each call, and a frozen data class takes twenty times as long to make.
    """

    kind: Kind
    call_id: int
    session: SessionNumber = NO_SESSION
    method: MethodId = MethodId(0)
    epoch: int = 0
    deadline_ns: int = 0
    trace_id: bytes = b"\0" * 16
    blocked: int = 0
    chain: int = 0
    codec: PayloadCodec = PayloadCodec.NONE
    payload: bytes | memoryview = b""
    buffers: tuple[bytes | memoryview, ...] = ()
