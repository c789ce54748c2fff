"""How descriptors get into a container whose daemon passes none on: by a socket that is mounted into it, once.

The first program of the container is ``BOOT``, in the guest's own interpreter: it forks, stays as the container's init, and
its child fetches descriptors, environment and arguments, and becomes the guest. Nobody else sees that socket; whoever
connects later finds nobody.
"""

from __future__ import annotations

import contextlib
import json
import select
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from shardwright.errors import SandboxError

INSIDE = "/run/shardwright"
_PEER = struct.Struct("3i")
LENGTH = struct.Struct("<I")
_START_S = 60.0
_MOST_TEXT = 4096
BOOT = """\
import fcntl, json, os, signal, socket, struct, sys
guest = os.fork()  # the first of a pid namespace cannot be ended by a signal from within, and must reap
if guest:
    os.closerange(0, 1024)
    status = 0
    while True:
        pid, status = os.wait()
        if pid == guest:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
os.setsid()
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
data, fds, _, _ = socket.recv_fds(s, 4, 250)
while len(data) < 4:
    data += s.recv(4 - len(data))
left, text = struct.unpack("<I", data)[0], b""
while len(text) < left:
    text += s.recv(left - len(text))
told = json.loads(text)
numbers = told["numbers"]
try:
    free = max([2, *numbers]) + 1
    away = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, free) for fd in (s.fileno(), *fds)]
    for number, fd in zip(numbers, away[1:]):
        os.dup2(fd, number, inheritable=True)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in {0, 1, 2} - set(numbers):
        os.dup2(null, number, inheritable=True)
    kept = {0, 1, 2, away[0], *numbers}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass
    os.chdir(told["folder"])
    os.execve(told["arguments"][0], told["arguments"], told["environment"])
except BaseException as error:
    os.write(away[0], f"{told['arguments'][0]} cannot be run: {error}".encode())
os._exit(127)
"""


class Doorstep:
    """The socket that waits for one container. A context manager: its folder goes with it."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="swd-")
        self.path = f"{self.folder}/door"
        self._listening = socket.socket(socket.AF_UNIX)
        self._connection = self._listening  # until somebody knocks

    def __enter__(self) -> Doorstep:
        self._listening.bind(self.path)
        self._listening.listen(1)
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()
        self._connection.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def knock(self, still_runs: Iterator[bool]) -> int:
        """Who is to become the guest, by its number out here; it waits. Raises SandboxError when none comes.

        ``still_runs`` is asked now and then.
        """
        waited_s = 0.0
        while not select.select([self._listening], [], [], 0.25)[0]:
            waited_s += 0.25
            if waited_s >= _START_S or not next(still_runs):
                raise SandboxError("the container ended, or did nothing, before its program was loaded")
        self._connection, _ = self._listening.accept()
        credentials = self._connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        return int(_PEER.unpack(credentials)[0])

    def hand_over(
        self, descriptors: Mapping[int, int], arguments: Sequence[str], environment: Mapping[str, str], folder: str
    ) -> None:
        """To whom ``knock`` told of, once it is the guest. Raises SandboxError."""
        connection = self._connection
        with connection:
            connection.settimeout(_START_S)
            numbers = list(descriptors)
            text = json.dumps(
                {"numbers": numbers, "arguments": list(arguments), "environment": dict(environment), "folder": folder}
            ).encode()
            with contextlib.suppress(BrokenPipeError):  # what it says is read below
                socket.send_fds(connection, [LENGTH.pack(len(text))], [descriptors[number] for number in numbers])
                connection.sendall(text)
            said = b""
            try:
                while piece := connection.recv(_MOST_TEXT):
                    said += piece
            except TimeoutError:
                said = b"the container did not become its program in time"
            if said:
                raise SandboxError(said.decode("utf-8", "replace"))


def boot_command(interpreter: str) -> list[str]:
    return [interpreter, "-I", "-S", "-c", BOOT, INSIDE]
