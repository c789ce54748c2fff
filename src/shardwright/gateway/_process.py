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
from collections.abc import Callable
from typing import Any

import msgspec

from shardwright.errors import ChannelClosed
from shardwright.gateway._backend import GatewaySettings
from shardwright.gateway._server import serve
from shardwright.gateway._shards import ShardBackend
from shardwright.gateway._talk import NodeTalk, close_all
from shardwright.gateway._turns import run_in_turns
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
        self._descriptors = descriptors

    def __repr__(self) -> str:
        return f"<GatewayProcess of {self._settings.app}, {len(self._descriptors)} sockets>"

    def serve(self) -> int:
        """Serve until told to stop; the exit status."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # a connection takes one
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.freeze()
        try:
            run_in_turns(run(self._plan, self._settings, self._control, self._descriptors, _exit))
        except Exception:
            traceback.print_exc()
            return EXIT_DEFECT
        return 0


def _exit(reason: ChannelClosed) -> None:
    """Nobody could begin a session or find a shard any more: no node, no purpose."""
    os._exit(EXIT_NODE_GONE)


def enter(plan: ShardPlan, control: ControlSocket, message: Enter, descriptors: list[int]) -> GatewayProcess:
    """Become the gateway that the message describes."""
    return GatewayProcess(plan, control, message, descriptors)


async def run(
    plan: ShardPlan,
    settings: GatewaySettings,
    control: ControlSocket,
    descriptors: list[int],
    gone: Callable[[ChannelClosed], None] | None = None,
) -> None:
    """A gateway on the running loop, until the node tells it to stop and what was in flight has ended, or is gone.

    Takes the control socket and the listening sockets over. ``gone`` is called when the node is.
    """
    loop = asyncio.get_running_loop()
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    stopping = asyncio.Event()
    grace_s = 0.0

    def node_gone(reason: ChannelClosed) -> None:
        if gone is not None:
            gone(reason)
        stopping.set()

    talk = NodeTalk(control, node_gone)
    backend = ShardBackend(plan, talk, session_idle_s=settings.gateway.session_idle_s)

    def obey(message: Any, received: list[int]) -> None:
        nonlocal grace_s
        match message:
            case Stop():
                grace_s = message.grace_s
                stopping.set()
            case AskStacks():
                with contextlib.suppress(ChannelClosed):
                    talk.send(stacks(message.request, {}))
            case Attach():
                refused = Attached(
                    message.request, "the gateway runs no code of the application", "attach to a shard of it"
                )
                with contextlib.suppress(ChannelClosed):
                    talk.send(refused)
        close_all(message, received)

    backend.obey_rest = obey
    talk.open(backend.obey)
    serving = loop.create_task(serve(settings, backend, sockets, stopping))
    stopped = loop.create_task(stopping.wait())
    try:
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopping.is_set():
            await asyncio.wait({serving}, timeout=grace_s + LATE_S)
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
