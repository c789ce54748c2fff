"""What a shard's walls refused, in words that name the line of the manifest to add."""

from __future__ import annotations

import os
from pathlib import Path

from shardwright.model.manifest import Manifest

_LONGEST = 300


def denial(manifest: Manifest, component: str, what: str) -> str:
    """An event's text for ``read PATH``, ``write PATH`` or ``connect HOST:PORT``; empty where nothing was refused.

    What does not exist outside either is no refusal: it is missing, as anywhere.
    """
    kind, _, name = what.partition(" ")
    name = name[:_LONGEST]
    if not name.isprintable():
        return ""
    if kind == "connect":
        line = f'network = {{ egress = ["{name}"] }}'
        where = "network"
    elif kind in ("read", "write"):
        there = name if kind == "read" else os.path.dirname(name)
        try:
            if not os.path.exists(there):
                return ""
        except (OSError, ValueError):
            return ""
        line = f'files = {{ {kind} = ["{_relative(name, manifest)}"] }}'
        where = "files"
    else:
        return ""
    place = manifest.place(f"components.{component}.{where}")
    return f"may not {'connect to' if kind == 'connect' else kind} {name}: add {line} to [components.{component}] ({place})"


def _relative(path: str, manifest: Manifest) -> str:
    base = str(Path(manifest.path).parent)
    return os.path.relpath(path, base) if path.startswith(base + os.sep) else path
