"""What forks of a template will have in their memory, found out before there are any.

Most pages that a shard writes to on its way to its first answer come out alike in all siblings: code that was specialised,
tables that grew, counts. So the template forks a *mould*, which goes that way for nobody: it has no name, session or
secret, and no function of the application is called in it (one of ours stands in). At rest it writes down its pages, and
ends; the image has these (``_image``), and a shard at rest gives back what came out as in the mould. What plays the node
meanwhile is a second fork, the *prompter*.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from shardwright.guest._control import ControlSocket, frame, rights
from shardwright.guest._control_messages import Accept, Enter, Fork, SessionBegins, Stop
from shardwright.guest._hubs import transport_of
from shardwright.guest._image import pages
from shardwright.guest._link import Link
from shardwright.guest._rehearsal import ask, rehearse
from shardwright.guest._runtime import Runtime
from shardwright.guest._template import ForkServer, Imported
from shardwright.model.endpoint import Peer
from shardwright.model.envelope import Kind
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.shard import EntryKind, EntryPoint
from shardwright.transport.socket import SocketTransport

if TYPE_CHECKING:
    from shardwright.guest._walls import Fence

_NAME = "mould"
_CALLER = "node"  # as the process that started the node is called
PATIENCE_S = 5.0


def _nothing() -> int:
    return 1


class Mould:
    """Made in a template that is about to fork. ``reason``: why there is no image; empty when there is one."""

    def __init__(self, runtime: Runtime, imaged: Sequence[tuple[int, int]], *, rings: bool) -> None:
        self._runtime = runtime
        self._ranges = tuple(imaged)
        self._rings = rings
        self._target = -1
        self.reason = ""

    def make(self, imported: Imported, lifeline: int, fence: Fence | None) -> int | None:
        """In the mould its control socket; None in the template, whose memory is an image then, if that could be."""
        try:
            if not self._silent():
                self._target = os.memfd_create("shardwright-mould")
                descriptor = self._forked(imported, lifeline, fence)
                if descriptor is not None:
                    self._stand_in()
                    return descriptor
            if len(os.listdir("/proc/self/task")) != 1:
                self.reason = "native threads run in its template"
            else:
                pages.image(self._ranges, self._target)
        except (OSError, ValueError) as error:
            self.reason = f"its template's memory cannot be laid over a file: {error}"
        if self._target >= 0:
            os.close(self._target)
        return None

    def _silent(self) -> bool:
        """Whether to start would run code of the application's: then nobody goes that way but shards."""
        return self._runtime.web.serves_applications or self._runtime.patches is not None

    def _entry(self) -> EntryPoint | None:
        """A function that stands for all that may be called."""
        definition = self._runtime.definition
        for entry in definition.entry_points:
            plain = entry.kind is EntryKind.FUNCTION and not (entry.is_async or entry.is_generator or definition.cut_of)
            if plain and entry.module == definition.code.primary and "." not in entry.qualname:
                return entry
        return None

    def _stand_in(self) -> None:
        """In the mould: what is called there is nothing of the application's."""
        entry = self._entry()
        if entry is not None:
            setattr(sys.modules[entry.module], entry.qualname, _nothing)

    async def _call(self, link: Link) -> None:
        entry = self._entry()
        if entry is None:
            await rehearse(link, self._runtime.definition)
        else:
            await ask(link, Kind.CALL, entry.method_id, ((), {}), 1)

    def write(self) -> NoReturn:
        """In the mould, at rest: what came of it."""
        try:
            pages.written(self._ranges, self._target)
        finally:
            os._exit(0)

    def _forked(self, imported: Imported, lifeline: int, fence: Fence | None) -> int | None:
        node, control = socket.socketpair()
        held, life = socket.socketpair()
        orders, hears = socket.socketpair()
        with orders, held:
            orders.sendmsg([frame(Fork(_NAME), 2)], rights([control.fileno(), life.fileno()]))
            orders.sendall(frame(Stop(0.0, False)))
            control.close()
            life.close()
            server = ForkServer(ControlSocket(hears.detach()), imported, lifeline, fence)
            descriptor = server.run()
            if descriptor is not None:
                node.close()
                return descriptor
            (mould,) = server.children
            prompter = os.fork()
            if prompter == 0:
                status = 1
                try:
                    held.close()
                    self._prompt(node)
                    status = 0
                finally:
                    os._exit(status)
            node.close()
            end_s = time.monotonic() + PATIENCE_S
            while os.waitpid(mould, os.WNOHANG)[0] == 0:
                if time.monotonic() > end_s:
                    os.kill(mould, signal.SIGKILL)
                    os.waitpid(mould, 0)
                    break
                time.sleep(0.01)
            os.kill(prompter, signal.SIGKILL)
            os.waitpid(prompter, 0)
        return None

    def _prompt(self, node: socket.socket) -> None:
        """What the node would say, and a caller that rehearses."""
        runtime = self._runtime
        silence = [os.open(os.devnull, os.O_WRONLY) for _ in range(2)]
        name = f"{runtime.component}-00000000"  # as long as those of shards: equal lengths lie in equal places
        node.sendmsg([frame(Enter(name, rings=self._rings), 2)], rights(silence))
        node.sendall(frame(SessionBegins(1, "1")))
        hub = runtime.open(rings=self._rings)
        transport = (transport_of(hub) if self._rings else None) or SocketTransport()
        ours, theirs = transport.pair()
        node.sendmsg(
            [frame(Accept(_CALLER, _CALLER, theirs.transport, None), len(theirs.descriptors))],
            rights(list(theirs.descriptors)),
        )
        for descriptor in theirs.descriptors:
            os.close(descriptor)
        peer = Peer(runtime.component, ShardId(name))
        codec = runtime.codec(ComponentName(_CALLER), runtime.component)
        link = Link(transport.open(ours), peer, codec, hub, runtime, runtime._enter_outgoing)
        loop = asyncio.SelectorEventLoop()
        with contextlib.suppress(Exception):
            loop.run_until_complete(asyncio.wait_for(self._call(link), PATIENCE_S / 2))
        node.settimeout(PATIENCE_S)
        while node.recv(65536):
            pass
