"""The gateway's process: from the Enter message to its end. Started as any shard is, forked from a template of its own.

It imports no code of the application, decodes none of its values, and holds one secret, the key of its cookies. Sockets
to listen on come from the keeper and outlive it: what connects while it is away waits for the next gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import traceback
from typing import Any

import msgspec

from shardwright.errors import ChannelClosed
from shardwright.gateway._backend import GatewaySettings
from shardwright.gateway._server import serve
from shardwright.gateway._shards import ShardBackend
from shardwright.gateway._talk import NodeTalk, close_all
from shardwright.guest import AskStacks, Attach, Attached, ControlSocket, Enter, Stop, stacks
from shardwright.model.shard import ShardPlan

EXIT_NODE_GONE = 70
EXIT_DEFECT = 71
LATE_S = 1.0  # after the time that requests in flight get


class GatewayProcess:
    """What ``guest.__main__`` runs in place of a shard of the application."""

    def __init__(self, plan: ShardPlan, control: ControlSocket, message: Enter, descriptors: list[int]) -> None:
        self._plan = plan
        self._control = control
        self._settings = msgspec.msgpack.decode(message.gateway, type=GatewaySettings)
        self._sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        self._stopping: asyncio.Event
        self._grace_s = 0.0

    def __repr__(self) -> str:
        return f"<GatewayProcess of {self._settings.app}, {len(self._sockets)} sockets>"

    def serve(self) -> int:
        """Serve until told to stop; the exit status."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection takes one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.freeze()
        try:
            asyncio.run(self._serve())
        except Exception:
            traceback.print_exc()
            return EXIT_DEFECT
        return 0

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        talk = NodeTalk(self._control, _node_gone)
        backend = ShardBackend(self._plan, talk, session_idle_s=self._settings.gateway.session_idle_s)

        def obey(message: Any, descriptors: list[int]) -> None:
            match message:
                case Stop():
                    self._grace_s = message.grace_s
                    self._stopping.set()
                case AskStacks():
                    with contextlib.suppress(ChannelClosed):
                        talk.send(stacks(message.request, {}))
                case Attach():
                    refused = Attached(
                        message.request, "the gateway runs no code of the application", "attach to a shard of it"
                    )
                    with contextlib.suppress(ChannelClosed):
                        talk.send(refused)
            close_all(message, descriptors)

        backend.obey_rest = obey
        talk.open(backend.obey)
        serving = loop.create_task(serve(self._settings, backend, self._sockets, self._stopping))
        stopped = loop.create_task(self._stopping.wait())
        try:
            await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                await asyncio.wait({serving}, timeout=self._grace_s + LATE_S)
            if serving.done():
                serving.result()
            else:
                print("gateway: some requests did not end in time", file=sys.stderr)
        finally:
            serving.cancel()
            stopped.cancel()
            await asyncio.gather(serving, stopped, return_exceptions=True)
            backend.close()
            talk.close()


def _node_gone(reason: ChannelClosed) -> None:
    """Nobody could begin a session or find a shard any more: no node, no purpose."""
    os._exit(EXIT_NODE_GONE)


def enter(plan: ShardPlan, control: ControlSocket, message: Enter, descriptors: list[int]) -> GatewayProcess:
    """Become the gateway that the message describes."""
    return GatewayProcess(plan, control, message, descriptors)
