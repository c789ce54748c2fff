"""The agent of a virtual machine: its first process, which runs one program there and speaks to the node over a bridge.

``python -m shardwright.guest._agent WAY``, where ``WAY`` is ``virtio-serial`` or ``vsock``. It opens the machine's one stream
of bytes, has a bridge serve it in a process of its own, and takes orders over the bridge's first stream: run this program with
these descriptors, change its limits. It says how the program ended; then, or when the node is gone, it switches the machine
off.

What is on that stream: ``u32`` length, little-endian, and JSON of ``AgentOrder`` towards the agent, of ``AgentWord`` towards
the node; descriptors of a program come with the first byte of the order to run it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from shardwright.transport.bridge import Bridge

PORT_NAME = "shardwright.bridge"
VSOCK_PORT = 5201
MAX_ORDER = 2**22
MAX_WORD = 2**14
_LENGTH = struct.Struct("<I")
_MOST_DESCRIPTORS = 64
_PORT_S = 30.0
_LEAVE_S = 30.0
_GROUP = Path("/sys/fs/cgroup/shard")
_POWER_OFF, _RESTART = 0x4321FEDC, 0x01234567


class AgentOrder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Run ``arguments``, or, without any, change limits alone. Numbers are those of the descriptors that come with it."""

    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    folder: str = "/"
    numbers: tuple[int, ...] = ()
    memory_bytes: int | None = None
    max_pids: int | None = None


class AgentWord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the agent says: ``started`` (a pid of its machine), ``failed`` (why it could not), ``ended`` (a status)."""

    started: int = 0
    failed: str = ""
    ended: int | None = None
    out_of_memory: bool = False


def agent_bytes(message: AgentOrder | AgentWord) -> bytes:
    """The bytes of one message."""
    body = msgspec.json.encode(message)
    return _LENGTH.pack(len(body)) + body


class AgentWords:
    """What came of the other side's messages. Raises ValueError for one that is none, before it is taken in."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()

    def bodies(self, data: bytes) -> Iterator[bytes]:
        self._held += data
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > self._limit:
                raise ValueError(f"a message of {length} bytes; {self._limit} are permitted")
            if len(self._held) < _LENGTH.size + length:
                return
            body = bytes(self._held[_LENGTH.size : _LENGTH.size + length])
            del self._held[: _LENGTH.size + length]
            yield body


class Agent:
    """Serves one conversation, with one program."""

    def __init__(self, orders: socket.socket) -> None:
        self._orders = orders
        self._words = AgentWords(MAX_ORDER)
        self._descriptors: list[int] = []
        self._program = 0

    def run(self) -> None:
        """Until the program has ended, or the node is gone."""
        wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._orders, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._orders.fileno() in ready and not self._hear():
                return
            if wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(wake, 4096)
                if self._reap():
                    return

    def wait_for_leave(self) -> None:
        """Until the node has read what it wants to; what the program said last may still be on its way."""
        self._orders.settimeout(_LEAVE_S)
        while self._orders.recv(4096):
            pass

    def _hear(self) -> bool:
        """False when the node is gone."""
        data, found, _, _ = socket.recv_fds(self._orders, 65536, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return False
        self._descriptors += found
        for body in self._words.bodies(data):
            self._obey(msgspec.json.decode(body, type=AgentOrder))
        return True

    def _obey(self, order: AgentOrder) -> None:
        self._limit(order)
        if not order.arguments:
            return
        mine, self._descriptors = self._descriptors[: len(order.numbers)], self._descriptors[len(order.numbers) :]
        why = ""
        if len(mine) < len(order.numbers):
            why = "its descriptors did not come"
        else:
            self._program, why = _start(order, mine)
        for descriptor in mine:
            os.close(descriptor)
        self._say(AgentWord(failed=why) if why else AgentWord(started=self._program))

    def _limit(self, order: AgentOrder) -> None:
        """Within the machine. The node's own control groups hold the machine as a whole, whatever is done here."""
        for name, amount in (("memory.max", order.memory_bytes), ("pids.max", order.max_pids)):
            if amount is not None:
                with contextlib.suppress(OSError):
                    (_GROUP / name).write_text(str(amount))

    def _reap(self) -> bool:
        """Whether the program is among those that ended."""
        over = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return over
            if not pid:
                return over
            if pid == self._program:
                over = True
                self._say(AgentWord(ended=os.waitstatus_to_exitcode(status), out_of_memory=_out_of_memory()))

    def _say(self, word: AgentWord) -> None:
        with contextlib.suppress(OSError):
            self._orders.sendall(agent_bytes(word))


def _out_of_memory() -> bool:
    with contextlib.suppress(OSError):
        for line in (_GROUP / "memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1]) > 0
    return False


def _start(order: AgentOrder, descriptors: list[int]) -> tuple[int, str]:
    """The pid, once the program was loaded; or why it was not."""
    said, saying = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if not pid:
        _become(order, descriptors, saying)
    os.close(saying)
    with open(said, "rb") as file:
        why = file.read().decode("utf-8", "replace")
    if why:
        os.waitpid(pid, 0)
    return pid, why


def _become(order: AgentOrder, descriptors: list[int], saying: int) -> NoReturn:
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        with contextlib.suppress(OSError):
            (_GROUP / "cgroup.procs").write_text("0")
        free = max((2, *order.numbers)) + 1
        saying = fcntl.fcntl(saying, fcntl.F_DUPFD_CLOEXEC, free)
        away = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, free) for each in descriptors]
        for number, each in zip(order.numbers, away, strict=True):
            os.dup2(each, number, inheritable=True)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for number in {0, 1, 2} - set(order.numbers):
            os.dup2(null, number, inheritable=True)
        os.makedirs(order.folder, exist_ok=True)  # a folder of the node's need not hold anything that is here
        os.chdir(order.folder)
        os.execve(order.arguments[0], order.arguments, order.environment)
    except BaseException as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        os.write(saying, f"{order.arguments[0]} cannot be run: {reason}".encode("utf-8", "replace"))
    os._exit(127)


def open_port(way: str) -> int:
    """The machine's stream of bytes. Raises OSError, TimeoutError."""
    if way == "vsock":
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as listening:
            listening.bind((socket.VMADDR_CID_ANY, VSOCK_PORT))
            listening.listen(1)
            connection, _ = listening.accept()
            return connection.detach()
    end_s = time.monotonic() + _PORT_S
    while time.monotonic() < end_s:
        for entry in Path("/sys/class/virtio-ports").glob("vport*"):
            with contextlib.suppress(OSError):
                if (entry / "name").read_text().strip() == PORT_NAME:
                    return os.open(f"/dev/{entry.name}", os.O_RDWR | os.O_CLOEXEC)
        time.sleep(0.01)  # it comes when the console's driver has heard of it
    raise TimeoutError(f"there is no port named {PORT_NAME}")


def bridged(port: int) -> socket.socket:
    """The first stream, whose bridge runs in a process of its own: this one stays single, for it forks."""
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        os.close(port)
        _, found, _, _ = socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC)
        ours.close()
        if not found:
            raise OSError("the bridge ended before it began")
        return socket.socket(fileno=found[0])
    ours.close()

    def arrived(descriptor: int) -> None:
        socket.send_fds(theirs, [b"+"], [descriptor])
        theirs.close()
        os.close(descriptor)

    why = "it failed"
    try:
        why = Bridge(port, arrived=arrived).run()
    finally:
        print(f"the bridge ended: {why}", file=sys.stderr, flush=True)
        os._exit(0)


def main(argv: list[str]) -> None:
    first = os.getpid() == 1
    try:
        with contextlib.suppress(OSError):
            _GROUP.parent.joinpath("cgroup.subtree_control").write_text("+memory +pids")
        with contextlib.suppress(OSError):
            _GROUP.mkdir(exist_ok=True)
        agent = Agent(bridged(open_port(argv[1])))
        agent.run()
        agent.wait_for_leave()
    except OSError as error:
        print(f"the agent ends: {error}", file=sys.stderr, flush=True)
    finally:
        if first:
            ctypes.CDLL(None).reboot(_POWER_OFF if len(argv) < 3 else _RESTART)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv)
