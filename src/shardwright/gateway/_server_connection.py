"""What connections of every version of HTTP have in common: a client that leaves takes its requests with it."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from typing import Any

from uvicorn.server import ServerState

from shardwright.gateway._front_asgi import Aborted, Receive, Scope, Send
from shardwright.gateway._front_functions import Functions
from shardwright.gateway._limits import Limits

__all__ = ["GatewayState", "Running", "Watched"]

READ_BYTES = 256 * 2**10
_log = logging.getLogger("shardwright.gateway")


class GatewayState(ServerState):
    """What all connections of one server share. ``functions`` answers requests that need no task of their own."""

    def __init__(self, limits: Limits, functions: Functions) -> None:
        super().__init__()
        self.limits = limits
        self.functions = functions
        self.draining = False
        self.arrived = memoryview(bytearray(READ_BYTES))  # what one connection received just now
        self.head = b""  # the same headers for every response, as bytes

    def tell_date(self, now_s: float) -> None:
        """The time of day of responses from now on."""
        date = formatdate(now_s, usegmt=True).encode()
        self.default_headers = [(b"date", date)]
        self.head = b"date: %b\r\n" % date


class Watched(asyncio.BaseProtocol):
    """A connection of which is known since when its client takes nothing of what it is sent (0: it does)."""

    loop: asyncio.AbstractEventLoop
    stuck_since_s = 0.0

    def pause_writing(self) -> None:
        self.stuck_since_s = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stuck_since_s = 0.0
        super().resume_writing()


class Running:
    """The requests that run for one connection or stream; as an application, it notes who runs."""

    __slots__ = ("_app", "_gone", "_tasks")

    def __init__(self, app: Any) -> None:
        self._app = app
        self._tasks: set[asyncio.Task[Any]] = set()
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._gone:  # before it began
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._app(scope, receive, send)
        except asyncio.CancelledError:
            if not self._gone:
                raise
        except Aborted:
            pass  # an incomplete response makes the server close the connection, or reset the stream
        except Exception:
            _log.exception("the front failed")
            raise
        finally:
            self._tasks.discard(task)

    def gone(self) -> None:
        """The client has left: whatever runs for it is cancelled."""
        self._gone = True
        for task in self._tasks:
            task.cancel()
