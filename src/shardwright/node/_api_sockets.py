"""Where nodes listen: one Unix socket for each, in a folder that only its user may enter."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import struct
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from shardwright.errors import NodeError
from shardwright.node._parents import parent_of

_NAME = re.compile(r"(?P<app>.+?)-(?P<pid>\d+)(?:-\d+)?\.sock")
_LONGEST_NAME = 48  # of an application in a file's name; /proc/self/fd/N/NAME must fit into 107 bytes
_DEEPEST = 64  # processes above one that are looked at
_YOUNG_S = 10.0  # a refused socket as young as this may be between bind and listen


def runtime_folder(environment: Mapping[str, str]) -> Path:
    """Where sockets live: below XDG_RUNTIME_DIR, else in /run/shardwright (root) or /tmp/shardwright-UID (others)."""
    base = environment.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base):
        return Path(base) / "shardwright"
    return Path("/run/shardwright") if os.geteuid() == 0 else Path(f"/tmp/shardwright-{os.geteuid()}")


def listen(folder: Path, app: str) -> tuple[socket.socket, Path]:
    """A listening socket of this process for ``app``, non-blocking, mode 0600; what dead nodes left is removed first.

    Raises NodeError when the folder cannot be had, or is not ours alone.
    """
    try:
        with _opened(folder, create=True) as descriptor:
            _sweep(descriptor)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                name = _bind(listener, descriptor, f"{_file_safe(app)}-{os.getpid()}")
                listener.listen(64)
                listener.setblocking(False)
            except BaseException:
                listener.close()
                raise
            return listener, folder / name
    except OSError as error:
        raise NodeError(
            f"no socket for other terminals in {folder}: {error.strerror or error}",
            remedy="set XDG_RUNTIME_DIR to a folder of yours",
        ) from error


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to the node that listens at ``path``. Raises OSError when none does."""
    with _opened(path.parent, create=False) as descriptor:
        return _connect(descriptor, path.name, timeout_s)


def live_sockets(folder: Path) -> list[tuple[Path, int]]:
    """The sockets of running nodes in ``folder`` with their process ids; those of dead nodes are passed over."""
    found = []
    try:
        with _opened(folder, create=False) as descriptor:
            for name, pid in _sockets(descriptor):
                try:
                    _connect(descriptor, name, 2.0).close()
                except OSError as error:
                    if error.errno not in (errno.EAGAIN, errno.EACCES):  # busy, or another user's: it lives
                        continue
                found.append((folder / name, pid))
    except OSError:
        return []
    return found


def folder_trouble(folder: Path) -> str:
    """Why nobody is looked for in this folder, though it is there; else empty."""
    try:
        with _opened(folder, create=False):
            return ""
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or str(error)


def peer(connection: socket.socket) -> tuple[int, int]:
    """The process id and the user at the other end, as the kernel says; 0 for a process that we cannot see."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", raw)
    return int(pid), int(uid)


def descends_from(pid: int, ancestors: Collection[int]) -> bool:
    """Whether that process, or one of those above it, is one of ``ancestors``."""
    for _ in range(_DEEPEST):
        if pid in ancestors:
            return True
        above = parent_of(pid) if pid > 1 else None
        if above is None:
            return False
        pid = above
    return False


def in_control_group(pid: int, prefix: str) -> bool:
    """Whether that process is in a control group whose name begins so, or beneath one."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return False
    return any(part.startswith(prefix) for line in lines for part in line.split(":", 2)[-1].split("/"))


@contextlib.contextmanager
def _opened(folder: Path, *, create: bool) -> Iterator[int]:
    """The folder by descriptor, so that long paths fit into a socket's address. Not ours alone: PermissionError."""
    if create:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        for each, owner in ((folder, status.st_uid), (folder.parent, os.stat(folder.parent).st_uid)):
            if owner not in (os.geteuid(), 0):  # for root too: after su, the variable may name a user's folder
                raise PermissionError(errno.EPERM, f"{each} belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            if not create or status.st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, f"{folder} is open to other users")
            os.fchmod(descriptor, 0o700)
        yield descriptor
    finally:
        os.close(descriptor)


def _bind(listener: socket.socket, folder: int, stem: str) -> str:
    for number in range(1, 100):  # several nodes of one application in one process
        name = f"{stem}.sock" if number == 1 else f"{stem}-{number}.sock"
        try:
            before = os.umask(0o177)  # it is never there with another mode
            try:
                listener.bind(f"/proc/self/fd/{folder}/{name}")
            finally:
                os.umask(before)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return name
    raise OSError(errno.EADDRINUSE, f"too many sockets named {stem}")


def _connect(folder: int, name: str, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # a non-blocking connect to a busy listener fails at once (EAGAIN); a blocking one waits for its turn
        patience = struct.pack("ll", int(timeout_s), int(timeout_s % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        if os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid not in (os.geteuid(), 0):
            raise PermissionError(errno.EPERM, f"{name} belongs to another user")
        connection.connect(f"/proc/self/fd/{folder}/{name}")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
        connection.settimeout(timeout_s)
    except BaseException:
        connection.close()
        raise
    return connection


def _sockets(folder: int) -> list[tuple[str, int]]:
    return [(name, int(match["pid"])) for name in sorted(os.listdir(folder)) if (match := _NAME.fullmatch(name))]


def _sweep(folder: int) -> None:
    """Remove sockets at which nobody listens any more."""
    for name, pid in _sockets(folder):
        with contextlib.suppress(OSError):
            try:
                _connect(folder, name, 1.0).close()
            except ConnectionRefusedError:
                age_s = time.time() - os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime
                if age_s > _YOUNG_S or not _alive(pid):
                    os.unlink(name, dir_fd=folder)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _file_safe(app: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", app)[:_LONGEST_NAME].lstrip(".") or "app"
