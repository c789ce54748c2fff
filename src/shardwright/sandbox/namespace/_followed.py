"""Real paths of what a manifest declares, in folders where a shard may have put symbolic links.

A shard that may write to ``var`` can make ``var/feed`` a link to any name. Whoever follows that link for it, with the rights
of who starts sandboxes, would show it the machine's files: so no link in a place that shards may write is followed, whoever
made it. What is looked up is opened later in a way that refuses links altogether (``_libc.open_plainly``), for a shard may be
quicker than any look.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from shardwright.errors import SandboxError

_MAX_LINKS = 40


class PlaceRefused(SandboxError):
    """What is declared leads through a link that a shard may have made."""


def above(path: str, others: Iterable[str]) -> str | None:
    """The nearest of ``others`` that holds that path, itself included."""
    best = None
    for other in others:
        if (path == other or path.startswith(other.rstrip("/") + "/")) and (best is None or len(other) > len(best)):
            best = other
    return best


def changing_places(paths: Iterable[str]) -> tuple[str, ...]:
    """The real places of what shards may write, by paths that may lead through one another."""
    found: list[str] = []
    for path in sorted(map(os.path.normpath, paths), key=len):
        found.append(path)
        try:
            found.append(followed(path, {}, found))
        except SandboxError:
            pass  # whoever wants that very place is told
    return tuple(dict.fromkeys(found))


def followed(path: str, links: dict[str, str], changing: Iterable[str]) -> str:
    """The real path; symbolic links on the way are noted in ``links``. Raises SandboxError, and PlaceRefused for a link
    beneath one of ``changing``.
    """
    changing, wanted = tuple(changing), path
    path = os.path.normpath(path)
    for _ in range(_MAX_LINKS):
        link = next((prefix for prefix in _prefixes(path) if os.path.islink(prefix)), None)
        if link is None:
            return path
        place = above(os.path.dirname(link), changing)
        if place is not None:
            raise PlaceRefused(
                f"{wanted} leads through the symbolic link {link}, and shards may write to {place}",
                remedy="remove that link if you did not make it; declare what it leads to, and not the link",
            )
        links[link] = target = os.readlink(link)
        path = os.path.normpath(os.path.join(os.path.dirname(link), target) + path[len(link) :])
    raise SandboxError(f"{path}: too many symbolic links")


def refuse_nested(paths: Iterable[str], changing: Iterable[str], backend: str) -> None:
    """For backends that others look paths up for, by name and later. ``paths`` are real. Raises PlaceRefused."""
    changing = tuple(changing)
    for path in paths:
        place = above(os.path.dirname(path), changing)
        if place is not None:
            raise PlaceRefused(
                f"{path} lies in {place}, where shards may write: by the time {backend} looks it up, it could be a link",
                remedy='keep what is read out of what is written, or choose isolation = "namespace"',
            )


def make_folder(path: str) -> None:
    """Make a folder and those above it, through no link. ``path`` is real. Raises OSError that names it."""
    at = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in path.strip("/").split("/"):
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                below = os.open(part, flags, dir_fd=at)
            except FileNotFoundError:
                try:
                    os.mkdir(part, dir_fd=at)
                except FileExistsError:
                    pass  # somebody else was quicker
                below = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = below
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(at)


def _prefixes(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))] if parts != [""] else []
