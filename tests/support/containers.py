"""OCI runtimes that tests run shards with, where they are installed and may be used."""

from __future__ import annotations

import os

import pytest

from shardwright.sandbox.oci import OciBackend

RUNTIMES = ("runc", "crun")


def need(runtime: str) -> None:
    """Skip where there is no such runtime, or no right to use it."""
    if os.geteuid() != 0:
        pytest.skip("containers take root")
    if not OciBackend(runtime).is_there():
        pytest.skip(f"{runtime} is not installed")
