"""What isolation ``auto`` comes to: walls where nothing that a component does can differ because of them.

1. Never for the component that runs ``app.main``: it acts for a user, with places from the command line.
2. Else, where all that its code reaches lies literally within what its section of the manifest states: walls.
3. So where it reaches nothing: walls, whatever is stated.
4. Else a process, and the first place that is the reason is named, with the line to add.

A path is covered only where the code says it from the root on: a relative one is the working directory's, of which no
manifest knows.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from shardwright.model.manifest import Files, Network
from shardwright.model.shard import PLAIN, WALLS, AutoIsolation, Reach
from shardwright.sharding.reaches._known import FILES, NETWORK, PROCESS


def auto_isolation(
    component: str, reaches: Iterable[Reach], *, runs_main: bool, files: Files, network: Network
) -> AutoIsolation:
    """The rule. ``files`` and ``network`` as the component's section states them."""
    reaches = tuple(reaches)
    left = tuple(each for each in reaches if not _covered(each, files, network))
    section = f"[components.{component}]"
    if runs_main:
        return AutoIsolation(
            PLAIN, "it runs app.main, with places from the command line",
            f'isolation = "namespace" in {section}, with `files` for every place that it is given', left,
        )  # fmt: skip
    if left:
        more = f", and {len(left) - 1} more" if len(left) > 1 else ""
        return AutoIsolation(PLAIN, f"{left[0].site}: {left[0].what}{more}", _remedy(left, section), left)
    if reaches:
        return AutoIsolation(WALLS, "its section states all that its code reaches")
    return AutoIsolation(WALLS, "its code reaches no files, no network and no processes")


def _covered(reach: Reach, files: Files, network: Network) -> bool:
    if not reach.place:
        return False
    if reach.kind == NETWORK:
        return reach.place in network.egress
    if reach.kind != FILES or not posixpath.isabs(reach.place):
        return False
    stated = files.write if reach.writes else (*files.read, *files.write)
    return any(_within(reach.place, place) for place in stated)


def _within(path: str, place: str) -> bool:
    path, place = posixpath.normpath(path), posixpath.normpath(place)
    return path == place or path.startswith(place.rstrip("/") + "/")


def _remedy(left: tuple[Reach, ...], section: str) -> str:
    """The line to add. Where nobody can tell from here what that code wants, the author states walls, or lets it be."""
    if len(left) == 1 and left[0].place:
        reach = left[0]
        if reach.kind == NETWORK:
            return f'network = {{ egress = ["{reach.place}"] }} in {section}'
        if reach.kind == FILES and posixpath.isabs(reach.place):
            return f'files = {{ {"write" if reach.writes else "read"} = ["{reach.place}"] }} in {section}'
    wants = [
        f"`{name}`" for kind, name in ((FILES, "files"), (NETWORK, "network")) if any(r.kind == kind for r in left)
    ]
    with_what = f", with {' and '.join(wants)} for what it needs" if wants else ""
    hint = " if its processes may stay behind walls" if any(each.kind == PROCESS for each in left) else ""
    return f'isolation = "namespace" in {section}{with_what}{hint}'
