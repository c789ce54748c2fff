"""What a manifest asks for that this version, or this machine, cannot give: refused, or said once."""

from __future__ import annotations

from collections.abc import Collection

from shardwright.errors import ManifestError
from shardwright.model.manifest import Manifest

BACKENDS = ("auto", "process")


def refuse_unbuilt(manifest: Manifest) -> None:
    """Raises ManifestError for isolation that no backend here gives: weaker isolation is never given in its place."""
    problems = tuple(
        f"{manifest.place(f'components.{component.name}.isolation')}: components.{component.name}.isolation: "
        f"{component.isolation!r} is not available in this version; expected {' or '.join(map(repr, BACKENDS))}"
        for component in manifest.components
        if component.isolation not in BACKENDS
    )
    if problems:
        raise ManifestError("the manifest asks for isolation that is not available", problems=problems)


def not_enforced(manifest: Manifest, enforces: Collection[str]) -> tuple[str, ...]:
    """What the manifest states and nobody will hold anybody to, in words, one line a component."""
    lines = []
    for component in manifest.components:
        ceiling, names = component.limits.ceiling, []
        stated = {
            "cpu": ceiling.cpu,
            "memory": ceiling.memory_bytes,
            "io": ceiling.io_bytes_s,
            "network": ceiling.network_bits_s,
            "gpu": ceiling.gpu,
            "gpu_memory": ceiling.gpu_memory_bytes,
        }
        names += [f"limits.{name}" for name, amount in stated.items() if amount is not None and name not in enforces]
        if component.files.read or component.files.write:
            names.append("files")
        if component.network.egress:
            names.append("network")
        if names:
            lines.append(f"{component.name}: stated, but not enforced at isolation `process`: {', '.join(names)}")
    return tuple(lines)
