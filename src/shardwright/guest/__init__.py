"""What runs inside a wall, and the halves of it that the node uses too: calls, control messages, inproc shards."""

from shardwright.guest._caller import Caller
from shardwright.guest._chains import Chains
from shardwright.guest._context import NOWHERE, CallContext, current_call
from shardwright.guest._control import (
    HEADER,
    MAX_FROM_GUEST,
    VERSION,
    Accept,
    AskLoad,
    Because,
    Bind,
    Bound,
    Ended,
    Enter,
    Failed,
    Finished,
    Forget,
    Fork,
    Forked,
    Hello,
    Init,
    Load,
    Note,
    Offer,
    Ready,
    RunMain,
    SessionBegins,
    SessionEnds,
    Stop,
    Unbind,
    Why,
    decode_from_guest,
    frame,
)
from shardwright.guest._frames import beyond
from shardwright.guest._handles import Handle, HandleType
from shardwright.guest._hub import Hub
from shardwright.guest._keys import key_of
from shardwright.guest._link import Link
from shardwright.guest._loop import install_policy
from shardwright.guest._mailbox import Mailbox
from shardwright.guest._namespace import Namespace, is_private
from shardwright.guest._router import WHY_PATIENCE_S, Binder, Route, Router
from shardwright.guest._runtime import Runtime, edge_codec
from shardwright.guest._service import serves
from shardwright.guest._shard import EXIT_DEFECT, ControlBinder, run_program
from shardwright.guest._stubs import Proxies
from shardwright.guest._template import ImportFailed, import_modules

__all__ = [
    "EXIT_DEFECT",
    "HEADER",
    "MAX_FROM_GUEST",
    "NOWHERE",
    "VERSION",
    "WHY_PATIENCE_S",
    "Accept",
    "AskLoad",
    "Because",
    "Bind",
    "Binder",
    "Bound",
    "CallContext",
    "Caller",
    "Chains",
    "ControlBinder",
    "Ended",
    "Enter",
    "Failed",
    "Finished",
    "Forget",
    "Fork",
    "Forked",
    "Handle",
    "HandleType",
    "Hello",
    "Hub",
    "ImportFailed",
    "Init",
    "Link",
    "Load",
    "Mailbox",
    "Namespace",
    "Note",
    "Offer",
    "Proxies",
    "Ready",
    "Route",
    "Router",
    "RunMain",
    "Runtime",
    "SessionBegins",
    "SessionEnds",
    "Stop",
    "Unbind",
    "Why",
    "beyond",
    "current_call",
    "decode_from_guest",
    "edge_codec",
    "frame",
    "import_modules",
    "install_policy",
    "is_private",
    "key_of",
    "run_program",
    "serves",
]
