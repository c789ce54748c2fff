"""A client's terminal, put through to a debugger in a shard.

The node makes a pseudo terminal, gives one end to the shard, and carries bytes between the other end and the client's
connection. It reads none of them but two: Ctrl-C also asks the shard to stop the program at its next line, and Ctrl-D
asks a running program's debugger to go. When either side ends, so does the other: a client that is gone leaves no shard
standing, for the closed terminal ends the debugger's prompt.

Ctrl-C drops the half of a line that was typed, as at every terminal, but nothing of what was said: Linux would also throw
away what is on its way out, which on a busy machine is the very answer to that Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
from typing import TYPE_CHECKING

from shardwright.errors import NodeError
from shardwright.guest import Attach, Attached, BreakIn, Detach
from shardwright.node._api_messages import AskAttach, Unusable, answer_line
from shardwright.node._port import ShardPort
from shardwright.node._resize import nearest

if TYPE_CHECKING:
    from shardwright.node._core import Core

BEGIN_S = 10.0  # within which a debugger must begin; debugpy starts a process
_CTRL_C, _CTRL_D, _KILL_LINE = b"\x03", b"\x04", b"\x15"
_PIECE = 4096


def targets(core: Core, wanted: str) -> list[ShardPort]:
    """The running shards meant by a shard's id or a component's name; all for an empty one. Raises Unusable."""
    ports, components = core.ports(), [str(definition.component) for definition in core.plan.definitions]
    running = [record for record in core.records() if record.id in ports]
    found = [ports[r.id] for r in running if not wanted or wanted in (r.id, r.component)]
    if found or not wanted:
        return found
    if wanted in components:
        raise Unusable(f"no shard of {wanted} is running now", remedy="it starts when it is called first")
    raise Unusable(
        f"there is no shard or component {wanted!r}", remedy=nearest(wanted, [*components, *(r.id for r in running)])
    )


async def attach(core: Core, wanted: AskAttach, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, then carry bytes until one side ends. Raises NodeError, having answered nothing."""
    ports = targets(core, wanted.shard)
    if not ports:
        raise Unusable("no shard is running now")
    port = ports[0]
    if port.pid == os.getpid():
        raise Unusable(
            "all shards of this node live in one process, which has the terminal",
            remedy="use breakpoint() there, or: python -m pdb -m shardwright run --inproc",
        )
    isolation = core.launcher.isolation(port.component) if core.launcher is not None else ""
    if wanted.debugpy and isolation not in ("", "process"):
        raise Unusable(
            f"{port.shard} is behind walls ({isolation}): nobody here could reach what debugpy listens at",
            remedy=f'attach without --debugpy, or state isolation = "process" in [components.{port.component}] meanwhile',
        )
    numbers: list[int] = []  # of the one request
    ours, theirs = terminal(wanted.rows, wanted.columns)
    try:
        begun = await _begin(core, port, wanted, theirs, numbers)
        if begun.error:
            raise NodeError(begun.error[:500], remedy=begun.remedy[:500])
    except BaseException:
        os.close(ours)
        for number in numbers:
            port.tell(Detach(number))
        raise
    core.record("attach", "a terminal debugs it", component=port.component, shard=port.shard)
    try:
        writer.write(answer_line({"shard": port.shard, "component": port.component, "pid": port.pid}))
        await _carry(port, numbers[0], ours, reader, writer)
        if not port.alive():
            writer.write(f"\r\n{port.shard} has ended\r\n".encode())
    finally:
        port.tell(Detach(numbers[0]))
        core.record("attach", "the terminal has gone; it runs on", component=port.component, shard=port.shard)


async def _begin(core: Core, port: ShardPort, wanted: AskAttach, descriptor: int, numbers: list[int]) -> Attached:
    def make(number: int) -> Attach:
        numbers.append(number)
        return Attach(number, wanted.at, wanted.now, wanted.debugpy)

    try:
        answer: Attached = await core.questions.ask(port, make, BEGIN_S, (descriptor,))
    except TimeoutError:
        raise NodeError(
            f"{port.shard} does not answer: something keeps its interpreter, code in C probably",
            remedy=f"look at what it does: shardwright stack {port.shard}",
        ) from None
    return answer


async def _carry(
    port: ShardPort, number: int, master: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Bytes both ways, until either side ends. Uses the descriptor up."""
    loop = asyncio.get_running_loop()
    from_shard = asyncio.StreamReader(limit=_PIECE * 4, loop=loop)
    with open(master, "rb", buffering=0) as readable, open(os.dup(master), "wb", buffering=0) as writable:
        hearing, _ = await loop.connect_read_pipe(lambda: _Hearing(from_shard, loop=loop), readable)
        speaking, flow = await loop.connect_write_pipe(lambda: asyncio.streams.FlowControlMixin(loop=loop), writable)
        to_shard = asyncio.StreamWriter(speaking, flow, None, loop)
        ways = [loop.create_task(_out(from_shard, writer)), loop.create_task(_in(port, number, reader, to_shard))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            hearing.close()  # first: a node that ends may cancel what is awaited here, too
            speaking.abort()
            await asyncio.gather(*ways, return_exceptions=True)  # with its turns they close their files
            await asyncio.sleep(0)


class _Hearing(asyncio.StreamReaderProtocol):
    """The other end of a terminal was closed: that is no error, and what was said before is still to be read."""

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(None)


async def _out(from_shard: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What the debugger says; ends with its end of the terminal."""
    while True:
        try:
            data = await from_shard.read(_PIECE)
        except OSError:  # the last one at the other end closed it
            return
        if not data:
            return
        writer.write(data)
        await writer.drain()


async def _in(port: ShardPort, number: int, reader: asyncio.StreamReader, to_shard: asyncio.StreamWriter) -> None:
    """What is typed; ends with the client."""
    while data := await reader.read(_PIECE):
        to_shard.write(typed(data))
        if _CTRL_C in data:
            port.tell(BreakIn())
        if _CTRL_D in data:
            port.tell(Detach(number, lost=False))
        with contextlib.suppress(OSError):
            await to_shard.drain()


def terminal(rows: int, columns: int) -> tuple[int, int]:
    """A pseudo terminal of that size, our end and the debugger's, of which no Ctrl-C drops what was said."""
    import fcntl
    import termios

    ours, theirs = os.openpty()
    with contextlib.suppress(OSError, struct.error):
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    modes = termios.tcgetattr(theirs)
    modes[3] |= termios.NOFLSH
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    return ours, theirs


def typed(data: bytes) -> bytes:
    """What is written to such a terminal for that: Ctrl-C drops the line that is being typed."""
    return data.replace(_CTRL_C, _KILL_LINE + _CTRL_C)
