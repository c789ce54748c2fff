"""The node's side of its keeper: requests with answers, and the news that it died."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shardwright.errors as errors_module
from shardwright.contracts.sandbox import Exit, SandboxHandle, Sight
from shardwright.errors import NodeError, ProtocolViolation, SandboxError
from shardwright.guest import frame
from shardwright.model.ids import ShardId
from shardwright.model.limits import Limits, Usage
from shardwright.node._frames import AGAIN_S, TOO_MANY_PASSED, FrameReader, scarce, send_with
from shardwright.node._keeper_messages import (
    Adopt,
    AskUsage,
    Delete,
    Describe,
    Described,
    Inherit,
    Kill,
    Launch,
    Listen,
    Refused,
    Reserve,
    Resize,
    from_keeper,
)

GUEST_CONTROL = 3
GUEST_LIFELINE = 4
NOTHING_MORE = Sight()
_NEEDED = frozenset({"PATH", "LANG", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH"})
# Our own package comes from where this process has it, also when the path knows another. Its folder goes last into the
# path, where it shadows nothing: what is installed beside it may be needed.
_RUN = """\
import sys, runpy
from importlib import machinery, util
spec = machinery.PathFinder.find_spec("shardwright", [{source!r}])
if spec is not None:
    sys.modules["shardwright"] = module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    del module
del spec, machinery, util
if {source!r} not in sys.path:
    sys.path.append({source!r})
sys.argv[:] = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def python_command(module: str, *arguments: str) -> list[str]:
    """How to run one of our modules in a fresh interpreter that finds just what this one's installation has."""
    source = str(Path(errors_module.__file__).parent.parent)
    return [sys.executable, "-P", "-c", _RUN.format(source=source), module, *arguments]


def _copies(descriptors: list[int]) -> list[int]:
    """All of them, or OSError and none."""
    copies: list[int] = []
    try:
        for descriptor in descriptors:
            copies.append(os.dup(descriptor))
    except OSError:
        for copy in copies:
            os.close(copy)
        raise
    return copies


def _pidfd(received: list[int]) -> int:
    if not received:
        raise SandboxError(
            "the pidfd did not come: too many open files", remedy="raise the limit of open files (ulimit -n)"
        )
    return received[0]


def _give_up(future: asyncio.Future[tuple[Any, list[int]]]) -> None:
    """Nobody waits for this answer any more: close what came with it."""
    if not future.cancelled() and future.exception() is None:
        for descriptor in future.result()[1]:
            os.close(descriptor)


def _wait_for(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Whether it ended in time. ``Popen.wait`` with a timeout looks every 50 ms; this hears of it at once."""
    if process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        try:
            end = select.poll()
            end.register(pidfd, select.POLLIN)
            end.poll(timeout_s * 1000)
        finally:
            os.close(pidfd)
    return process.poll() is not None


def keeper_environment() -> dict[str, str]:
    """What the keeper needs: to find its interpreter and our packages, and to be measured when this process is."""
    measured = "coverage" in sys.modules
    return {
        name: value
        for name, value in os.environ.items()
        if name in _NEEDED or name.startswith("LC_") or (measured and name.startswith("COVERAGE_"))
    }


def _keeper(sock: socket.socket, grace_s: float, form: str = "pretty") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        python_command("shardwright.node._keeper", str(sock.fileno()), str(grace_s), form),
        pass_fds=[sock.fileno()],
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=keeper_environment(),
    )


class KeeperClient:
    """One keeper process. Use from the node's event loop alone."""

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket, on_gone: Callable[[], None]) -> None:
        self._process = process
        self._socket = sock
        self._frames = FrameReader(sock, limit=16 * 1024 * 1024, descriptors=True)
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[tuple[Any, list[int]]]] = {}
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._outbox: list[tuple[bytes, list[int], int]] = []  # the rest of a message, what goes with it, which request
        self._gone = False
        self._loop.add_reader(sock, self._readable)

    @classmethod
    def start(cls, grace_s: float, on_gone: Callable[[], None], form: str = "pretty") -> KeeperClient:
        """Start a keeper for this node; ``form`` of its own lines is json or pretty."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = _keeper(theirs, grace_s, form)
        ours.setblocking(False)
        return cls(process, ours, on_gone)

    def clean_up_after(self) -> None:
        """Once it died: remove what it left. Blocks until that is done, by a successor that does just that."""
        if _wait_for(self._process, 5):  # a zombie still counts as the owner of its control groups
            ours, theirs = socket.socketpair()
            ours.close()
            with theirs:
                successor = _keeper(theirs, 0.0)
            _wait_for(successor, 30)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still answers, as far as is known here."""
        return not self._gone

    async def describe(self, try_backends: tuple[str, ...] = (), told: tuple[str, ...] = ()) -> Described:
        """With ``try_backends``, ``troubles`` says for each of them why it cannot be had, or nothing.

        ``told``: further backends whose ``transports`` are to be told.
        """
        answer, _ = await self._ask(Describe(next(self._ids), try_backends, told), [])
        assert isinstance(answer, Described)
        return answer

    async def launch(
        self,
        shard: ShardId,
        arguments: list[str],
        environment: dict[str, str],
        working_directory: str,
        descriptors: dict[int, int],
        limits: Limits,
        max_pids: int = 256,
        *,
        backend: str = "process",
        sight: Sight = NOTHING_MORE,
        template: bool = False,
    ) -> tuple[SandboxHandle, int]:
        """The handle and the pidfd (the caller's to close). Raises SandboxError. ``descriptors`` stay the caller's."""
        message = Launch(
            next(self._ids), shard, tuple(arguments), environment, working_directory, tuple(descriptors), GUEST_LIFELINE,
            limits, max_pids, backend, sight, template,
        )  # fmt: skip
        answer, received = await self._ask(message, list(descriptors.values()))
        return answer.handle, _pidfd(received)

    async def reserve(self, shard: ShardId, limits: Limits, backend: str) -> list[int]:
        """Control groups for a process to be forked: the descriptors (the caller's) that it enters them by.

        Raises SandboxError.
        """
        _, received = await self._ask(Reserve(next(self._ids), shard, limits, backend), [])
        return received

    async def adopt(
        self, handle: SandboxHandle, limits: Limits, lifeline: int, reserved: ShardId | None = None
    ) -> tuple[SandboxHandle, int] | None:
        """Put a forked process under limits; None when it has ended.

        ``lifeline``: the other end of its own; a copy goes to the keeper. ``reserved``: by what name its control groups were
        made, if not its shard's.
        """
        answer, received = await self._ask(Adopt(next(self._ids), handle, limits, reserved or ""), [lifeline])
        return (answer.handle, _pidfd(received)) if answer.handle is not None else None

    async def resize(self, shard: ShardId, limits: Limits) -> Limits:
        answer, _ = await self._ask(Resize(next(self._ids), shard, limits), [])
        found: Limits = answer.limits
        return found

    async def kill(self, shard: ShardId) -> None:
        await self._ask(Kill(next(self._ids), shard), [])

    async def inherit(self, path: Path) -> None:
        """Let it remove that file should this process die."""
        await self._ask(Inherit(next(self._ids), str(path)), [])

    async def listen(self, bind: str, given: list[int]) -> tuple[tuple[str, ...], list[int]]:
        """Addresses and listening sockets (the caller's) for ``host:port``, bound once; or those that are ``given``.

        Raises NodeError.
        """
        try:
            answer, received = await self._ask(Listen(next(self._ids), bind), given)
        except SandboxError as refused:
            raise NodeError(refused.message, remedy=refused.remedy) from None
        if len(received) != len(answer.addresses):
            raise NodeError("the gateway's sockets did not come", remedy="raise the limit of open files (ulimit -n)")
        return answer.addresses, received

    async def delete(self, shard: ShardId) -> Exit | None:
        """End it and remove every trace."""
        answer, _ = await self._ask(Delete(next(self._ids), shard), [])
        found: Exit | None = answer.exit
        return found

    async def usages(self, shards: list[ShardId]) -> dict[str, Usage | None]:
        answer, _ = await self._ask(AskUsage(next(self._ids), tuple(shards)), [])
        found: dict[str, Usage | None] = answer.usages
        return found

    def cut_off(self) -> None:
        """Let it end everything now, from any thread, without waiting: the node's loop may be busy or stuck."""
        with contextlib.suppress(OSError):  # closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    async def close(self) -> None:
        """Let it end everything, and wait for that."""
        self._gone = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._frames.close()
        self._fail()
        await self._loop.run_in_executor(None, self._wait)

    def _wait(self) -> None:
        _wait_for(self._process, 30)

    async def _ask(self, message: Any, descriptors: list[int]) -> tuple[Any, list[int]]:
        if self._gone:
            raise NodeError("the keeper is gone", remedy="start the node again")
        future: asyncio.Future[tuple[Any, list[int]]] = self._loop.create_future()
        # the descriptors must live until they were sent, whatever becomes of the caller meanwhile
        self._outbox.append((frame(message, len(descriptors)), _copies(descriptors), message.request))
        self._asked[message.request] = future
        self._flush()
        try:
            answer, received = await asyncio.shield(future)
        except asyncio.CancelledError:
            future.add_done_callback(_give_up)
            raise
        if isinstance(answer, Refused):
            raise SandboxError(answer.message, remedy=answer.remedy)
        return answer, received

    def _flush(self) -> None:
        while self._outbox:
            data, descriptors, request = self._outbox[0]
            try:
                sent = send_with(self._socket, data, descriptors)
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._flush)
                return
            except OSError as error:
                if not scarce(error):
                    self._lost()
                    return
                if not descriptors:  # perhaps in the middle of a message
                    self._loop.remove_writer(self._socket)
                    self._loop.call_later(AGAIN_S, self._flush)
                    return
                self._refuse(request, error)  # nothing of it was sent
                self._outbox.pop(0)
                for descriptor in descriptors:
                    os.close(descriptor)
                continue
            for descriptor in descriptors:
                os.close(descriptor)
            if sent == len(data):
                self._outbox.pop(0)
            else:
                self._outbox[0] = (data[sent:], [], request)
        if not self._gone:
            self._loop.remove_writer(self._socket)

    def _refuse(self, request: int, error: OSError) -> None:
        future = self._asked.pop(request, None)
        if future is not None and not future.done():
            why = f"its descriptors cannot be passed on now: {error.strerror}"
            future.set_result((Refused(request, why, TOO_MANY_PASSED), []))

    def _readable(self) -> None:
        try:
            alive = self._frames.gulp()
        except BlockingIOError:
            return
        except OSError:
            alive = False
        if not alive:
            self._lost()
            return
        try:
            frames = self._frames.frames()
        except ProtocolViolation:
            self._lost()
            return
        for body, descriptors in frames:
            answer = from_keeper.decode(body)
            future = self._asked.pop(answer.request, None)
            if future is None or future.done():
                for descriptor in descriptors:
                    os.close(descriptor)
            else:
                future.set_result((answer, descriptors))

    def _lost(self) -> None:
        if not self._gone:
            self._gone = True
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._fail()
            self._on_gone()

    def _fail(self) -> None:
        for _, descriptors, _ in self._outbox:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outbox.clear()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(NodeError("the keeper is gone", remedy="start the node again"))
                future.exception()  # looked at: whoever was cancelled meanwhile will not
        self._asked.clear()
