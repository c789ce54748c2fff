"""Whether a profile is of this version of the code."""

from __future__ import annotations

from collections.abc import Mapping

from shardwright.model.profile import Profile


def changed_sources(profile: Profile, sources: Mapping[str, str]) -> tuple[str, ...]:
    """The modules that differ between a profile and the code, in words, in order; none when it is of this version.

    ``sources`` are the hashes of the modules now.
    """
    lines = []
    for name in sorted({*profile.sources, *sources}):
        before, now = profile.sources.get(name), sources.get(name)
        if before != now:
            lines.append(
                f"{name} is new" if before is None else f"{name} is gone" if now is None else f"{name} changed"
            )
    return tuple(lines)
