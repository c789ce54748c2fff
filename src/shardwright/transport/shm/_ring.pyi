"""The C extension. ``shardwright.transport.shm`` says how to use it; ``_channel`` gives the whole picture."""

from collections.abc import Sequence
from typing import Final, Generic, TypeVar, final

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

BYTES_UP_TO: Final[int]
MIN_CAPACITY: Final[int]  # of a lane, in bytes
MAX_CAPACITY: Final[int]

# What benchmarks compare with: two futex words and a message in a memfd of FLOOR_BYTES, without Python in between.
FLOOR_BYTES: Final[int]

def floor_answer(fd: int, size: int, spin_ns: int, /) -> None: ...
def floor_ask(fd: int, size: int, rounds: int, gap_ns: int, spin_ns: int, last: bool, /) -> bytearray:
    """The duration of each round trip, as native int64 nanoseconds. Waits for an answer for ever."""
