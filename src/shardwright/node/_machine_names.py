"""Which backend of virtual machines is meant: a name that says its monitor, its kernel and where its disks are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shardwright.errors import NodeError
from shardwright.node._state import state_folder

__all__ = ["kind_of", "machine_backend", "store_folder"]


def machine_backend(isolation: str, environment: Mapping[str, str]) -> str:
    """The backend's whole name for isolation ``microvm``: its monitor and its kernel's folder; empty for any other."""
    if isolation != "microvm":
        return ""
    monitor = environment.get("SHARDWRIGHT_MICROVM") or "qemu"
    kernel = environment.get("SHARDWRIGHT_KERNEL") or "/"
    return f"microvm:{monitor}:{os.path.abspath(kernel)}:{store_folder(environment)}"


def store_folder(environment: Mapping[str, str]) -> Path:
    """Where disks of machines are kept."""
    base = environment.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "shardwright" / "machines"
    try:
        return state_folder(environment).parent / "shardwright" / "machines"
    except NodeError:
        return Path("/var/tmp/shardwright-machines")


def kind_of(backend: str) -> str:
    """The isolation that a backend is of, as the manifest has it; for people."""
    return "microvm" if backend.startswith("microvm:") else backend
