"""Where an application's journal lives, and that nobody but its user had a hand in it."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Mapping
from pathlib import Path

from shardwright.errors import NodeError

_NOBODY = 65534
REMEDY = "set XDG_STATE_HOME to a folder of yours that can be written"


def state_folder(environment: Mapping[str, str]) -> Path:
    """Where journals live: below XDG_STATE_HOME, else in the home of the effective user.

    Variables that are empty or relative count as not set, and without HOME the user's entry in the system's list of
    users says where it is: never a folder that others may write, never the working directory. Raises NodeError when
    there is no such entry.
    """
    base = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "shardwright"
    home = environment.get("HOME", "")
    if not os.path.isabs(home):
        try:
            home = pwd.getpwuid(os.geteuid()).pw_dir
        except KeyError:
            home = ""
        if not os.path.isabs(home):
            raise NodeError(f"user {os.geteuid()} has no home folder to keep a journal in", remedy=REMEDY)
    return Path(home) / ".local" / "state" / "shardwright"


def open_folder(folder: Path) -> int:
    """A descriptor of that folder, made where it is not there, each folder that is made of mode 0700.

    Raises NodeError when it cannot be had, is a link, belongs to another user, or can be written by others; or when another
    user may put something else in its place, because a folder above it is theirs.
    """
    folder = Path(os.path.abspath(folder))
    try:
        _make(folder)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise unusable(folder, _why(error)) from None
    trouble = _trouble(os.fstat(descriptor), stat.S_IWGRP | stat.S_IWOTH) or _trouble_above(folder)
    if trouble:
        os.close(descriptor)
        raise unusable(folder, trouble)
    return descriptor


def prepare_file(folder: int, path: Path) -> bool:
    """Make the file of that name in an opened folder, of mode 0600; whether it was there already.

    Raises NodeError when it is no regular file, belongs to another user, or is open to others; ``path`` is for people.
    """
    try:
        made = os.open(path.name, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=folder)
        os.close(made)
        return False
    except FileExistsError:
        pass
    except OSError as error:
        raise unusable(path, _why(error)) from None
    try:
        # a descriptor that was opened by O_PATH only drops no lock of ours on that file when it is closed
        there = os.open(path.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        try:
            status = os.fstat(there)
        finally:
            os.close(there)
    except OSError as error:
        raise unusable(path, _why(error)) from None
    if not stat.S_ISREG(status.st_mode):
        raise unusable(path, "it is no regular file")
    if trouble := _trouble(status, 0o077):
        raise unusable(path, trouble)
    return True


def unusable(path: Path, why: str) -> NodeError:
    return NodeError(f"the journal cannot be kept at {path}: {why}", remedy=REMEDY)


def folder_trouble(folder: Path) -> str:
    """Why ``open_folder`` would fail there, as far as can be seen without making anything; else empty."""
    try:
        status = os.lstat(folder)
    except FileNotFoundError:
        above = next((parent for parent in folder.parents if parent.exists()), folder)
        if not above.is_dir():
            return f"{above} is no folder"
        return "" if os.access(above, os.W_OK | os.X_OK) else f"{above} cannot be written"
    except OSError as error:
        return f"{folder}: {_why(error)}"
    if not stat.S_ISDIR(status.st_mode):
        return f"{folder} is no folder"
    if trouble := _trouble(status, stat.S_IWGRP | stat.S_IWOTH) or _trouble_above(folder):
        return f"{folder}: {trouble}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else f"{folder} cannot be written"


def _make(folder: Path) -> None:
    missing = []
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:  # another node makes it as well
            if not each.is_dir():
                raise


def _trouble(status: os.stat_result, forbidden: int) -> str:
    if status.st_uid != os.geteuid():
        return f"it belongs to another user ({status.st_uid})"
    if status.st_mode & forbidden:
        return f"it is open to other users (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _trouble_above(folder: Path) -> str:
    """Why what is below these folders may be another's tomorrow: paths are used again while the node runs.

    Folders of root are trusted, those that anybody may write if only owners may rename there (``/tmp``), and those of the
    user's own group. In a user namespace the machine's root is the nobody of that number.
    """
    ours = {0, os.geteuid(), _NOBODY}
    for path in dict.fromkeys((*folder.parents, *Path(os.path.realpath(folder)).parents)):
        status = os.lstat(path)
        if status.st_uid not in ours:
            return f"{path} above it belongs to another user ({status.st_uid})"
        shared = stat.S_IWOTH | (0 if status.st_gid in (0, os.getegid()) else stat.S_IWGRP)
        if not stat.S_ISLNK(status.st_mode) and status.st_mode & shared and not status.st_mode & stat.S_ISVTX:
            return f"{path} above it is open to other users (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _why(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "it is a link, or no folder"
    where = f"{error.filename}: " if isinstance(error.filename, str) and os.path.isabs(error.filename) else ""
    return f"{where}{error.strerror or error}"
