"""Looking into running shards: questions with answers, and the stacks of a shard, asked for in two ways."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from shardwright.errors import NodeError
from shardwright.guest import STACKS_SIGNAL, Attached, FrameLine, Stack, Stacks, StacksTo
from shardwright.guest import AskStacks as AskGuestStacks
from shardwright.model.ids import ShardId
from shardwright.node._port import ShardPort

FRAMES_S = 2.0  # within which a shard whose interpreter is not kept busy in C answers
SIGNAL_S = 2.0  # within which the interpreter writes its stacks
_QUIET_S = 0.05  # nothing more was written for so long: that was all
_MOST_WRITTEN = 1 << 20
_MOST_SOURCE = 1 << 22  # bytes of a file of which lines are shown


class Questions:
    """What was asked of shards, and the files that they write their stacks to. Use from the node's loop alone."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._asked: dict[tuple[ShardId, int], asyncio.Future[Any]] = {}
        self._files: dict[ShardId, int] = {}

    def __repr__(self) -> str:
        return f"<Questions {len(self._asked)} asked, {len(self._files)} files>"

    def begins(self, port: ShardPort) -> None:
        """A shard has become ready: give it a file for its stacks, where that can be."""
        if not port.pid or port.pid == os.getpid() or not STACKS_SIGNAL:
            return
        with contextlib.suppress(OSError):  # then there is just one way
            file = os.memfd_create(f"stacks of {port.shard}", os.MFD_CLOEXEC)
            self._files[port.shard] = file
            port.tell(StacksTo(), (os.dup(file),))

    def ended(self, shard: ShardId) -> None:
        file = self._files.pop(shard, None)
        if file is not None:
            os.close(file)
        for (asked, _), future in list(self._asked.items()):
            if asked == shard and not future.done():
                future.set_exception(NodeError(f"{shard} has ended"))
                future.exception()

    def close(self) -> None:
        """The node ends: nobody answers any more."""
        for shard in list(self._files):
            self.ended(shard)

    def answered(self, port: ShardPort, answer: Stacks | Attached) -> None:
        future = self._asked.get((port.shard, answer.request))
        if future is not None and not future.done():
            future.set_result(answer)

    async def ask(
        self, port: ShardPort, make: Callable[[int], Any], timeout_s: float, descriptors: tuple[int, ...] = ()
    ) -> Any:
        """The answer to the message of that number; uses the descriptors up. Raises TimeoutError, NodeError."""
        number = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[port.shard, number] = future
        try:
            port.tell(make(number), descriptors)
            return await asyncio.wait_for(future, timeout_s)
        finally:
            del self._asked[port.shard, number]

    # -- stacks ------------------------------------------------------------------------------------------------

    async def stacks(self, port: ShardPort, root: str) -> dict[str, Any]:
        """What every thread and task of a shard does, as an object for people and programs."""
        told: dict[str, Any] = {"shard": port.shard, "component": port.component, "pid": port.pid, "way": "frames"}
        try:
            answer: Stacks = await self.ask(port, AskGuestStacks, FRAMES_S)
            return told | {"note": "", "threads": _objects(answer.threads), "tasks": _objects(answer.tasks)}
        except TimeoutError:
            pass
        except NodeError as error:
            return told | {"way": "none", "note": error.message, "threads": [], "tasks": []}
        note = f"no answer within {FRAMES_S:g} s: something keeps the interpreter, code in C probably"
        text = await self._by_signal(port)
        if text is None:
            return told | {"way": "none", "note": f"{note}; and it takes no signal", "threads": [], "tasks": []}
        threads = _parsed(text, root)
        return told | {"way": "signal", "note": note, "threads": _objects(threads), "tasks": []}

    async def _by_signal(self, port: ShardPort) -> str | None:
        """What the interpreter itself wrote; None when it cannot be asked, or did not."""
        file = self._files.get(port.shard)
        if file is None or not port.alive() or not _catches(port.pid, STACKS_SIGNAL):  # else it would end it
            return None
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)  # the shard's descriptor is at the same place
        with contextlib.suppress(OSError):
            os.kill(port.pid, STACKS_SIGNAL)
        end_s = time.monotonic() + SIGNAL_S
        size, since_s = 0, time.monotonic()
        while time.monotonic() < end_s:
            await asyncio.sleep(0.01)
            if self._files.get(port.shard) != file:
                return None
            now = os.fstat(file).st_size
            if now != size:
                size, since_s = now, time.monotonic()
            elif size and time.monotonic() - since_s > _QUIET_S:
                break
        return os.pread(file, _MOST_WRITTEN, 0).decode("utf-8", "replace") if size else None


def _objects(stacks: tuple[Stack, ...]) -> list[dict[str, Any]]:
    return [
        {
            "name": stack.name,
            "says": stack.says,
            "native_id": stack.native_id,
            "frames": [
                {field: getattr(frame, field) for field in ("file", "line", "function", "source", "ours")}
                for frame in stack.frames
            ],
        }
        for stack in stacks
    ]


def _catches(pid: int, number: int) -> bool:
    """Whether that process has a handler for that signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


_THREAD = re.compile(r"(?:Current thread|Thread) (0x[0-9a-f]+)(?: \[(.*?)\])?(?: \(.*\))?:?$")
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)$')


def _parsed(text: str, root: str) -> tuple[Stack, ...]:
    """The fault handler's words as stacks. It names neither threads nor lines of source."""
    found: list[Stack] = []
    for line in text.splitlines():
        if head := _THREAD.match(line):
            name = head[2] or f"thread {head[1]}"
            found.append(Stack(name, ()))
        elif found and (frame := _FRAME.match(line)):
            file, number = frame[1], int(frame[2])
            here = FrameLine(file, number, frame[3], _source(file, number, root), "/shardwright/" in file)
            found[-1] = msgspec.structs.replace(found[-1], frames=(here, *found[-1].frames))
    return tuple(found)


def _source(file: str, line: int, root: str) -> str:
    """That line, of the application's own files alone: the name comes from the shard."""
    path = Path(os.path.realpath(file))
    if path.suffix != ".py" or not path.is_relative_to(os.path.realpath(root)):
        return ""
    try:
        if not path.is_file() or path.stat().st_size > _MOST_SOURCE:
            return ""
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    return lines[line - 1].strip() if 0 < line <= len(lines) else ""
