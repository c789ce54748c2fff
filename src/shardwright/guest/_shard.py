"""One shard in a process of its own: its control conversation with the node, and its end."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from shardwright import errors
from shardwright.contracts.transport import Transport
from shardwright.errors import CallError, ChannelClosed, Overloaded, ShardLost, ShardwrightError
from shardwright.guest._context import CallContext, current_call
from shardwright.guest._control import ControlSocket
from shardwright.guest._control_messages import (
    Accept,
    AskCounts,
    AskLoad,
    AskStacks,
    Attach,
    Because,
    Bind,
    Bound,
    BreakIn,
    Detach,
    Doubt,
    Finished,
    Forget,
    Load,
    Note,
    Offer,
    Retire,
    RunMain,
    SessionBegins,
    SessionEnds,
    StacksTo,
    Stop,
    Unbind,
    Unsaid,
    Why,
)
from shardwright.guest._debug import Debugging
from shardwright.guest._ends import exit_of, flush_at_exit, uncaught
from shardwright.guest._frames import note_shards
from shardwright.guest._hubs import RINGS, transport_of
from shardwright.guest._link import Link
from shardwright.guest._router import WHY_PATIENCE_S, Route
from shardwright.guest._runtime import Runtime, peer_of
from shardwright.guest._service import serves
from shardwright.guest._stacks import stacks, write_stacks_to
from shardwright.guest._testing import Patch
from shardwright.guest._when_imported import when_imported
from shardwright.model.endpoint import Endpoint, Peer
from shardwright.model.ids import ComponentName, SessionNumber, ShardId

EXIT_NODE_GONE = 70
EXIT_DEFECT = 71  # what the node said could not be done, and it would count on it


class Control(Protocol):
    """Where a shard's messages to the node go."""

    def send(self, message: Any) -> None:
        """Raises ChannelClosed."""
        ...


class ControlBinder:
    """Asks the node for bindings."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._mutex = threading.Lock()
        self._next = 1
        self._asked: dict[int, tuple[SimpleQueue[Any], list[Link]]] = {}
        self._whys: dict[int, SimpleQueue[Any]] = {}
        self._reasons: dict[int, str] = {}  # why a link of an answer could not be made

    def bind(self, route: Route, context: CallContext, lost: Sequence[ShardId] = ()) -> Sequence[Link]:
        answer: SimpleQueue[Any] = SimpleQueue()
        links: list[Link] = []
        with self._mutex:
            request = self._next
            self._next += 1
            self._asked[request] = (answer, links)
        try:
            self._control.send(Bind(request, route.component, context.session, route.key, route.shard, tuple(lost)))
        except ChannelClosed as gone:
            with self._mutex:
                self._asked.pop(request, None)
            raise ShardLost(f"the node is gone: {gone}", outcome="not started") from None
        bound: Bound | None = answer.get()
        if bound is None:
            raise ShardLost("the node is gone", outcome="not started")
        with self._mutex:
            reason = self._reasons.pop(request, "")
        if not links and reason:
            raise CallError(reason, outcome="not started")
        if not links and (bound.error or route.key is None or route.shard is None):
            raise refusal(bound)
        return links

    def release(self, route: Route, link: Link) -> None:
        try:
            self._control.send(Unbind(route.component, link.peer.shard))
        except ChannelClosed:
            pass
        link.close()

    def why(self, peer: Peer) -> str:
        answer: SimpleQueue[Any] = SimpleQueue()
        with self._mutex:
            request = self._next
            self._next += 1
            self._whys[request] = answer
        try:
            self._control.send(Why(request, peer.component, peer.shard))
            return str(answer.get(timeout=WHY_PATIENCE_S))
        except (ChannelClosed, Empty):
            return ""
        finally:
            with self._mutex:
                self._whys.pop(request, None)

    def told_why(self, because: Because) -> None:
        with self._mutex:
            answer = self._whys.get(because.request)
        if answer is not None:
            answer.put(because.reason)

    def failed(self, request: int, reason: str) -> None:
        """A link of the answer could not be made; whoever asked is told so, if it was the only one."""
        with self._mutex:
            asked = self._asked.get(request)
            if asked is not None:
                self._reasons[request] = reason

    def offered(self, request: int, link: Link) -> None:
        asked = self._asked.get(request)
        if asked is None:
            link.close()
        else:
            asked[1].append(link)

    def answered(self, bound: Bound) -> None:
        with self._mutex:
            asked = self._asked.pop(bound.request, None)
        if asked is not None:
            asked[0].put(bound)

    def node_gone(self) -> None:
        with self._mutex:
            asked, self._asked = self._asked, {}
        for answer, _ in asked.values():
            answer.put(None)


def refusal(bound: Bound) -> ShardwrightError:
    """The error that the node's answer stands for."""
    for name in errors.__all__:
        cls = getattr(errors, name)
        if isinstance(cls, type) and issubclass(cls, ShardwrightError) and cls.code == bound.code:
            if issubclass(cls, CallError):
                outcome: Any = bound.outcome
                return cls(bound.error, outcome=outcome, remedy=bound.remedy)
            return cls(bound.error, remedy=bound.remedy)
    return CallError(bound.error, outcome="not started", remedy=bound.remedy)


PYTHONS_SWITCH_S = 0.005
SWITCH_S = 0.0005
"""For so long a thread that computes keeps the interpreter from one that has a call to read, to run or to answer: each
call may wait so long two or three times (decision 0037)."""


class Shard:
    """The life of a shard's process from Enter to its end. Made before a fork, it costs its forks nothing."""

    def __init__(self, runtime: Runtime, transports: Mapping[str, Transport]) -> None:
        self.runtime = runtime
        self.control: ControlSocket
        self.binder: ControlBinder
        self.transports = dict(transports)
        when_imported("asyncio", self._make_loops_polite)
        self._main: SimpleQueue[RunMain | None] = SimpleQueue()
        self._stopping = False
        self._debugging: Debugging

    def _make_loops_polite(self) -> None:
        try:
            from shardwright.guest import _async_calls, _loop  # for the forks of a template, too
        except AttributeError:  # a module of the application's, of that name
            return
        del _async_calls
        _loop.install_policy(lambda: self.runtime.mailbox)

    def enter(self, control: ControlSocket, shard: ShardId, secrets: Mapping[str, str], *, rings: bool = False) -> None:
        """Become ``shard``: secrets into the environment, threads started, messages of the node heard."""
        self.control = control
        self.binder = ControlBinder(control)
        if secrets:
            os.environ.update(secrets)
            self.runtime.secrets = tuple(filter(None, secrets.values()))
        if sys.getswitchinterval() == PYTHONS_SWITCH_S:  # else the program has chosen one
            sys.setswitchinterval(SWITCH_S)
        runtime = self.runtime
        own = transport_of(runtime.activate(shard, self.binder, rings=rings))
        if own is not None:
            self.transports[RINGS] = own
        self._debugging = Debugging(runtime.plan, runtime.component, shard, self._send, self.note)
        self._debugging.install_hook()
        # threading.Thread.start would wait until it runs, and there is no time to lose
        _thread.start_new_thread(self._listen, ())

    def serve(self) -> int:
        """Serve until told to stop; the exit status. Runs on the main thread, which runs ``app.main`` where asked to."""
        while True:
            job = self._main.get()
            if job is None:
                return 0
            self._send(run_program(self.runtime, job.target, SessionNumber(job.session)))

    def _listen(self) -> None:
        """The control thread. It ends with the process: a shard that does not hear the node must not go on."""
        threading.current_thread().name = f"{self.runtime.shard}-control"
        serves("the conversation with the node")
        status = EXIT_DEFECT
        try:
            while True:
                try:
                    message, descriptors = self.control.receive()
                except ChannelClosed:
                    status = EXIT_NODE_GONE
                    break
                try:
                    self._obey(message, descriptors)
                except Exception as defect:
                    self._disobeyed(message, defect)
        except BaseException as defect:
            self.note("defect", f"its conversation with the node failed: {defect!r:.500}")
            traceback.print_exc()
        finally:
            if not (self._stopping and status == EXIT_NODE_GONE):
                # no node, no purpose: what state there was is the node's to give up
                self.binder.node_gone()
                os._exit(status)

    def _disobeyed(self, message: Any, defect: Exception) -> None:
        """A channel less can be survived, and whoever was to use it hears of it; nothing else. Raises ``defect``."""
        self.note("defect", f"{type(message).__name__} could not be done: {defect!r:.500}")
        match message:
            case Accept():
                pass  # its other end closes, and the caller sees that
            case Offer():
                self.binder.failed(message.request, f"{message.shard} cannot be reached: {defect!s:.500}")
            case AskStacks() | Attach() | BreakIn() | Detach() | StacksTo():
                pass  # who looks on sees less
            case _:
                raise defect

    def _obey(self, message: Any, descriptors: list[int]) -> None:
        runtime = self.runtime
        match message:
            case Accept():
                channel = self._open(message.transport, descriptors)
                with contextlib.suppress(Overloaded):  # the channel was closed, and its caller sees that
                    runtime.connect(
                        channel, peer_of(message.component, message.shard, message.sessions), outgoing=False
                    )
            case Offer():
                channel = self._open(message.transport, descriptors)
                link = runtime.connect(channel, peer_of(message.component, message.shard, None), outgoing=True)
                if message.request:
                    self.binder.offered(message.request, link)
                else:
                    runtime.router.offered(Route(ComponentName(message.component)), link)
            case Bound():
                self.binder.answered(message)
            case Because():
                self.binder.told_why(message)
            case SessionBegins():
                runtime.session_begins(SessionNumber(message.session), message.name)
            case SessionEnds():
                runtime.session_ends(SessionNumber(message.session))
            case Forget():
                runtime.forget(ComponentName(message.component), SessionNumber(message.session))
            case Patch():
                self._send(runtime.patched(message))
            case RunMain():
                self._main.put(message)
            case AskLoad():
                self._send(Load(message.request, *runtime.load()))
            case AskCounts():
                self._send(runtime.counts(message.request))
            case Retire():
                unsaid = runtime.router.retire(ShardId(message.shard), lost=message.lost)
                if message.request:
                    self._send(Unsaid(message.request, tuple(unsaid)))
            case Doubt():
                runtime.router.doubt(ComponentName(message.component), map(SessionNumber, message.sessions))
            case AskStacks():
                self._send(stacks(message.request, runtime.doing()))
            case StacksTo():
                write_stacks_to(descriptors[0])
            case Attach():
                self._debugging.attach(message, descriptors[0])
            case BreakIn():
                self._debugging.break_in()
            case Detach():
                self._debugging.detach(message.request, lost=message.lost)
            case Stop():
                threading.Thread(target=self._stop, args=(message.grace_s, message.drain), daemon=True).start()

    def _open(self, transport: str, descriptors: list[int]) -> Any:
        return self.transports[transport].open(Endpoint(transport, tuple(descriptors)))

    def _stop(self, grace_s: float, drain: bool) -> None:
        self._stopping = not drain  # who drains goes on to serve, and needs its node
        end_s = time.monotonic() + grace_s
        if not drain:
            self.runtime.going_away()
        while (self.runtime.responder.busy or (drain and self.runtime.called)) and time.monotonic() < end_s:
            time.sleep(0.005)
        self._stopping = True
        self._say_goodbye(end_s)
        flush_at_exit()
        self._send(self.runtime.counts(0))
        os._exit(0)

    def _say_goodbye(self, end_s: float) -> None:
        """What the application registered with ``atexit``, as its uncut program would run it; until the grace is over."""
        self.runtime.shut_down(max(0.0, end_s - time.monotonic()))
        left_s = end_s - time.monotonic()
        if left_s <= 0:
            return
        # it may take as long as it likes: so may a call that was let in meanwhile, and its turn must come first
        watchdog = threading.Timer(left_s, os._exit, (0,))
        watchdog.daemon = True
        watchdog.start()
        mailbox = self.runtime.mailbox
        mailbox.acquire()
        try:
            atexit._run_exitfuncs()
        finally:
            mailbox.release()
            watchdog.cancel()

    def _send(self, message: Any) -> None:
        try:
            self.control.send(message)
        except ChannelClosed:
            pass

    def note(self, kind: str, message: str) -> None:
        self._send(Note(kind, message))


def run_program(runtime: Runtime, target: str, session: SessionNumber) -> Finished:
    """Run ``module:function`` (or just import a module) as the program, on the calling thread."""
    mailbox = runtime.mailbox
    module, _, name = target.partition(":")
    mailbox.acquire()
    name_of_session = runtime.sessions.name(session)
    token = current_call.set(CallContext(session=session, session_name=name_of_session, trace_id=os.urandom(16)))
    try:
        if name:
            status, text = exit_of(runtime.resolve(module, name)())
        else:
            runtime.import_module(module)
            status, text = 0, ""
    except SystemExit as end:
        status, text = exit_of(end.code)
    except BaseException as error:
        status = 130 if isinstance(error, KeyboardInterrupt) else 1
        note_shards(error, runtime.plan)
        text = uncaught(error)
    finally:
        current_call.reset(token)
        mailbox.release()
    unflushed, complaint = flush_at_exit()
    return Finished(unflushed or status, text + complaint)
