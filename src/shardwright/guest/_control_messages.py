"""The messages of the control conversation between the node and what runs inside a wall.

Every message is typed and checked on arrival (``_control`` frames and reads them), so that a lying guest is found out by the
parser. ``descriptors`` says how many travel with a message; only the node sends any. A little over 400 lines: they are many.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from shardwright.guest._testing import Testing
from shardwright.guest._wanted_walls import Walls


class _Message(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True):
    descriptors: ClassVar[int] = 0


# -- node to guest ---------------------------------------------------------------------------------------------


class Init(_Message, frozen=True, tag="init"):
    """Who you are, and the plan (msgpack of ShardPlan). ``role`` is "template" or "shard".

    ``testing``: a test run started this node; only then may it send Patch. ``walls``: you are in a sandbox of namespaces.
    ``rings``: as in Enter.
    """

    plan: bytes
    component: str
    role: str
    paths: tuple[str, ...]
    argv: tuple[str, ...]
    testing: Testing | None = None
    walls: Walls | None = None
    rings: bool = False


class Fork(_Message, frozen=True, tag="fork"):
    """To a template: fork a shard. Descriptors: its control socket, and its lifeline."""

    shard: str


class Enter(_Message, frozen=True, tag="enter"):
    """To a shard: begin. Descriptors: its log; with ``terminal``, standard input, output and error instead.

    To a gateway also its settings (msgpack of ``GatewaySettings``), and further descriptors: the sockets to listen on.
    The last ``entrances`` descriptors are those of control groups, for a fork of a template to go into. ``rings``: its channels
    go through shared memory, as far as can be.
    """

    shard: str
    secrets: dict[str, str] = {}
    terminal: bool = False
    gateway: bytes = b""
    entrances: int = 0
    rings: bool = False


class SessionBegins(_Message, frozen=True, tag="session+"):
    session: int
    name: str


class SessionEnds(_Message, frozen=True, tag="session-"):
    session: int


class Accept(_Message, frozen=True, tag="accept"):
    """Serve a caller over the channel whose end is the descriptor. ``sessions`` None: any."""

    component: str
    shard: str
    transport: str
    sessions: tuple[int, ...] | None = None


class Offer(_Message, frozen=True, tag="offer"):
    """One link of an answer to Bind: the descriptor is its channel's end. ``request`` 0: a further shard of a binding."""

    request: int
    component: str
    shard: str
    transport: str


class Bound(_Message, frozen=True, tag="bound"):
    """All offers of a request were sent; or why there are none."""

    request: int
    error: str = ""
    code: str = ""
    remedy: str = ""
    outcome: str = "not started"


class Because(_Message, frozen=True, tag="because"):
    """How the shard that was asked about ended; empty when the node does not know, or the asker may not."""

    request: int
    reason: str


class Forget(_Message, frozen=True, tag="forget"):
    """The binding of that component and session is no longer; the next call asks anew."""

    component: str
    session: int


class SessionBegun(_Message, frozen=True, tag="begun"):
    """The answer to BeginSession: its number; or 0, and why not."""

    request: int
    session: int = 0
    error: str = ""
    code: str = ""
    remedy: str = ""


class NodeTold(_Message, frozen=True, tag="told"):
    """The answer to AskNode: whether the node can go on, whether it serves all that it should and what lacks; its numbers
    (msgpack of families) and what is there (JSON of shards, sessions and decisions), where they were asked for."""

    request: int
    alive: bool = True
    ready: bool = True
    reasons: tuple[str, ...] = ()
    numbers: bytes = b""
    status: bytes = b""


class RunMain(_Message, frozen=True, tag="main"):
    """To the entry shard: run ``module:function`` in that session and report its exit status."""

    target: str
    session: int


class AskLoad(_Message, frozen=True, tag="load?"):
    """Answer with a Load of the same number."""

    request: int


class AskCounts(_Message, frozen=True, tag="counts?"):
    """Answer with Counts of the same number."""

    request: int


class Retire(_Message, frozen=True, tag="retire"):
    """That shard is replaced: begin no call there any more, let those in flight end, then close the links to it.

    ``lost``: with it goes the state that sessions had there, and they are to be told. Answer a ``request`` that is not 0
    with Unsaid.
    """

    component: str
    shard: str
    lost: bool = False
    request: int = 0


class Doubt(_Message, frozen=True, tag="doubt"):
    """The shard that these sessions had state in was replaced, and so was who would have told them: ask the node before the
    next call of each to that component, although there is a link to another shard of it.
    """

    component: str
    sessions: tuple[int, ...]


class StacksTo(_Message, frozen=True, tag="stacks>"):
    """Where the interpreter writes its stacks when the node sends ``STACKS_SIGNAL``: a file, the descriptor."""


class AskStacks(_Message, frozen=True, tag="stacks?"):
    """Answer with Stacks of the same number."""

    request: int


class Attach(_Message, frozen=True, tag="attach"):
    """Let a terminal, the descriptor, debug this shard; answer with Attached. ``at``: MODULE:FUNCTION or FILE:LINE."""

    request: int
    at: str = ""
    now: bool = False
    debugpy: bool = False


class BreakIn(_Message, frozen=True, tag="attach!"):
    """Whoever is attached wants the program to stop at its next line."""


class Detach(_Message, frozen=True, tag="attach-"):
    """The terminal of that Attach is ``lost``, or wants to go unless it stands at the prompt, which hears it by itself."""

    request: int
    lost: bool = True


class Stop(_Message, frozen=True, tag="stop"):
    """Finish what runs, for at most ``grace_s``, and exit. ``drain``: not before every caller has closed its links."""

    grace_s: float = 0.0
    drain: bool = False


# -- guest to node ---------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, tag="hello"):
    """The first message; the kernel vouches for the sender's pid."""

    version: int


class Ready(_Message, frozen=True, tag="ready"):
    """Import done. ``forkable`` False with a ``reason``: shards of this component must be spawned."""

    import_s: float
    forkable: bool = True
    reason: str = ""


class Failed(_Message, frozen=True, tag="failed"):
    """Import failed; ``traceback`` is the user's alone."""

    message: str
    traceback: str = ""


class Forked(_Message, frozen=True, tag="forked"):
    """From a template: it could not fork, and why."""

    shard: str
    error: str = ""


class Ended(_Message, frozen=True, tag="ended"):
    """From a template: a shard that it had forked ended so (exit status, or minus the signal)."""

    shard: str
    status: int


class Bind(_Message, frozen=True, tag="bind"):
    request: int
    component: str
    session: int
    key: str | None = None
    shard: str | None = None
    lost: tuple[str, ...] = ()


class Unbind(_Message, frozen=True, tag="unbind"):
    """The shard of request scope has served its request."""

    component: str
    shard: str


class Why(_Message, frozen=True, tag="why"):
    """How did that shard end? Answered by Because."""

    request: int
    component: str
    shard: str


class Load(_Message, frozen=True, tag="load"):
    """Calls that run or wait here, and for how many seconds there have been none."""

    request: int
    running: int
    idle_s: float


class Unsaid(_Message, frozen=True, tag="unsaid"):
    """The sessions that had state in a shard that is replaced, by what was called from here. 0: calls outside sessions."""

    request: int
    sessions: tuple[int, ...]


class Counts(_Message, frozen=True, tag="counts"):
    """What happened here so far: calls begun and made; refused and failed by the code of the error. ``request`` 0: unasked,
    for this shard ends now. ``cpu_s`` is the processor time that it took."""

    request: int
    received: int = 0
    made: int = 0
    refused: dict[str, int] = {}
    failed: dict[str, int] = {}
    running: int = 0
    queued: int = 0
    cpu_s: float = 0.0


class FrameLine(msgspec.Struct, frozen=True, array_like=True):
    """One frame of a stack; ``source`` is that line of its file. ``ours``: Shardwright's own."""

    file: str
    line: int
    function: str
    source: str = ""
    ours: bool = False


class Stack(msgspec.Struct, frozen=True, array_like=True):
    """One thread or asyncio task, its innermost frame last. ``says`` is what it does, in words, where that is known."""

    name: str
    frames: tuple[FrameLine, ...]
    says: str = ""
    native_id: int = 0


class Stacks(_Message, frozen=True, tag="stacks"):
    request: int
    threads: tuple[Stack, ...]
    tasks: tuple[Stack, ...] = ()


class Attached(_Message, frozen=True, tag="attached"):
    """Whether that terminal debugs this shard now; why not, where it does not."""

    request: int
    error: str = ""
    remedy: str = ""


class Finished(_Message, frozen=True, tag="finished"):
    """The entry function ended; ``traceback`` when by an exception."""

    status: int
    traceback: str = ""


class BeginSession(_Message, frozen=True, tag="begin"):
    """From a gateway alone, as those that follow: begin the session of that name, or find it alive."""

    request: int
    name: str


class EndSession(_Message, frozen=True, tag="end"):
    name: str


class UseSessions(_Message, frozen=True, tag="used"):
    """These sessions had requests since the last message of this kind, or have some that run."""

    sessions: tuple[int, ...]


class AskNode(_Message, frozen=True, tag="node?"):
    """How is the node; with ``numbers``, what are its numbers; with ``status``, what is there? Answered with NodeTold."""

    request: int
    numbers: bool = False
    status: bool = False


class Note(_Message, frozen=True, tag="note"):
    """Something the journal should know."""

    kind: str
    message: str


Fork.descriptors = 1
Accept.descriptors = 1
Offer.descriptors = 1
StacksTo.descriptors = 1
Attach.descriptors = 1

FromNode = (
    Init
    | Fork
    | Enter
    | SessionBegins
    | SessionEnds
    | SessionBegun
    | NodeTold
    | Accept
    | Offer
    | Bound
    | Because
    | Forget
    | RunMain
    | AskLoad
    | AskCounts
    | Retire
    | Doubt
    | StacksTo
    | AskStacks
    | Attach
    | BreakIn
    | Detach
    | Stop
)
FromGateway = BeginSession | EndSession | UseSessions | AskNode
Looks = Stacks | Attached
FromGuest = (
    Hello
    | Ready
    | Failed
    | Forked
    | Ended
    | Bind
    | Unbind
    | Why
    | Load
    | Counts
    | Unsaid
    | Finished
    | Note
    | FromGateway
    | Looks
)
