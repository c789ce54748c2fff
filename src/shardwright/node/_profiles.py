"""Where profiles and what was calibrated are kept, and how they are read.

A profile is JSON beside the manifest; what calls cost on this machine is in the user's state folder.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from shardwright.errors import ManifestError
from shardwright.model.manifest import Manifest
from shardwright.model.profile import CostConstants, Profile
from shardwright.node._state import state_folder

PROFILE_VERSION = 1
CALIBRATED_FOR_S = 30 * 86400.0
_FILE = "calibration.json"


class _Calibrated(msgspec.Struct):
    constants: CostConstants
    wall_s: float


def profile_path(manifest: Manifest) -> Path:
    """``shardwright.profile.json`` for ``shardwright.toml``."""
    path = Path(manifest.path)
    return path.with_name(f"{path.stem}.profile.json")


def read_profile(manifest: Manifest) -> Profile | None:
    """The stored profile; None where there is none. Raises ManifestError when it cannot be read."""
    path = profile_path(manifest)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error
    try:
        found = msgspec.json.decode(raw, type=Profile)
    except msgspec.DecodeError as error:
        raise ManifestError(f"{path} is no profile: {error}", remedy="remove it, or profile again") from error
    if found.version != PROFILE_VERSION:
        raise ManifestError(
            f"{path} is of version {found.version}; this one reads {PROFILE_VERSION}",
            remedy="remove it, and profile again",
        )
    return found


def write_profile(manifest: Manifest, profile: Profile) -> Path:
    """Store it, all or nothing."""
    path = profile_path(manifest)
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(profile), indent=1))
    partial.replace(path)
    return path


def host() -> str:
    """What tells machines apart that calls cost differently on."""
    return f"{platform.node()} {platform.machine()} {os.cpu_count()} cores, Python {platform.python_version()}"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def assumed() -> CostConstants:
    """Where nothing was measured: rather dear, so that few cuts are made."""
    return CostConstants(round_trip_s=200e-6, byte_s=4e-9, fork_s=0.02, cores=cores(), host="")


def read_constants(environment: Mapping[str, str]) -> CostConstants:
    """What calls cost here, measured not long ago; what is assumed otherwise."""
    try:
        raw = (state_folder(environment) / _FILE).read_bytes()
        found = msgspec.json.decode(raw, type=_Calibrated)
    except (OSError, msgspec.DecodeError):
        return assumed()
    fresh = 0 <= time.time() - found.wall_s < CALIBRATED_FOR_S
    if not fresh or found.constants.host != host():
        return assumed()
    return found.constants


def write_constants(environment: Mapping[str, str], constants: CostConstants) -> None:
    """Keep what was measured now."""
    folder = state_folder(environment)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f".{_FILE}.{os.getpid()}"
    partial.write_bytes(msgspec.json.encode(_Calibrated(constants, time.time())))
    partial.replace(folder / _FILE)
