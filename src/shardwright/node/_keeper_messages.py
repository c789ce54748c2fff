"""What node and keeper say to each other. Both are ours; the keeper still trusts nothing that it did not make itself."""

from __future__ import annotations

from typing import Any

import msgspec

from shardwright.contracts.sandbox import Exit, SandboxHandle, Sight
from shardwright.model.limits import Limits, Resources, Usage


class _Message(msgspec.Struct, frozen=True, tag_field="t"):
    request: int


class Launch(_Message, frozen=True, tag="launch"):
    """Descriptors come with the frame, one for each of ``targets``. ``lifeline`` is the number to map its lifeline to."""

    shard: str
    arguments: tuple[str, ...]
    environment: dict[str, str]
    working_directory: str
    targets: tuple[int, ...]
    lifeline: int
    limits: Limits
    max_pids: int
    backend: str = "process"
    sight: Sight = Sight()
    template: bool = False


class Reserve(_Message, frozen=True, tag="reserve"):
    """Make control groups for a shard that a template will fork."""

    shard: str
    limits: Limits
    backend: str = "process"


class Adopt(_Message, frozen=True, tag="adopt"):
    """Take over a process that a template forked, under these limits. With it comes the other end of its lifeline.

    ``reserved``: by what name its control groups were made.
    """

    handle: SandboxHandle
    limits: Limits
    reserved: str = ""


class Resize(_Message, frozen=True, tag="resize"):
    shard: str
    limits: Limits


class Kill(_Message, frozen=True, tag="kill"):
    shard: str


class Delete(_Message, frozen=True, tag="delete"):
    shard: str


class Inherit(_Message, frozen=True, tag="inherit"):
    """Remove this file (the node's socket) should the node die."""

    path: str


class Listen(_Message, frozen=True, tag="listen"):
    """Listen on ``host:port``, or do so still: the keeper keeps these sockets until it ends.

    Descriptors that come with the frame are sockets which listen already, and serve in place of those of its own.
    """

    bind: str


class AskUsage(_Message, frozen=True, tag="usage?"):
    shards: tuple[str, ...]


class Describe(_Message, frozen=True, tag="describe"):
    """``try_backends``: also find out, by trying, whether their sandboxes can be made.

    ``told``: backends of which more than the usual is to be told what reaches into their sandboxes.
    """

    try_backends: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


class Started(_Message, frozen=True, tag="started"):
    """The pidfd comes with the frame. Without a handle: the process is gone."""

    handle: SandboxHandle | None


class Reserved(_Message, frozen=True, tag="reserved"):
    """The descriptors to enter by come with the frame."""


class Applied(_Message, frozen=True, tag="applied"):
    limits: Limits


class Deleted(_Message, frozen=True, tag="deleted"):
    exit: Exit | None


class Usages(_Message, frozen=True, tag="usages"):
    usages: dict[str, Usage | None]


class Described(_Message, frozen=True, tag="described"):
    capacity: Resources
    enforces: tuple[str, ...]
    reason: str
    swept: tuple[str, ...]
    pid: int
    troubles: dict[str, str] = {}
    transports: dict[str, tuple[str, ...]] = {}  # that reach into sandboxes, by backend


class Done(_Message, frozen=True, tag="done"):
    pass


class Listening(_Message, frozen=True, tag="listening"):
    """A copy of each socket comes with the frame."""

    addresses: tuple[str, ...]


class Refused(_Message, frozen=True, tag="refused"):
    message: str
    remedy: str = ""


ToKeeper = Launch | Reserve | Adopt | Resize | Kill | Delete | Inherit | Listen | AskUsage | Describe
FromKeeper = Started | Reserved | Applied | Deleted | Usages | Described | Done | Listening | Refused

to_keeper: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(ToKeeper)
from_keeper: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(FromKeeper)
