"""The relay: the process that carries what shards say to the places that they may reach, and nothing else.

``python -m shardwright.sandbox._linux._relay DESCRIPTOR``. One for a node, as long as its socket to it is open. Each shard that
may reach places has a network namespace of its own, with a link (``ShapedLink``) into another one that holds nothing but the
relay's listening sockets: one for each place, at its address, or at an address of ours that its name stands for in the
shard's ``/etc/hosts``. There is no route to anything else, nothing is forwarded, names are looked up out here, and no
setting of the machine is touched. Places on the machine's own loopback are listened for on the shard's, beside the link.

Requests and answers are JSON, one a line: ``link`` (``shard``, ``pid``, ``places``, ``bits_s``), ``rate``, ``unlink``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from msgspec import Struct, field

from shardwright.errors import SandboxError
from shardwright.sandbox._linux import _libc
from shardwright.sandbox._linux._links import ShapedLink
from shardwright.sandbox._linux._places import places_of

_OURS, _THEIRS = "169.254.83.1", "169.254.83.2"
_PIECE = 1 << 16
_CONNECT_S = 20.0
_BACKLOG = 128


class _Linked(Struct):
    """What one shard has."""

    link: ShapedLink | None = None
    listening: list[socket.socket] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def close_sockets(self) -> None:
        """On the loop, if there is one."""
        for task in list(self.tasks):
            task.cancel()
        for each in self.listening:
            each.close()

    def close_link(self) -> None:
        if self.link is not None:
            self.link.close()


class Relay:
    """Serves one node. ``do`` changes the network namespace of its thread for a while: one thread, which does nothing else.

    ``loop`` is where connections are carried, in another thread.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._own = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._shards: dict[str, _Linked] = {}
        self._numbers = 0

    def do(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Raises SandboxError, OSError, KeyError."""
        match asked["do"]:
            case "link":
                self._link(asked["shard"], int(asked["pid"]), asked["places"], int(asked["bits_s"]))
            case "rate":
                linked = self._shards.get(asked["shard"])
                if linked is None or linked.link is None:
                    raise SandboxError(f"{asked['shard']} has no link")
                return {"bits_s": linked.link.set_rate(int(asked["bits_s"]))}
            case "unlink":
                linked = self._shards.pop(asked["shard"], None)
                if linked is not None:
                    self._close(linked)
        return {}

    def _link(self, shard: str, pid: int, places: list[str], bits_s: int) -> None:
        linked = self._shards[shard] = _Linked()
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        sockets: list[tuple[socket.socket, str, int]] = []
        try:
            if os.path.sameopenfile(theirs, self._own):
                raise SandboxError(f"{shard} has no network of its own")
            wanted = places_of(places)
            away = [each for each in wanted if not ipaddress.ip_address(each[0]).is_loopback]
            if away:
                _libc.unshare(_libc.CLONE_NEWNET)
                self._numbers += 1
                linked.link = ShapedLink(f"swt{os.getpid()}.{self._numbers % 1000}"[:15], pid, _OURS, _THEIRS, bits_s)
                linked.link.give_addresses([address for address, _, _ in away])
                sockets += [(_listen(address, port), host, port) for address, host, port in away]
            _enter(theirs)
            sockets += [(_listen(at, port), host, port) for at, host, port in wanted if (at, host, port) not in away]
        except BaseException:
            linked.listening = [each for each, _, _ in sockets]
            del self._shards[shard]
            self._close(linked)
            raise
        finally:
            _enter(self._own)
            os.close(theirs)
        for each, host, port in sockets:
            linked.listening.append(each)
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._begin(linked, each, host, port), self._loop).result()

    def _close(self, linked: _Linked) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(linked.close_sockets)
        else:
            linked.close_sockets()
        linked.close_link()

    async def _begin(self, linked: _Linked, listening: socket.socket, host: str, port: int) -> None:
        self._keep(linked, self._serve(linked, listening, host, port))

    def probe(self) -> None:
        """A link between two namespaces of nobody's, by a process with one thread. Raises SandboxError, OSError."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            try:
                _libc.unshare(_libc.CLONE_NEWNET)
                os.write(writer, b"+")
                signal.pause()
            finally:
                os._exit(0)
        os.close(writer)
        try:
            if os.read(reader, 1) == b"+":
                self._link("probe", pid, ["192.0.2.1:1"], 10**9)
                self._close(self._shards.pop("probe"))
            else:
                raise SandboxError("no network namespace can be made here")
        finally:
            os.close(reader)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    @staticmethod
    def _keep(linked: _Linked, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        linked.tasks.add(task)
        task.add_done_callback(linked.tasks.discard)

    async def _serve(self, linked: _Linked, listening: socket.socket, host: str, port: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                inside, _ = await loop.sock_accept(listening)
            except OSError:  # too many descriptors for the moment
                await asyncio.sleep(0.1)
                continue
            self._keep(linked, _carry(inside, host, port))


def _enter(namespace: int) -> None:
    _libc.setns(namespace, _libc.CLONE_NEWNET)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def _carry(inside: socket.socket, host: str, port: int) -> None:
    """One connection, both ways, until both sides have said all. What cannot be reached is reset, as if it had refused."""
    writers: list[asyncio.StreamWriter] = []
    try:
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), _CONNECT_S)
        except (OSError, TimeoutError):
            inside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            inside.close()
            return
        writers.append(writer)
        its_reader, its_writer = await asyncio.open_connection(sock=inside)
        writers.append(its_writer)
        await asyncio.gather(_pour(reader, its_writer), _pour(its_reader, writer))
    except OSError:
        pass  # either side may go at any time
    finally:
        for each in writers:
            each.close()
        inside.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def serve(sock: socket.socket, trouble: str) -> None:
    """Until the node is gone; then the kernel takes what is left."""
    loop = asyncio.get_running_loop()
    relay, thread = Relay(loop), ThreadPoolExecutor(1)
    reader, writer = await asyncio.open_connection(sock=sock)
    with contextlib.suppress(ConnectionError):
        while line := await reader.readline():
            asked = json.loads(line)
            try:
                if trouble:
                    raise SandboxError(trouble)
                answer = await loop.run_in_executor(thread, relay.do, asked)
            except SandboxError as error:
                answer = {"error": error.message}
            except (OSError, KeyError, ValueError) as error:
                answer = {"error": f"{asked.get('do')}: {error}"}
            writer.write(json.dumps({**answer, "id": asked.get("id")}).encode() + b"\n")
            await writer.drain()


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with the node
    trouble = ""
    try:
        Relay().probe()
    except SandboxError as error:
        trouble = error.message
    except OSError as error:
        trouble = str(error)
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1])), trouble))


if __name__ == "__main__":
    main()
