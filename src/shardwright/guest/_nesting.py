"""How deep the calls of one chain may nest on the thread that waits for it.

A recursion that goes back and forth between two shards nests on one thread in each, and every crossing puts some ten
frames of ours between two of the user's. Uncut there would be none of them, so they must not count: where calls nest, the
interpreter's recursion limit is raised by what ours need, and the limit that the program itself has (or set) is held
against the user's own frames. What the other shards of the chain have on their stacks is not known here: a recursion over
``n`` shards may go up to ``n`` times as deep as it could uncut, and still ends in a RecursionError.

Correctness. ``_deep`` counts the threads with nested calls and is changed under ``_mutex``; the first raises the limit,
the last puts it back. Raising reaches all threads of the interpreter, lowering as well: a thread that is not counted has
at most ``_SHALLOW`` levels and hence no more frames of ours than ``_ROOM``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from types import FrameType

_SHALLOW = 3  # levels that may nest before the limit is raised
_FACTOR = 16  # frames of ours and the user's, for one of the user's: ten were measured
_ROOM = 80  # frames that running a call and answering it may take, user code aside
_CALL_ROOM = 120  # frames that making a call may take
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep

_mutex = threading.Lock()
_deep = 0
_limits: tuple[int, int] | None = None  # the program's limit, and ours in its place


class _Stack(threading.local):
    """What is below the innermost nested call of this thread."""

    levels = 0
    users = 0
    frames = 0


_stack = _Stack()


def need_room() -> None:
    """Raise RecursionError while it can still be raised whole.

    Where little of the stack is left, a call to another shard would meet the limit somewhere in our own code, halfway.
    """
    try:
        sys._getframe(max(sys.getrecursionlimit() - _CALL_ROOM, _CALL_ROOM))
    except ValueError:  # the stack is not that deep
        return
    raise RecursionError("maximum recursion depth exceeded")


def run_nested(run: Callable[[], None]) -> bool:
    """Run a call on top of those that wait on this thread. False: the recursion is too deep, and nothing was run."""
    stack = _stack
    users, frames = _count(sys._getframe(1))
    users += stack.users
    frames += stack.frames
    limits = _limits
    if users + 1 >= (limits[0] if limits else sys.getrecursionlimit()):
        return False
    if stack.levels == _SHALLOW:
        _raise_limit()
    if frames + _ROOM >= sys.getrecursionlimit():
        if stack.levels == _SHALLOW:
            _lower_limit()
        return False
    before = stack.users, stack.frames
    stack.levels, stack.users, stack.frames = stack.levels + 1, users, frames
    try:
        run()
    finally:
        stack.levels, (stack.users, stack.frames) = stack.levels - 1, before
        if stack.levels == _SHALLOW:
            _lower_limit()
    return True


def _count(frame: FrameType | None) -> tuple[int, int]:
    """The user's frames, and all frames, from ``frame`` down to the nested call before."""
    users = frames = 0
    while frame is not None and frame.f_code is not _MARK:
        frames += 1
        if not frame.f_code.co_filename.startswith(_OURS):
            users += 1
        frame = frame.f_back
    return users, frames


def _raise_limit() -> None:
    global _deep, _limits
    with _mutex:
        _deep += 1
        if _deep == 1:
            base = sys.getrecursionlimit()
            if _limits is None or base != _limits[1]:  # else it could not be put back the last time
                _limits = (base, base * _FACTOR)
                sys.setrecursionlimit(_limits[1])


def _lower_limit() -> None:
    global _deep, _limits
    with _mutex:
        _deep -= 1
        if _deep == 0 and _limits is not None:
            if sys.getrecursionlimit() == _limits[1]:  # else the program has set it meanwhile, and its word holds
                try:
                    sys.setrecursionlimit(_limits[0])
                except RecursionError:
                    return  # this thread is still deeper than that: the next one puts it back
            _limits = None


_MARK = run_nested.__code__
