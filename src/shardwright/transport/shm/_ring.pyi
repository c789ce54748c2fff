"""The C extension. ``shardwright.transport.shm`` says how to use it; ``_channel`` gives the whole picture."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import Any, Final, Generic, TypeVar, final

from shardwright.contracts.transport import Part
from shardwright.errors import ChannelClosed

SEAL_SEAL: Final[int]
SEAL_SHRINK: Final[int]
SEAL_GROW: Final[int]
SEAL_WRITE: Final[int]
SEAL_FUTURE_WRITE: Final[int]
SEAL_EXEC: Final[int]

TIMED_OUT: Final[int]  # what Waiter.wait returns
READS: Final[int]
WOKEN: Final[int]

SENT: Final[int]  # what Ring.push and push_more return
FULL: Final[int]
BUSY: Final[int]
TOO_LARGE: Final[int]

DEFAULT_SPIN_NS: Final[int]
MAX_CHANNELS: Final[int]  # of one doorbell
MAX_WAITERS: Final[int]  # of one doorbell

_Tag = TypeVar("_Tag")

def create_memfd(name: str, size: int, /) -> int: ...
def seals(fd: int, /) -> int: ...
def check_memfd(fd: int, size: int, /) -> None: ...
def create_pair(capacity: int, /) -> tuple[int, int]:
    """Two sockets, each with its end of one new ring pair waiting in it. ``capacity`` is each way's, in bytes."""

@final
class Doorbell(Generic[_Tag]):
    """Where every channel of a process (or of one thread, or loop) rings. Usable by any thread; not after a fork."""

    spin_ns: int
    """How long ``wait`` looks before it sleeps, if the peer runs on another CPU. 0: it sleeps at once."""

    def __new__(cls, spin_ns: int = ..., /) -> Doorbell[_Tag]: ...
    def waiter(self) -> Waiter:
        """A new place to wait, for one thread at a time. OSError when there are MAX_WAITERS."""

    def ready(self) -> list[_Tag]:
        """The tags of the channels from which something may be taken, or which ended. The reader calls it.

        A channel is named again, by every call, until all was taken; one that ended, until it is closed.
        With ``fileno`` in use an empty list makes the descriptor unreadable until the next message.
        """

    def take(self, limit: int, /) -> list[tuple[_Tag, bytes | memoryview | ChannelClosed]]:
        """``ready`` and every channel's ``take`` in one: at most ``limit`` messages, one of each channel in turn, in order
        per channel; each with its channel's tag. A channel's end comes once, as the error that its ``take`` would raise.
        """

    def poke(self) -> None:
        """The reader, present or next, returns from ``wait``, ready or not; a ``fileno`` gets readable."""

    def fileno(self) -> int:
        """A descriptor that is readable while ``ready`` may name something. From then on messages ring it whenever no
        waiter sleeps: for event loops. It belongs to the doorbell."""

    def close(self) -> None:
        """Every ``wait`` returns WOKEN from now on. Channels must have been closed before."""

    @property
    def channels(self) -> int: ...
    @property
    def closed(self) -> bool: ...
    @property
    def sleeping(self) -> bool:
        """Whether a message would have to wake somebody."""

    @property
    def waiting(self) -> int:
        """How many waiters wait beside the one that has the reading role."""

@final
class Waiter:
    """A place where one thread waits, for the reading role or for a word from the thread that has it."""

    def wait(self, timeout_ns: int = -1, other: Waiter | None = None, /) -> int:
        """Read, or be woken. What ``other`` is owed is paid, unless this returns READS at once. See ``_channel``. Returns

        READS: this waiter has the role, and ``Doorbell.ready`` may name channels. It keeps the role until it calls
        ``leave``, or ``wait`` returns something else.
        WOKEN: ``wake`` was called since the last WOKEN, or a signal handler ran. It does not have the role.
        TIMED_OUT: it does not have the role.

        Raises what a signal handler raises; then it does not have the role either.
        """

    def wake(self) -> None:
        """End this waiter's present or next ``wait`` with WOKEN. Any thread. A system call only when it sleeps."""

    def owe(self) -> None:
        """The same, but it is roused by ``pay``, or by the ``wait`` of which it is the ``other``: then the thread that it needs
        (for the interpreter's lock) has gone to sleep. Should that not come, it is roused within 50 ms all the same.
        """

    def pay(self) -> None:
        """Rouse it, if it is owed that."""

    def leave(self) -> None:
        """Give the role up: to the one who began to wait last, of those who wait. Nothing if it has none."""

    def lend(self, grace_ns: int, /) -> None:
        """Give the role up for a while. A message that comes wakes the next reader at the earliest ``grace_ns`` from now.

        ``reclaim``, or another ``wait``, takes it back. Nothing if it does not have the role.
        """

    def reclaim(self) -> bool:
        """Take back what was lent. False: another reads, or will; this waiter has no role."""

    @property
    def reads(self) -> bool:
        """Whether it has the role (lent counts as not)."""

@final
class Ring(Generic[_Tag]):
    """One end of a ring pair. OSError, ValueError from opening; ``fd`` is used up in every case."""

    def __new__(cls, fd: int, doorbell: Doorbell[_Tag], tag: _Tag, max_message_bytes: int, /) -> Ring[_Tag]: ...
    def push(self, parts: Sequence[Part], /) -> int:
        """Send one message at once: SENT; or send nothing: FULL (no room for all of it now), BUSY (another thread is
        sending), TOO_LARGE. ChannelClosed when the peer or this side closed. BufferError for a part that is not contiguous."""

    def begin(self, size: int, /) -> int:
        """Become the one sender, for a message of ``size`` bytes that ``push_more`` sends: SENT, BUSY or TOO_LARGE."""

    def push_more(self, view: Part, offset: int, /) -> int:
        """Send what there is room for of ``view[offset:]``; how many bytes that was. ChannelClosed."""

    def finish(self) -> bool:
        """End what ``begin`` began. False: the message was sent in part, and the channel is closed for that."""

    def wait_for_room(self, needed: int, timeout_ns: int, /) -> bool:
        """Wait until so many bytes are free, or the channel ended. False: not yet. Raises what a signal handler raises."""

    def take(self) -> bytes | memoryview | None:
        """The next message, the caller's own: bytes up to BYTES_UP_TO, above that a writable memoryview of memory that
        nobody else has. None: nothing there. One thread at a time (the reader).

        ChannelClosed when the channel ended and all was taken; ProtocolViolation, once, when the peer lied.
        """

    def listen(self) -> None:
        """For a channel alone on its doorbell: let ``Doorbell.fileno`` say whether there is something to take."""

    def close(self) -> None:
        """Tell the peer, wake every thread that waits in this end, unmap when the last of them is out. Idempotent."""

    tag: _Tag
    @property
    def capacity(self) -> int: ...
    @property
    def why_closed(self) -> str: ...
    @property
    def buffered(self) -> bool: ...
    def untaken(self) -> list[bytes]:
        """How the messages begin (16 bytes) that the peer, which is gone, never took; empty as long as it is there."""

BYTES_UP_TO: Final[int]
MIN_CAPACITY: Final[int]  # of a lane, in bytes
MAX_CAPACITY: Final[int]

# What benchmarks compare with: two futex words and a message in a memfd of FLOOR_BYTES, without Python in between.
FLOOR_BYTES: Final[int]

def floor_answer(fd: int, size: int, spin_ns: int, /) -> None: ...
def floor_ask(fd: int, size: int, rounds: int, gap_ns: int, spin_ns: int, last: bool, /) -> bytearray:
    """The duration of each round trip, as native int64 nanoseconds. Waits for an answer for ever."""

# -- calls in one piece: ``_calls.c`` has the whole argument, ``guest._lines`` and ``guest._outlets`` its Python side

class Baton:
    """What ``guest._mailbox.Mailbox`` is made upon: its fields that C looks at."""

    _held: bool
    _closed: bool
    _holder: int | None
    _queue: deque[Any]
    _resumers: deque[Any]
    _idle: list[Any]
    _mutex: Lock

@final
class Patience:
    """As ``guest._chains.PythonPatience``."""

    def has(self) -> bool: ...
    def rewarded(self) -> None: ...
    def lost(self) -> None: ...

@final
class Desk:
    """Where the threads of a process wait for replies, and answer calls, without Python between message and call.

    Every attribute that is not read-only is to be set before it is used.
    """

    off: bool  # nothing goes this way any more
    others: int  # threads that wait for a reply and nothing else, the other way
    reader: int  # the identity of the thread that reads now; 0 for none
    loop: int  # the same of the event loop's thread, and
    mark: int  # what calls say that wait there (``Chains.loop_runs``)
    arrived: deque[tuple[Any, Any]]
    ear: Callable[[], Waiter | None]
    rest: Callable[[], None]
    service: Callable[[], str]
    context_get: Callable[[], Any]
    context_set: Callable[[Any], Any]
    context_type: type
    context_class: type
    life_class: type
    coroutine_class: type
    waiting_slowly: dict[int, Any]
    stuck: dict[int, Any]
    nowhere: object
    outside: Callable[[], Any] | None
    names: dict[Any, str]
    dropped: deque[Any]
    unended: list[bool]
    end_lines: Callable[[], None]
    after_call: Callable[[], None]
    answer: Callable[..., None]

    def __new__(cls, doorbell: Doorbell[Any], main: int, baton: Baton | None, /) -> Desk: ...
    @property
    def free(self) -> int: ...
    @property
    def serving(self) -> int:
        """Calls that are being answered this way."""

    @property
    def calls_in(self) -> int: ...
    @property
    def calls_out(self) -> int: ...
    @property
    def idle_since_ns(self) -> int: ...
    def work(self, worker: Any, ear: Waiter, owed: Waiter | None, /) -> bool:
        """Read and answer on an idle worker's thread. False: it was given work, or is to end. True: it has the baton, and
        others want it."""

    def answering(self) -> list[tuple[Any, int, int, Any, int]]:
        """Link, call id, session, life and chain of what is being answered this way."""

    def asking(self, chain: int, /) -> list[tuple[Any, int]]:
        """Link and call id of calls of that chain that wait for their reply this way, the latest first."""

    def depth(self, chain: int, /) -> int:
        """How many these are."""

    def offer(self, chain: int, call: object, blocked: int, /) -> bool:
        """Give a call to the latest thread that waits on its chain this way; False: there is none, or it has enough to do.

        ``blocked``: see ``Chains.offer``."""

    def waiting(self) -> list[tuple[int, int]]:
        """Chain and thread of those who wait this way."""

@final
class Line:
    """The calls of one ring that go this way."""

    open: bool  # calls may begin
    heard: bool  # calls may be answered
    write_request: Callable[..., Any]
    read_reply: Callable[..., Any]
    read_request: Callable[..., Any]
    write_reply: Callable[..., Any]
    peer_sessions: Any

    def __new__(
        cls, desk: Desk, ring: Ring[Any], link: Any, patience: Patience, codec: int, plain: bool, /
    ) -> Line: ...
    @property
    def in_flight(self) -> int: ...
    def next_id(self) -> int: ...
    def reply(self, frame: bytes | memoryview, /) -> bool:
        """Whether it was the reply to a call of this line, which has it now."""

    def end(self, reason: ChannelClosed, others: Mapping[int, ChannelClosed], /) -> None:
        """No call begins or is answered any more; those in flight hear why: by their number in ``others``, or ``reason``."""

    def hand_over(self, call_id: int, pending: dict[int, Any], ticket: object, /) -> list[Any] | None:
        """That call has the ticket from now on, in ``pending`` unless its outcome is there: the last of the list, behind calls
        of its chain. None: there is no such call."""

    def serves(self, method: int, module: str, name: str, /) -> None:
        """Calls of that entry point are calls of that function."""

    @property
    def ids(self) -> int:
        """The number of the next call."""

    def prepares(self, method: int, session: int, /) -> None:
        """What ``announce`` will say. Raises what writing a request of no arguments raises."""

    def announce(self) -> None:
        """Tell the peer that such a call may come at once: it wakes, goes the way of such a call without calling anything, and
        looks for it a moment. Nothing where that is not prepared, or cannot be said."""

@final
class Door:
    """Where one thread lays what any thread may take, by a name, in a single step."""

    def __new__(cls, names: dict[str, Any], taken: list[Any], /) -> Door:
        """``names``: texts of no class but str, and their numbers. What is taken is appended to ``taken``."""

    @property
    def waits(self) -> Any:
        """What lies there, or None."""

    def rings(self, timer: int, delay_ns: int, /) -> None:
        """A timerfd that is set whenever something is taken; -1 for none."""

    def lay(
        self, thing: object, live: object, number: int, announced: tuple[Line, ...], watched: tuple[Line, ...], /
    ) -> None:
        """Who takes it has ``live``, with its name. Before that, calls are announced; it is not to be had where a line is not
        open. Raises ValueError where something lies."""

    def withdraw(self) -> Any:
        """What lay there, or None."""

    def take(self, name: object, /) -> Any:
        """None: nothing lies there, the name is in use or is none, or a line is not open any more."""

@final
class Outlet:
    """Where the calls of a proxy go, by session."""

    def __new__(
        cls,
        method: int,
        slow: Callable[..., Any],
        written: Callable[..., Any],
        go_on: Callable[..., Any],
        finish: Callable[..., Any],
        nested: Callable[..., Any],
        give_up: Callable[..., Any],
        /,
    ) -> Outlet: ...
    @property
    def known(self) -> int: ...
    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], /) -> Any: ...
    def leads(self, session: int, line: Line, /) -> None: ...
    def forget(self) -> None: ...
