"""The node's side of the relay: networks of shards, made when they start, their rate changed while they run."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
from collections.abc import Callable
from typing import Any

from shardwright.errors import NodeError, SandboxError
from shardwright.node._keeper_client import python_command

UNLIMITED_BITS_S = 10_000_000_000  # of a link whose manifest states no rate: it may be lowered while the shard runs
_ANSWER_S = 10.0


class RelayEnded(SandboxError):
    """It ended before it answered."""


class Relays:
    """At most one relay, started at first need, and again when it died. Use from the node's loop alone."""

    def __init__(self, on_lost: Callable[[int], None] = lambda count: None) -> None:
        """``on_lost`` is called when a relay ends that was not told to, with how many shards it served."""
        self._on_lost = on_lost
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers = 0
        self._reading: asyncio.Task[None] | None = None
        self._linked: set[str] = set()
        self._starting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Relays {len(self._linked)} linked>"

    @staticmethod
    def possible() -> bool:
        """Whether links may be made at all: by root, with pyroute2. Whether the kernel agrees, ``trouble`` tells."""
        return os.geteuid() == 0 and importlib.util.find_spec("pyroute2") is not None

    async def trouble(self) -> str:
        """Why no link can be made here, found by making one; empty when it can."""
        try:
            await self._ask({"do": "unlink", "shard": ""})
        except SandboxError as error:
            return error.message
        return ""

    async def link(self, name: str, pid: int, places: tuple[str, ...], bits_s: int | None) -> None:
        """A link to the network namespace of that process, to these places. Raises SandboxError; then there is none."""
        asked = {"do": "link", "shard": name, "pid": pid, "places": places, "bits_s": bits_s or UNLIMITED_BITS_S}
        try:
            await self._ask(asked)
        except RelayEnded:  # killed just before: another does it
            await self._ask(asked)
        self._linked.add(name)

    def has(self, name: str) -> bool:
        return name in self._linked

    async def set_rate(self, name: str, bits_s: int) -> int:
        """Bits a second each way from now on; what reads back. Raises SandboxError; then it is as before."""
        found: int = (await self._ask({"do": "rate", "shard": name, "bits_s": bits_s}))["bits_s"]
        return found

    async def unlink(self, name: str) -> None:
        """Idempotent. The link itself goes with the shard's network anyway."""
        if name in self._linked:
            self._linked.discard(name)
            with contextlib.suppress(SandboxError):
                await self._ask({"do": "unlink", "shard": name})

    async def close(self) -> None:
        """End it; its links go with it."""
        if self._writer is not None:
            self._writer.close()
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._process is not None:
            self._process.kill()
            await asyncio.get_running_loop().run_in_executor(None, self._process.wait)
        self._writer = self._reading = self._process = None

    async def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        async with self._starting:
            if self._reading is None or self._reading.done():
                await self._start()
        assert self._writer is not None
        self._numbers += 1
        number = self._numbers
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        try:
            self._writer.write(json.dumps({**asked, "id": number}).encode() + b"\n")
            answer = await asyncio.wait_for(future, _ANSWER_S)
        except TimeoutError:
            raise SandboxError("the relay of networks does not answer") from None
        except OSError as error:
            raise SandboxError(f"the relay of networks is gone: {error.strerror}") from error
        finally:
            self._asked.pop(number, None)
        if "ended" in answer:
            raise RelayEnded("the relay of networks ended")
        if told := answer.get("error"):
            raise SandboxError(str(told), remedy="`shardwright doctor` says whether links can be made here")
        return answer

    async def _start(self) -> None:
        """Raises SandboxError."""
        await self.close()  # one that died
        self._linked.clear()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                os.set_inheritable(theirs.fileno(), True)
                command = python_command("shardwright.sandbox._linux._relay", str(theirs.fileno()))
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd="/", start_new_session=True,
                    env={"PATH": os.defpath},
                )  # fmt: skip
            reader, self._writer = await asyncio.open_connection(sock=ours)
        except (OSError, NodeError) as error:
            ours.close()
            raise SandboxError(f"the relay of networks cannot be started: {error}") from error
        self._reading = asyncio.create_task(self._read(reader), name="relay of networks")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                answer = json.loads(line)
                future = self._asked.get(answer.get("id"))
                if future is not None and not future.done():
                    future.set_result(answer)
        for future in self._asked.values():
            if not future.done():
                future.set_result({"ended": True})
        self._on_lost(len(self._linked))
