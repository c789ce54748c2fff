"""The lifespan of an ASGI application in a shard: startup before its first exchange, shutdown when the shard stops.

An application that does not know the protocol is served all the same, as servers do. One whose startup fails is not: every
exchange is told why, and the next one tries again, for what was missing may have come.
"""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import Any

from shardwright.errors import CallError
from shardwright.guest._asgi import App3
from shardwright.guest._asgi_events import Event

log = logging.getLogger("shardwright.web")


class StartupFailed(CallError):
    """An application said, or showed, that it cannot start."""

    code = "SW423"
    fault = "you"


class Lifespan:
    """One application's life. Everything here runs on the shard's event loop.

    ``state`` is what the application put there at startup; each exchange gets a shallow copy.
    """

    def __init__(self, app: App3, *, version: str = "3.0") -> None:
        self.app = app
        self.state: dict[str, Any] = {}
        self._version = version
        self._started: asyncio.Future[None] | None = None
        self._stopped: asyncio.Future[None] | None = None
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._supported = False

    async def startup(self) -> None:
        """Returns when the application has started. Raises StartupFailed. Many may wait at once."""
        if self._started is None:
            loop = asyncio.get_running_loop()
            self._started = loop.create_future()
            self._stopped = loop.create_future()
            self._events = asyncio.Queue()
            self._events.put_nowait({"type": "lifespan.startup"})
            self.state = {}
            # a life of its own: neither the first exchange's context nor its cancellation is the application's
            self._task = loop.create_task(self._live(self._started, self._stopped), context=Context())
        await asyncio.shield(self._started)

    async def shutdown(self) -> None:
        """Tell the application that the end has come, and wait for its answer. May be called without a startup."""
        if self._task is None or self._task.done() or not self._supported or self._stopped is None:
            if self._task is not None:
                self._task.cancel()
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await asyncio.wait({self._task, self._stopped}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({self._task}, timeout=1)
        self._task.cancel()

    async def _live(self, started: asyncio.Future[None], stopped: asyncio.Future[None]) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": self._version, "spec_version": "2.0"},
            "state": self.state,
        }
        try:
            await self.app(scope, self._receive, self._send)
        except Exception as error:
            if not started.done():
                log.info("ASGI 'lifespan' protocol appears unsupported.")
            elif self._supported and not stopped.done():
                log.error("Exception in 'lifespan' protocol\n", exc_info=error)
        finally:
            for future in (started, stopped):
                if not future.done():
                    future.set_result(None)

    async def _receive(self) -> Event:
        return await self._events.get()

    async def _send(self, event: Event) -> None:
        assert self._started is not None and self._stopped is not None
        kind = event["type"]
        starting = not self._started.done()
        if starting and kind == "lifespan.startup.complete":
            self._supported = True
            self._started.set_result(None)
        elif starting and kind == "lifespan.startup.failed":
            message = str(event.get("message", ""))
            if message:
                log.error(message)
            started, self._started = self._started, None  # the next exchange tries again
            started.set_exception(
                StartupFailed(
                    f"Application startup failed: {message.strip().rpartition(chr(10))[2] or 'it does not say why'}",
                    outcome="not started",
                    remedy="its log says more",
                )
            )
            started.exception()  # whoever waits raises it; nobody may have waited so long
        elif not starting and self._supported and kind == "lifespan.shutdown.complete" and not self._stopped.done():
            self._stopped.set_result(None)
        elif not starting and self._supported and kind == "lifespan.shutdown.failed" and not self._stopped.done():
            log.error(str(event.get("message", "")) or "Application shutdown failed.")
            self._stopped.set_result(None)
        else:
            raise RuntimeError(f"Got invalid state transition on lifespan protocol: '{kind}'.")
