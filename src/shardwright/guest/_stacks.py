"""What every thread and every asyncio task of this process does now, without stopping any of them.

Two ways. The first is Python's own: a service thread looks at the frames of the others. It needs the interpreter, which
code that loops in Python gives away every few milliseconds; code inside a C function that keeps it does not. For that
there is the second: the node sends ``STACKS_SIGNAL``, and the interpreter's fault handler writes what it finds to a file
that the node gave, without asking anybody.
"""

from __future__ import annotations

import contextlib
import faulthandler
import linecache
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from shardwright.guest._control import MAX_FROM_GUEST
from shardwright.guest._control_messages import FrameLine, Stack, Stacks
from shardwright.guest._frames import is_ours
from shardwright.guest._service import services

if TYPE_CHECKING:
    import asyncio

STACKS_SIGNAL = int(signal.SIGRTMIN) + 11 if hasattr(signal, "SIGRTMIN") else 0
MAX_THREADS = 300
MAX_TASKS = 300
MAX_DEPTH = 100  # frames of one stack, the innermost
_TEXT = 300  # characters of a name or a line
_ROOM = MAX_FROM_GUEST - 4096


def write_stacks_to(descriptor: int) -> None:
    """From now on the signal makes the interpreter write its stacks there. Uses the descriptor up."""
    if not STACKS_SIGNAL:
        os.close(descriptor)
        return
    # closed by nobody: it is written to until the process ends
    faulthandler.register(STACKS_SIGNAL, file=descriptor, all_threads=True, chain=False)


def stacks(request: int, says: dict[int, str]) -> Stacks:
    """All threads but the calling one, and all tasks. ``says``: what is known of a thread, by its identity."""
    names = {thread.ident: thread for thread in threading.enumerate()}
    work = services()
    me = threading.get_ident()
    threads = []
    for ident, frame in list(sys._current_frames().items())[:MAX_THREADS]:
        if ident == me:
            continue
        thread = names.get(ident)
        name = thread.name if thread is not None else f"thread {ident:#x}, which threading does not know"
        does = says.get(ident) or (f"it does {work[ident]}" if ident in work else "")
        native = (thread.native_id or 0) if thread is not None else 0
        if thread is threading.main_thread():
            native = os.getpid()  # threading remembers that of the process it was forked from
        threads.append(Stack(name[:_TEXT], _lines(_outwards(frame)), does[:_TEXT], native))
    tasks = [_task_stack(task) for task in _all_tasks()[:MAX_TASKS]]
    return _fitting(request, threads, tasks)


def _fitting(request: int, threads: list[Stack], tasks: list[Stack]) -> Stacks:
    """What one message holds: deep stacks lose their outer frames, then the last stacks are left out."""
    depth = MAX_DEPTH
    while True:
        answer = Stacks(request, tuple(_cut(s, depth) for s in threads), tuple(_cut(s, depth) for s in tasks))
        if len(msgspec.msgpack.encode(answer)) <= _ROOM:
            return answer
        if depth > 8:
            depth //= 2
        else:
            threads, tasks = threads[: len(threads) * 3 // 4], tasks[: len(tasks) * 3 // 4]


def _cut(stack: Stack, depth: int) -> Stack:
    return msgspec.structs.replace(stack, frames=stack.frames[-depth:])


def _outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno or 0
        frame = frame.f_back


def _lines(frames: Iterable[tuple[FrameType, int]]) -> tuple[FrameLine, ...]:
    """Innermost frames first in, last out."""
    found: list[FrameLine] = []
    for frame, line in frames:
        if len(found) == MAX_DEPTH:
            break
        code = frame.f_code
        source = linecache.getline(code.co_filename, line, frame.f_globals).strip()
        function = getattr(code, "co_qualname", code.co_name)
        found.append(
            FrameLine(code.co_filename[:_TEXT], line, function[:_TEXT], source[:_TEXT], is_ours(code.co_filename))
        )
    return tuple(reversed(found))


def _all_tasks() -> list[asyncio.Task[Any]]:
    """Of every event loop in this process; asyncio has no public way to ask for those."""
    known: list[asyncio.Task[Any]] = []
    tasks = sys.modules.get("asyncio.tasks")
    for where in ("_all_tasks", "_scheduled_tasks", "_eager_tasks"):  # 3.11, and the two of later versions
        for _ in range(100):
            try:
                known += list(getattr(tasks, where, ()))
                break
            except RuntimeError:  # it changed meanwhile
                continue
    return [task for task in dict.fromkeys(known) if not task.done()]


def _task_stack(task: asyncio.Task[Any]) -> Stack:
    frames: list[tuple[FrameType, int]] = []
    says = "it waits"
    with contextlib.suppress(Exception):  # somebody's own kind of task, or it goes on just now
        awaited: Any = task.get_coro()
        while awaited is not None and len(frames) < 1000:
            frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
            if frame is None:
                break
            frames.append((frame, frame.f_lineno or 0))
            if getattr(awaited, "cr_running", False) or getattr(awaited, "gi_running", False):
                says = "it runs"
                break
            awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return Stack(task.get_name()[:_TEXT], _lines(reversed(frames)), says)
