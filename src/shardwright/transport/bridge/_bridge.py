"""Bridge: one side of a stream of bytes that carries many streams into, or out of, a virtual machine.

Each stream joins a local descriptor here with one there. The node's side alone opens streams: a descriptor that arrives at a
stream that carries (``SCM_RIGHTS``) becomes a stream of its own, and its other end arrives there with the same byte. What the
guest's side says is believed no further than the protocol forces it to: it opens nothing, sends nothing beyond its credit, and
what it breaks is its own bridge.

Held in memory: per stream at most the window (what came and was not taken by the local reader), and towards the other side at
most ``_OUTBOX_BYTES`` and one piece. Where the other side takes nothing, nothing is read here.

Over 400 lines: the turn of one loop, and what each frame and each local event does to the one state that they share.
"""

from __future__ import annotations

import itertools
import os
import select
import time
from collections import deque
from collections.abc import Callable

from shardwright.errors import ChannelClosed, ProtocolViolation
from shardwright.transport.bridge._ends import far_end, near_end
from shardwright.transport.bridge._frames import (
    NUMBER,
    PIECE_BYTES,
    Frame,
    FrameParser,
    Greeting,
    Kind,
    Shape,
)
from shardwright.transport.bridge._stream import Stream

WINDOW_BYTES = 128 * 2**10
MOST_STREAMS = 1024
KEEP_ALIVE_S = 5.0
_SILENCES = 4  # so many times as long as the other side promised to speak, it may be silent
_OUTBOX_BYTES = 256 * 2**10
_READ_BYTES = 256 * 2**10
_PIECES = 64  # that one write takes
_EVENTS = 64  # of local ends, before the other side is looked at again
_GREETING_S = 300.0  # a guest boots meanwhile
_STANDSTILL_S = 2.0  # longer than a turn takes
FIRST = 1  # the stream that is there from the start


class Bridge:
    """One side. ``run`` serves on the thread that calls it, until the other side is gone; then all local ends are closed.

    ``first``: with it, this is the node's side, and the descriptor is what stream 1 joins; it is used up, as
    ``descriptor``, the stream of bytes, is. ``arrived``: in the guest, gets the end of stream 1.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        first: int | None = None,
        arrived: Callable[[int], None] | None = None,
        window: int = WINDOW_BYTES,
        most_streams: int = MOST_STREAMS,
        keep_alive_s: float = KEEP_ALIVE_S,
    ) -> None:
        os.set_blocking(descriptor, False)
        os.set_inheritable(descriptor, False)
        self._bytes = descriptor
        self._opens = first is not None
        self._arrived = arrived
        self._own = Greeting(self._opens, window, most_streams, int(keep_alive_s * 1000))
        self._peer: Greeting | None = None
        self._parser = FrameParser()
        self._streams: dict[int, Stream] = {}
        self._by_descriptor: dict[int, Stream] = {}
        self._loose: dict[int, int] = {}  # ends that are there and were not handed to anybody yet
        self._next = FIRST
        self._outbox: deque[memoryview] = deque()
        self._outbox_bytes = 0
        self._owing: set[int] = set()  # streams whose reader took something that the writer was not told of
        self._unpolled: set[int] = set()  # streams that poll tells nothing of, and that may have something to read
        self._all = select.epoll()
        self._ends = select.epoll()
        self._wants_ends = self._wants_to_write = False
        self._heard_s = self._spoke_s = self._turned_s = time.monotonic()
        self._why = ""
        self._all.register(self._bytes, select.EPOLLIN)
        self._send(self._own.encoded())
        if first is not None:
            self._open(first, generation=0)

    def __repr__(self) -> str:
        return f"<Bridge {'node' if self._opens else 'guest'} {len(self._streams)} streams {self._why or 'open'}>"

    @property
    def streams(self) -> int:
        """How many are open, the first included. From any thread."""
        return len(self._streams)

    def run(self) -> str:
        """Why it ended. Raises nothing of what the other side does."""
        try:
            while True:
                self._turn()
        except ChannelClosed as closed:  # ProtocolViolation is one
            self._why = closed.message
        except OSError as error:
            self._why = f"the stream of bytes broke: {error.strerror or error}"
        finally:
            self.close()
        return self._why

    def close(self) -> None:
        """Give up everything; idempotent. Not beside ``run``."""
        if self._bytes < 0:
            return
        self._why = self._why or "it was closed"
        for stream in self._streams.values():
            stream.close()
        for descriptor in self._loose.values():
            os.close(descriptor)
        self._streams.clear()
        self._loose.clear()
        self._ends.close()
        self._all.close()
        os.close(self._bytes)
        self._bytes = -1

    # -- one turn ----------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._tell_credits()
        self._write()
        roomy = self._outbox_bytes < _OUTBOX_BYTES and self._peer is not None
        self._want(ends=roomy, writing=bool(self._outbox))
        busy = roomy and any(self._may_pull(self._streams[number]) for number in self._unpolled)
        patience_s = 0.0 if busy else self._patience_s()
        events = self._all.poll(patience_s)
        now = time.monotonic()
        if now - self._turned_s > patience_s + _STANDSTILL_S:
            self._heard_s = now  # this process stood still: what the other side did meanwhile says nothing
        self._turned_s = now
        for descriptor, event in events:
            if descriptor == self._bytes and event & ~select.EPOLLOUT:
                self._read()
        if roomy:
            for descriptor, event in self._ends.poll(0, _EVENTS):
                if (found := self._by_descriptor.get(descriptor)) is not None:
                    self._local(found, event)
            for number in list(self._unpolled):
                if (found := self._streams.get(number)) is not None and self._may_pull(found):
                    self._pull(found)
        self._keep_alive()

    def _want(self, *, ends: bool, writing: bool) -> None:
        if ends is not self._wants_ends:
            self._wants_ends = ends
            if ends:
                self._all.register(self._ends.fileno(), select.EPOLLIN)
            else:
                self._all.unregister(self._ends.fileno())
        if writing is not self._wants_to_write:
            self._wants_to_write = writing
            self._all.modify(self._bytes, select.EPOLLIN | (select.EPOLLOUT if writing else 0))

    def _patience_s(self) -> float:
        now = time.monotonic()
        speak_s = self._spoke_s + self._own.keep_alive_ms / 1000 - now
        return max(0.0, min(speak_s, self._silent_until_s() - now)) + 0.001

    def _silent_until_s(self) -> float:
        allowed_s = _GREETING_S if self._peer is None else self._peer.keep_alive_ms / 1000 * _SILENCES
        return self._heard_s + allowed_s

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if now >= self._silent_until_s():
            raise ChannelClosed("the other side of the bridge has been silent for too long")
        if not self._outbox and now >= self._spoke_s + self._own.keep_alive_ms / 1000:
            self._send(Frame(Kind.ALIVE).encoded())

    # -- the stream of bytes -----------------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        self._outbox.append(memoryview(data))
        self._outbox_bytes += len(data)

    def _write(self) -> None:
        while self._outbox:
            try:
                count = os.writev(self._bytes, list(itertools.islice(self._outbox, _PIECES)))
            except BlockingIOError:
                return
            self._spoke_s = time.monotonic()
            self._outbox_bytes -= count
            while count:
                head = self._outbox[0]
                if count < len(head):
                    self._outbox[0] = head[count:]
                    break
                count -= len(head)
                self._outbox.popleft()

    def _read(self) -> None:
        try:
            data = os.read(self._bytes, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise ChannelClosed("the other side of the bridge is gone")
        self._heard_s = time.monotonic()
        for frame in self._parser.feed(data):
            self._heed(frame)

    def _heed(self, frame: Frame) -> None:
        """Raises ProtocolViolation."""
        if frame.kind is Kind.HELLO:
            if self._peer is not None:
                raise ProtocolViolation("the other side of the bridge began anew")
            self._peer = Greeting.decoded(frame.payload)
            if self._peer.opens is self._opens:
                raise ProtocolViolation("both sides of the bridge are of the same kind")
            for each in self._streams.values():
                each.credit = self._peer.window
                self._poll(each)
            return
        if self._peer is None:
            raise ProtocolViolation("the other side of the bridge did not greet")
        if frame.kind is Kind.ALIVE:
            return
        if frame.kind is Kind.OPEN:
            self._opened(frame)
            return
        stream = self._streams.get(frame.stream)
        if stream is None:
            if frame.stream < self._next and frame.kind in (Kind.CREDIT, Kind.STOP):
                return  # it crossed our word that this stream is over
            raise ProtocolViolation(f"a frame {frame.kind.name} of stream {frame.stream}, which is not open")
        if frame.kind is Kind.DATA:
            self._came(stream, frame)
        elif frame.kind is Kind.CREDIT:
            (more,) = NUMBER.unpack(frame.payload)
            stream.credit += more
            if not more or stream.credit > self._peer.window:
                raise ProtocolViolation(f"credit for stream {frame.stream} that was not lent")
            self._poll(stream)
        elif frame.kind is Kind.END:
            if stream.got_end:
                raise ProtocolViolation(f"stream {frame.stream} ends twice")
            stream.got_end = True  # it may answer our own word that nobody reads: what is left here still goes there
            self._settle(stream)
        else:
            self._stop_sending(stream)
            self._settle(stream)

    # -- opening -----------------------------------------------------------------------------------------------

    def _open(self, descriptor: int, *, generation: int) -> int:
        """The number of a new stream for a descriptor, which is used up. Node's side."""
        number = self._next
        self._next += 1
        full = len(self._streams) >= min(self._own.most_streams, self._peer.most_streams if self._peer else 2**20)
        found = None
        if full:
            os.close(descriptor)
        else:
            # what the first stream brings comes from who made this bridge; what those bring, from the node
            found = near_end(descriptor, carries=generation < 2)
        shape = Shape.FROM_GUEST if found is None else found[1]
        self._send(Frame(Kind.OPEN, number, bytes((shape,))).encoded())
        stream = Stream(number, found[0] if found else None, shape, self._own, self._peer, opened_here=True)
        stream.generation = generation
        self._enter(stream)
        if found is None:
            self._stop(stream)
        return number

    def _opened(self, frame: Frame) -> None:
        """Guest's side. Raises ProtocolViolation."""
        if self._opens:
            raise ProtocolViolation("the guest opens a stream")
        shape = frame.payload[0]
        if frame.stream != self._next or shape not in tuple(Shape) or len(self._streams) >= self._own.most_streams:
            raise ProtocolViolation(f"stream {frame.stream} cannot be opened")
        self._next += 1
        try:
            end, theirs = far_end(Shape(shape))
        except OSError:  # too many open files: the stream is over before it began
            end, theirs = None, os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        stream = Stream(frame.stream, end, Shape(shape), self._own, self._peer, opened_here=False)
        self._enter(stream)
        if end is None:
            self._stop(stream)
            self._end(stream)
            self._settle(stream)
        if frame.stream == FIRST and self._arrived is not None:
            self._arrived(theirs)
        else:
            self._loose[frame.stream] = theirs

    def _enter(self, stream: Stream) -> None:
        self._streams[stream.number] = stream
        if stream.end is not None:
            self._by_descriptor[stream.end.descriptor] = stream
        self._poll(stream)

    # -- from a local end to the other side --------------------------------------------------------------------

    def _may_pull(self, stream: Stream) -> bool:
        return stream.end is not None and not stream.closed and not stream.sent_end and stream.credit > 0

    def _local(self, stream: Stream, event: int) -> None:
        if event & select.EPOLLOUT:
            self._flush(stream)
        over = event & (select.EPOLLHUP | select.EPOLLERR)
        if over and stream.end is not None and not stream.closed:
            if stream.end.writes:
                self._stop(stream)  # nobody reads there any more
            if stream.end.reads and not stream.sent_end:
                stream.hung = True
                self._unpolled.add(stream.number)
            self._poll(stream)
        elif event & select.EPOLLIN and self._may_pull(stream):
            self._pull(stream)
        self._settle(stream)

    def _pull(self, stream: Stream) -> None:
        """Take a piece of what lies at the local end, as far as its credit goes."""
        assert stream.end is not None
        try:
            data, descriptors = stream.end.read(min(PIECE_BYTES, stream.credit))
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._end(stream)
            if stream.shape is Shape.SOCKET:
                self._stop(stream)  # half of a conversation is none
            self._settle(stream)
            return
        stream.credit -= len(data)
        carried = tuple(self._open(each, generation=stream.generation + 1) for each in descriptors)
        self._send(Frame(Kind.DATA, stream.number, data, carried).encoded())
        if not stream.credit:
            self._poll(stream)

    def _end(self, stream: Stream) -> None:
        if not stream.sent_end:
            stream.sent_end = True
            self._unpolled.discard(stream.number)
            self._send(Frame(Kind.END, stream.number).encoded())

    def _stop_sending(self, stream: Stream) -> None:
        """Nobody takes there what we send any more."""
        if stream.sent_end:
            return
        self._end(stream)
        if stream.end is not None:
            stream.end.refuse()
        self._poll(stream)

    # -- from the other side to a local end --------------------------------------------------------------------

    def _came(self, stream: Stream, frame: Frame) -> None:
        """Raises ProtocolViolation."""
        stream.allowed -= len(frame.payload)
        if stream.got_end or stream.allowed < 0:
            raise ProtocolViolation(f"stream {stream.number} sends more than it may")
        if frame.carried and self._opens:
            raise ProtocolViolation("the guest passes descriptors")
        if any(number not in self._loose for number in frame.carried):
            raise ProtocolViolation(f"stream {stream.number} carries a stream that is not there")
        descriptors = [self._loose.pop(number) for number in dict.fromkeys(frame.carried)]
        if stream.told_stop:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        stream.put(frame.payload, descriptors)
        self._flush(stream)

    def _flush(self, stream: Stream) -> None:
        """Write what waits for the local reader."""
        waited = bool(stream.waiting)
        try:
            written = stream.write()
        except OSError:
            self._stop(stream)
        else:
            stream.owed += written
            if stream.owed >= self._own.window // 4 and not stream.got_end:
                self._owing.add(stream.number)
        if waited or stream.waiting:
            self._poll(stream)
            self._settle(stream)

    def _tell_credits(self) -> None:
        if self._outbox_bytes >= _OUTBOX_BYTES:
            return
        for number in self._owing:
            stream = self._streams.get(number)
            if stream is not None and not stream.got_end and not stream.told_stop:
                self._send(Frame(Kind.CREDIT, number, NUMBER.pack(stream.owed)).encoded())
                stream.allowed += stream.owed
                stream.owed = 0
        self._owing.clear()

    def _stop(self, stream: Stream) -> None:
        """What still comes for it, nobody will read."""
        stream.drop()
        if not stream.told_stop:
            stream.told_stop = True
            if not stream.got_end:
                self._send(Frame(Kind.STOP, stream.number).encoded())

    # -- ends --------------------------------------------------------------------------------------------------

    def _settle(self, stream: Stream) -> None:
        """Close what is over: both ends were said, and what came was taken."""
        if stream.closed or not (stream.sent_end and stream.got_end) or stream.waiting:
            return
        if stream.end is not None:
            if stream.polled:
                self._ends.unregister(stream.end.descriptor)
            del self._by_descriptor[stream.end.descriptor]
        self._unpolled.discard(stream.number)
        self._owing.discard(stream.number)
        del self._streams[stream.number]
        stream.close()

    def _poll(self, stream: Stream) -> None:
        """Have its local end polled for what can be done with it now."""
        end = stream.end
        if end is None or stream.closed or stream.always:
            return
        wanted = 0
        if end.reads and not stream.sent_end and stream.credit > 0:
            wanted |= select.EPOLLIN
        if stream.waiting:
            wanted |= select.EPOLLOUT
        # a hang-up is told whether it is asked for or not, again and again: once it is known, nothing is asked any more
        polled = not stream.hung and (bool(wanted) or not stream.told_stop)
        try:
            if not polled:
                if stream.polled:
                    self._ends.unregister(end.descriptor)
            elif not stream.polled:
                self._ends.register(end.descriptor, wanted)
            elif wanted != stream.polled_for:
                self._ends.modify(end.descriptor, wanted)
        except PermissionError:  # a file, or /dev/null: always ready
            stream.always = True
            if end.reads:
                self._unpolled.add(stream.number)
            return
        stream.polled, stream.polled_for = polled, wanted
