"""ApiServer: a running node answers other terminals, over a Unix socket of its user's.

It trusts nobody's patience or good sense: the kernel says who is at the other end, lines, connections, calls and
waiting are bounded, and a follower that reads too slowly loses lines and is told how many. Calls run on threads, never
on the node's loop.

Shards, and what they start, are refused: user code has no business with the node's controls. At isolation `process`
shards are processes of the same user, so that is a guard against accidents, not a wall: code that means harm can have
another process of this user ask for it.

Over 400 lines long: the verbs of one conversation and the bounds that they share are read together.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from shardwright.errors import (
    CallError,
    DeadlineExceeded,
    MessageTooLarge,
    NodeError,
    NotPermitted,
    Overloaded,
    RemoteError,
)
from shardwright.guest import CallContext
from shardwright.model.ids import SessionNumber
from shardwright.node._api_lines import END, Follower, event_object, gone, line_of, log_object, send
from shardwright.node._api_messages import (
    MAX_ANSWER,
    MAX_LINE,
    AskAttach,
    AskCall,
    AskDecisions,
    AskEvents,
    AskHealth,
    AskLogs,
    AskMetrics,
    AskPs,
    AskReload,
    AskResize,
    AskSessions,
    AskStack,
    AskStop,
    Request,
    Unusable,
    answer_line,
    decode_request,
    error_line,
)
from shardwright.node._api_sockets import descends_from, in_control_group, listen, peer
from shardwright.node._api_values import TooMuch, from_json, readable
from shardwright.node._attach import attach, targets
from shardwright.node._logs import LogLine, matches
from shardwright.node._resize import nearest, resize
from shardwright.node._session_names import name_problem
from shardwright.telemetry import RecordedEvent

if TYPE_CHECKING:
    from shardwright.node._running import Running

MAX_CONNECTIONS = 64
MAX_FOLLOWERS = 32
MAX_CALLS = 16
MAX_ITEMS = 10_000  # of a generator that is called from another terminal
FOLLOWER_QUEUE = 2000  # lines
IDLE_S = 300.0
GOODBYE_S = 5.0  # a terminal whose debugger is gone hangs up within that
FIRST_REQUEST_S = 10.0
ANSWER_S = 60.0  # a client that takes longer to read its answer is dropped
MAX_TIMEOUT_S = 7 * 86400.0
MAX_REFUSALS = 100  # of shards, in the journal
KINDS = (
    "abort", "api", "attach", "denied", "ended", "environment", "expire", "failure", "isolation", "journal", "launch",
    "lease", "limits", "loss", "move", "node", "note", "pause", "pin", "queue", "ready", "refuse", "reload", "resize",
    "return", "scale", "stop", "swept", "template kept", "template lost", "template renewed", "unbind", "unpause",
)  # fmt: skip

T = TypeVar("T")


class ApiServer:
    """Serves one running node. Everything but calls happens on the node's loop."""

    def __init__(self, running: Running, folder: Path) -> None:
        self._running = running
        self._folder = folder
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._connections: dict[asyncio.Task[None], socket.socket | None] = {}
        self._silent: dict[asyncio.Task[None], None] = {}  # who asks nothing now, longest first
        self._followers = 0
        self._calls = 0
        self._numbers = 0
        self._refusals = 0
        self.path: Path | None = None

    def __repr__(self) -> str:
        return f"<ApiServer at {self.path}, {len(self._connections)} connections>"

    def open(self) -> None:
        """Listen. Raises NodeError where no socket can be had."""
        self._listener, self.path = listen(self._folder, self._running.manifest.app)
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """Stop listening, remove the socket, end every conversation. Idempotent."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(set(self._connections), timeout=5)

    # -- connections -------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(4):  # then those that are here already have their turn
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # out of descriptors: try again later, without spinning
                self._loop.remove_reader(self._listener)
                self._loop.call_later(0.5, self._resume)
                return
            connection.setblocking(False)
            why = self._objection(connection)
            if why or not self._room():
                why = why or "too many connections"
                with contextlib.suppress(OSError):
                    connection.send(error_line(NodeError(why)), socket.MSG_NOSIGNAL)
                connection.close()
                continue
            task = self._loop.create_task(self._serve(connection), name="api connection")
            self._connections[task] = connection
            task.add_done_callback(self._ended)

    def _objection(self, connection: socket.socket) -> str:
        """Why whoever is at the other end is not answered; else empty."""
        try:
            pid, uid = peer(connection)
        except OSError:
            return "the kernel does not say who asks"
        if uid not in (os.geteuid(), 0):
            return "this node belongs to another user"
        keeper = self._running.keeper_pid
        if not keeper or not pid:
            return ""
        ours = {keeper, *(port.pid for port in self._running.core.ports().values())} - {os.getpid()}
        if not descends_from(pid, ours) and not in_control_group(pid, f"shardwright-{keeper}-"):
            return ""
        if self._refusals < MAX_REFUSALS:
            self._refusals += 1
            reason = f"process {pid} of a shard wanted to give the node orders"
            self._running.core.record("refuse", reason, inputs=(("pid", pid), ("uid", uid)))
        return "shards, and what they start, may not give the node orders"

    def _room(self) -> bool:
        """Whether one more may come in; if need be, the one that has been silent longest goes."""
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        if not self._silent:
            return False
        longest = next(iter(self._silent))
        del self._silent[longest]
        longest.cancel()
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._silent.pop(task, None)
        connection = self._connections.pop(task)
        if connection is not None:  # cancelled before it began
            connection.close()

    def _resume(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None  # ours to close from here on
        reader = asyncio.StreamReader(limit=MAX_LINE, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection)
        writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
        wait_s = FIRST_REQUEST_S
        try:
            while True:
                self._silent[task] = None
                try:
                    line = await asyncio.wait_for(reader.readuntil(b"\n"), wait_s)
                except asyncio.LimitOverrunError:
                    await _write(writer, error_line(MessageTooLarge(f"a request may have {MAX_LINE} bytes at most")))
                    return
                except (TimeoutError, asyncio.IncompleteReadError):
                    return
                self._silent.pop(task, None)
                wait_s = IDLE_S
                await self._one(line, reader, writer)
        except (TimeoutError, OSError):
            pass  # it went away, or does not read what it asked for
        finally:
            transport.abort()

    async def _one(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = decode_request(line)
        except ValueError as error:
            await _write(writer, error_line(CallError(str(error), outcome="not started"), bad_input=True))
            return
        if isinstance(request, AskAttach):
            await self._attach(request, reader, writer)
            return
        if isinstance(request, (AskLogs, AskEvents)):
            try:
                self._known_shard(request)
            except Unusable as error:
                await _write(writer, error_line(error))
                return
            await self._lines(request, reader, writer)
            return
        try:
            answer = await self._perform(request)
        except Exception as error:  # of ours or of user code: the client's to read
            answer = error_line(error)
        await _write(writer, answer)
        if isinstance(request, AskStop):
            self._running.on_stop()

    # -- verbs -------------------------------------------------------------------------------------------------

    async def _perform(self, request: Request) -> bytes:
        match request:
            case AskCall():
                return await self._call(request)
            case AskPs(pool=True):
                return answer_line(msgspec.to_builtins({"pool": self._running.core.shards.pool_costs()}))
            case AskPs():
                return answer_line(msgspec.to_builtins({"shards": await self._running.status()}))
            case AskSessions():
                return answer_line({"sessions": self._sessions()})
            case AskDecisions():
                journal = self._running.core.journal
                if request.number is not None:
                    return answer_line({"decisions": [journal.find(request.number)._asdict()]})
                rows = journal.tail(max(1, min(request.count, 10_000)), kind=request.kind)
                if not rows and request.kind is not None and request.kind not in KINDS:
                    raise Unusable(
                        f"there are no decisions of kind {request.kind!r}", remedy=nearest(request.kind, KINDS)
                    )
                return answer_line({"decisions": [row._asdict() for row in rows]})
            case AskResize():
                applied = await resize(self._running.core, request.target, request.guarantee, request.ceiling)
                return answer_line(msgspec.to_builtins({"resized": applied}))
            case AskMetrics():
                told = await self._running.metrics(request.accept)
                return answer_line({"text": told.body.decode(), "content_type": told.content_type})
            case AskHealth():
                return answer_line(msgspec.to_builtins(self._running.health()))
            case AskStack():
                return answer_line({"shards": await self._stacks(request.shard)})
            case AskReload():
                return answer_line(msgspec.to_builtins(await self._running.reload()))
            case AskStop():
                return answer_line({"stopping": True})
            case _:
                return answer_line(self._info())

    async def _stacks(self, shard: str) -> list[dict[str, Any]]:
        core = self._running.core
        looks = (core.questions.stacks(port, core.plan.root) for port in targets(core, shard))
        return list(await asyncio.gather(*looks))

    async def _attach(self, request: AskAttach, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Ends the conversation, unless it never became one with a debugger."""
        try:
            await attach(self._running.core, request, reader, writer)
        except NodeError as error:
            await _write(writer, error_line(error))
            return
        writer.write_eof()
        await asyncio.wait_for(reader.read(), GOODBYE_S)
        raise ConnectionResetError("the terminal has gone")

    def _info(self) -> dict[str, Any]:
        running = self._running
        return {
            "app": running.manifest.app,
            "pid": os.getpid(),
            "manifest": os.path.realpath(running.manifest.path),
            "components": [str(d.component) for d in running.plan.definitions],
            "entry_points": {
                str(d.component): [e.name for e in d.entry_points] for d in running.plan.definitions
            },
            "inproc": running.options.inproc,
            "urls": list(running.ingress.urls) if running.ingress is not None else [],
            "journal": str(running.core.journal.path),
            "python": sys.version.split()[0],
            "socket": str(self.path),
        }  # fmt: skip

    def _sessions(self) -> list[dict[str, Any]]:
        core = self._running.core
        shards: dict[int, list[str]] = {}
        for record in core.records():
            for number in record.sessions:
                shards.setdefault(number, []).append(record.id)
        return [
            {"name": s.name, "number": s.number, "begun_s": s.begun_s, "shards": sorted(shards.get(s.number, []))}
            for s in core.sessions()
        ]

    # -- calls -------------------------------------------------------------------------------------------------

    async def _call(self, request: AskCall) -> bytes:
        core, client = self._running.core, self._running.onlooker
        try:
            if not 0 < request.timeout_s <= MAX_TIMEOUT_S or math.isnan(request.timeout_s):
                raise CallError(f"timeout_s must be between 0 and {MAX_TIMEOUT_S:g}", outcome="not started")
            if request.session is not None:
                _check_session_name(request.session)
            definition, _ = client.entry(request.target)
        except (CallError, NotPermitted) as error:
            return error_line(error, bad_input=True)
        if self._calls >= MAX_CALLS:
            raise Overloaded(f"{MAX_CALLS} calls from other terminals run already", remedy="try again later")
        args = tuple(from_json(value) for value in request.args)
        kwargs = {name: from_json(value) for name, value in request.kwargs.items()}
        self._calls += 1
        try:
            end_s = self._loop.time() + request.timeout_s
            session = next((s for s in core.sessions() if s.name == request.session), None)
            own = session is None
            if session is None:
                self._numbers += 1
                name = request.session or f"call-{os.getpid()}-{self._numbers}"
                wait_s = min(10.0, request.timeout_s)
                session = await core.begin_session(name, {}, components=[definition.component], timeout_s=wait_s)
            context = CallContext(session=session.number, session_name=session.name, trace_id=os.urandom(16))
            context = context.within(max(0.001, end_s - self._loop.time()))
            try:
                end_of_making_s = time.monotonic() + (end_s - self._loop.time())
                return await self._on_thread(
                    lambda: _made(_whole(client.call(context, request.target, args, kwargs)), end_of_making_s)
                )
            finally:
                if own:
                    self._end(session.number)
        finally:
            self._calls -= 1

    def _end(self, number: SessionNumber) -> None:
        self._running.onlooker.session_ended(number)
        self._running.core.end_session(number)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Run on a thread of its own: daemonic, for a call that never ends must not keep the process."""
        future: asyncio.Future[T] = self._loop.create_future()

        def done(result: T | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = work()
            except BaseException as error:
                failure = error
                if isinstance(error, StopIteration) or not isinstance(error, Exception):
                    # neither a future nor the node's loop may see these
                    failure = RemoteError(f"it raised {type(error).__name__}: {error}", type_name=type(error).__name__)
            with contextlib.suppress(RuntimeError):  # the loop has closed
                self._loop.call_soon_threadsafe(done, result, failure)

        threading.Thread(target=run, name="shardwright-api-call", daemon=True).start()
        return await future

    # -- lines -------------------------------------------------------------------------------------------------

    async def _lines(
        self, request: AskLogs | AskEvents, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        kept = self._kept(request)
        if request.tail is not None:
            kept = kept[-request.tail :] if request.tail > 0 else []
        if not request.follow:
            for line in kept:
                await _write(writer, line_of(line))
            await _write(writer, END)
            return
        if self._followers >= MAX_FOLLOWERS:
            await _write(writer, error_line(Overloaded(f"{MAX_FOLLOWERS} follow already", remedy="end one of them")))
            return
        follower = Follower(FOLLOWER_QUEUE, kept)
        forget = self._subscribe(request, follower)
        self._followers += 1
        left = self._loop.create_task(gone(reader))
        sending = self._loop.create_task(send(follower, writer))
        try:
            await asyncio.wait({left, sending}, return_when=asyncio.FIRST_COMPLETED)
            raise ConnectionResetError("the follower has gone")
        except asyncio.CancelledError:
            writer.write(END)  # the node stops
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.2)
            raise
        finally:
            self._followers -= 1
            forget()
            for task in (left, sending):
                task.cancel()
            await asyncio.gather(left, sending, return_exceptions=True)

    def _known_shard(self, request: AskLogs | AskEvents) -> None:
        """Raises Unusable for lines of a shard that is not there, and of which nothing is kept."""
        if not isinstance(request, AskLogs) or not request.shard:
            return
        running = self._running
        names = {str(d.component) for d in running.plan.definitions} | {str(r.id) for r in running.core.records()}
        if request.shard not in names and not running.core.logs.since(0, shard=request.shard):
            raise Unusable(f"there is no shard or component {request.shard!r}", remedy=nearest(request.shard, names))

    def _kept(self, request: AskLogs | AskEvents) -> list[dict[str, Any]]:
        if isinstance(request, AskLogs):
            self._running.core.logs.drain()
            lines = self._running.core.logs.since(
                request.since, shard=request.shard, session=request.session, trace=request.trace
            )
            return [log_object(line) for line in lines]
        return [event_object(recorded) for recorded in self._running.events.since(request.since)]

    def _subscribe(self, request: AskLogs | AskEvents, follower: Follower) -> Callable[[], None]:
        if isinstance(request, AskLogs):

            def heard(line: LogLine) -> None:
                if matches(line, request.shard, request.session, request.trace):
                    follower.put(log_object(line))

            return self._running.core.logs.subscribe(heard)

        def happened(recorded: RecordedEvent) -> None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(follower.put, event_object(recorded))

        return self._running.events.subscribe(happened)


def _check_session_name(name: str) -> None:
    """Raises CallError."""
    if problem := name_problem(name):
        raise CallError(problem, outcome="not started")


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await asyncio.wait_for(writer.drain(), ANSWER_S)


def _whole(result: Any) -> Any:
    """What a call gave; of a generator all that it makes, as a list. Raises CallError where that is beyond measure."""
    if not isinstance(result, GeneratorType):
        return result
    items = list(itertools.islice(result, MAX_ITEMS + 1))
    result.close()
    if len(items) > MAX_ITEMS:
        raise CallError(
            f"the generator made more than {MAX_ITEMS} items",
            outcome="failed",
            remedy="call it from a program, which may leave its loop",
        )
    return items


def _made(result: Any, end_s: float) -> bytes:
    """The answer, made on the thread of the call, for results may be large; by then, on the monotonic clock."""
    try:
        line = answer_line({"value": readable(result, MAX_ANSWER, end_s), "type": type(result).__qualname__})
    except TooMuch:
        line = b""
    except TimeoutError:
        raise DeadlineExceeded("the call ran; its result could not be written in time", outcome="failed") from None
    if not line or len(line) > MAX_ANSWER:
        raise MessageTooLarge(
            f"the call ran; its result makes more than {MAX_ANSWER:,} bytes of JSON", outcome="failed"
        )
    return line
