"""A terminal debugs this shard: where its pdb stops the program, and how the program goes on.

An attachment waits (``WAITING``) for the program to come to where it shall stop: the next call into the application, its
very next line, or a breakpoint. The thread that comes there first is caught (``CAUGHT``): it alone stands still, in
pdb's prompt, with whatever it holds; all other threads go on, and are not stopped meanwhile. ``continue`` lets it go
(``WAITING`` again where there are breakpoints, else ``RUNNING``). The end (``OVER``) comes by ``quit``, Ctrl-D or the
loss of the terminal, and always lets the program go on: nothing is raised in it.

Correctness. ``_state`` changes under ``_mutex``, which is never held while anything waits. One thread at a time is
caught; it alone reads and writes the debugger's state and the terminal, and it alone closes the terminal then. While
nobody is caught, whoever makes it ``OVER`` closes the terminal. A lost terminal ends the reading of the prompt by itself.
"""

from __future__ import annotations

import dis
import pdb
import sys
import sysconfig
import threading
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, cast

from shardwright.guest._context import current_call
from shardwright.guest._debug_terminal import Terminal
from shardwright.guest._frames import is_ours
from shardwright.guest._service import service_of_this_thread
from shardwright.guest._tracing import trace_all_threads, trace_this_thread

_NOT_STEPPED = ["shardwright", "shardwright.*", "asyncio", "asyncio.*", "threading", "contextvars", "selectors"]
_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})


class State(Enum):
    WAITING = "waiting"
    CAUGHT = "caught"
    RUNNING = "running"
    OVER = "over"


class Attachment:
    """One terminal's session. ``root`` is where the application's code lives; ``on_over`` hears of the end, once."""

    def __init__(self, shard: str, root: str, terminal: Terminal, request: int, on_over: Callable[[], None]) -> None:
        self.request = request
        self._shard = shard
        self._root = str(Path(root).resolve()) + "/"
        self._terminal = terminal
        self._on_over = on_over
        self._mutex = threading.RLock()  # a trace function may come to run wherever its own thread stands
        self._state = State.RUNNING
        self._thread = 0  # the one that is caught
        self._leaving = False
        self.ended = threading.Event()
        self._now = False
        self._entry = False
        self._theirs: dict[str, bool] = {}
        self._starts: dict[CodeType, int] = {}
        self._before = threading.gettrace()
        self.debugger = _Debugger(self, terminal, shard)

    def __repr__(self) -> str:
        return f"<Attachment to {self._shard}, {self._state.value}>"

    @property
    def over(self) -> bool:
        return self._state is State.OVER

    # -- what the terminal wants (the control thread) ------------------------------------------------------------

    def wait(self, *, now: bool, entry: bool, saying: str = "") -> None:
        """Stop the program at its next line (``now``), at the next call into it (``entry``), or at a breakpoint.

        ``saying`` is for a terminal that was told nothing yet. Once it reads that, the program will stop there; and nobody
        is caught before it was said.
        """
        with self._mutex:
            if self._state not in (State.RUNNING, State.WAITING):
                return
            if saying:
                now = now or self._now  # Ctrl-C was quicker
            self._state, self._now, self._entry = State.WAITING, now, entry and not now
            self._watch_all()
            if saying:
                self._terminal.write(saying)

    def break_in(self) -> None:
        """Ctrl-C: stop at the next line, whatever was waited for."""
        if self._state is not State.CAUGHT:
            self.wait(now=True, entry=False)

    def detach(self, *, lost: bool) -> None:
        """Let the program go on. Who stands at the prompt reads Ctrl-D there, unless the terminal is ``lost``."""
        with self._mutex:
            if self._state is State.OVER:
                return
            if self._state is State.CAUGHT:
                self._leaving = self._leaving or lost
                return
            self._state = State.OVER
        self._end()

    def breakpoint_at(self, file: str, line: int, function: str | None) -> str:
        """Set a breakpoint; why it cannot be, or nothing."""
        return self.debugger.set_break(file, line, funcname=function) or ""

    # -- what the program does (its own threads) -----------------------------------------------------------------

    def watch(self, frame: FrameType, event: str, argument: Any) -> Any:
        """The trace function of every thread while nobody is caught."""
        if self._state is not State.WAITING:
            if (
                sys.gettrace() == self.watch
            ):  # else this thread is another attachment's by now, and only its frame is not
                sys.settrace(None)
            frame.f_trace = None
            return None
        code = frame.f_code
        theirs = self.is_theirs(code.co_filename)
        if event == "call":
            stops = theirs and code.co_name != "<module>" and (self._now or (self._entry and self._enters(frame)))
        else:
            stops = event == "line" and ((theirs and self._now) or self._at_breakpoint(frame))
        if stops:
            return self._catch(frame, event, argument)
        if event != "call" or (theirs and self._now) or self.debugger.break_anywhere(frame):
            return self.watch
        return None

    def stop_here(self, frame: FrameType) -> bool:
        """``breakpoint()`` was called there; False when this thread cannot be stopped now."""
        if service_of_this_thread():
            return False
        with self._mutex:
            again = self._state is State.CAUGHT and self._thread == threading.get_ident()
            if not again and self._state not in (State.WAITING, State.RUNNING):
                return False
            self._state, self._thread = State.CAUGHT, threading.get_ident()
        self._greet(frame)
        self.debugger.enter(frame)
        return True

    def _catch(self, frame: FrameType, event: str, argument: Any) -> Any:
        with self._mutex:
            if self._state is not State.WAITING:
                return None
            self._state, self._thread = State.CAUGHT, threading.get_ident()
            self._now = self._entry = False
        self._greet(frame)
        self.debugger.enter(frame)
        if event == "line":  # it is to stop before this one, not before the next
            return self.debugger.trace_dispatch(frame, event, argument)
        return self.debugger.trace_dispatch

    def _greet(self, frame: FrameType) -> None:
        context = current_call.get()
        session = f", session {context.session_name}" if context.session_name else ""
        said = f"\n{self._shard} stops in thread {threading.current_thread().name}{session}\n"
        left_s = context.remaining_s()
        if left_s is not None:
            said += (
                f"this call's deadline passes in {left_s:.1f} s: it is not extended, its caller will not wait longer\n"
            )
        self._terminal.write(said)

    def let_go(self, frame: FrameType | None) -> None:
        """``continue``: the caught thread goes on."""
        with self._mutex:
            if self._state is not State.CAUGHT:
                return
            leaving = self._leaving
            self._state = State.OVER if leaving else State.WAITING if self.debugger.breaks else State.RUNNING
        trace_this_thread(frame, None)
        if leaving:
            self._end()
        elif self._state is State.WAITING:
            self._watch_all()
        else:
            self._terminal.write("(it runs; Ctrl-C stops it at its next line, Ctrl-D detaches)\n")

    def leave(self, frame: FrameType | None) -> None:
        """``quit``, Ctrl-D at the prompt, or no terminal any more."""
        with self._mutex:
            if self._state is not State.CAUGHT:
                return
            self._state = State.OVER
        trace_this_thread(frame, None)
        self._end()

    @property
    def leaving(self) -> bool:
        return self._leaving

    def is_caught(self) -> bool:
        """Whether the calling thread is the one that pdb has."""
        return self._state is State.CAUGHT and self._thread == threading.get_ident()

    def works_for_them(self, frame: FrameType | None) -> bool:
        """Whether it is the application's own, or was called by the application and not by us."""
        while frame is not None:
            name = frame.f_code.co_filename
            if is_ours(name):
                return False
            if self.is_theirs(name):
                return True
            frame = frame.f_back
        return False

    # -- inside ------------------------------------------------------------------------------------------------

    def _watch_all(self) -> None:
        with self._mutex:
            if self._state is State.WAITING:  # else it is over, and another terminal's turn may have come
                threading.settrace(self.watch)
                trace_all_threads(self.watch)

    def _end(self) -> None:
        if threading.gettrace() == self.watch:
            threading.settrace(self._before)
        self.debugger.clear_all_breaks()
        self._terminal.write(f"\ndetached; {self._shard} goes on\n")
        self._terminal.close()
        self._on_over()
        self.ended.set()

    def is_theirs(self, filename: str) -> bool:
        """Whether that file is the application's."""
        found = self._theirs.get(filename)
        if found is None:
            real = str(Path(filename).resolve()) if filename.startswith("/") else ""
            found = real.startswith(self._root) and not is_ours(filename) and not real.startswith(_LIBRARIES)
            self._theirs[filename] = found
        return found

    def _at_breakpoint(self, frame: FrameType) -> bool:
        if is_ours(frame.f_code.co_filename):
            return False
        with self._mutex:
            return bool(self.debugger.breaks) and bool(self.debugger.break_here(frame))

    def _enters(self, frame: FrameType) -> bool:
        """Whether the application begins to run here: a new frame of its, called by none of its."""
        code = frame.f_code
        start = self._starts.get(code)
        if start is None:
            resume = (i.offset for i in dis.get_instructions(code) if i.opname == "RESUME")
            start = self._starts[code] = next(resume, 0)
        if frame.f_lasti > start:  # a coroutine or generator that goes on
            return False
        outer = frame.f_back
        while outer is not None:
            name = outer.f_code.co_filename
            if is_ours(name):
                return True
            if self.is_theirs(name):
                return False
            outer = outer.f_back
        return True


class _Debugger(pdb.Pdb):
    """pdb at a terminal that is not this process's own; it ends no program."""

    def __init__(self, attachment: Attachment, terminal: Terminal, shard: str) -> None:
        super().__init__(
            stdin=cast(Any, terminal), stdout=cast(Any, terminal), skip=_NOT_STEPPED, nosigint=True, readrc=False
        )  # fmt: skip
        self.attachment = attachment
        self.prompt = f"({shard}) "
        self.use_rawinput = False

    def enter(self, frame: FrameType) -> None:
        """Stop at the next line of this thread."""
        self.reset()
        outer: FrameType | None = frame
        while outer is not None:
            self.botframe = outer
            outer = outer.f_back
        self.set_step()
        trace_this_thread(frame, self.trace_dispatch)

    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        attachment = self.attachment
        if attachment.leaving and attachment.is_caught():
            attachment.leave(frame)
        if not attachment.is_caught():
            return attachment.watch(frame, event, arg)
        local = super().trace_dispatch(frame, event, arg)
        return local if attachment.is_caught() else None

    def get_stack(self, f: FrameType | None, t: TracebackType | None) -> tuple[list[tuple[FrameType, int]], int]:
        """The stack from the application's first frame on, without ours."""
        stack, index = super().get_stack(f, t)
        if not stack:
            return stack, index
        current = stack[index]
        kept: list[tuple[FrameType, int]] = []
        for entry in stack:
            name = entry[0].f_code.co_filename
            if entry is current or self.attachment.is_theirs(name) or (kept and not is_ours(name)):
                kept.append(entry)
        return kept, kept.index(current)

    def stop_here(self, frame: FrameType) -> bool:
        return bool(super().stop_here(frame)) and self.attachment.works_for_them(frame)

    def set_continue(self) -> None:
        self._set_stopinfo(self.botframe, None, -1)  # type: ignore[attr-defined]
        self.attachment.let_go(self.curframe)

    def do_quit(self, arg: str) -> bool | None:
        """quit: detach; the program goes on."""
        self.attachment.leave(self.curframe)
        return True

    do_q = do_exit = do_detach = do_quit

    def do_EOF(self, arg: str) -> bool | None:
        """Ctrl-D: detach; the program goes on."""
        self.message("")
        return self.do_quit(arg)

    def do_run(self, arg: str) -> None:
        """run: not here."""
        self.error("a shard is not run again from its debugger; shardwright run --reload replaces it")

    do_restart = do_run

    def do_interact(self, arg: str) -> None:
        """interact: not here."""
        self.error("interact reads the shard's own standard input; use !statements here")
