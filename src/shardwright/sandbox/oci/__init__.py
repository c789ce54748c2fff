"""The ``oci:<runtime>`` backends: shards in containers that an OCI runtime of the machine makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardwright._lazy import lazily

if TYPE_CHECKING:
    from shardwright.sandbox.oci._backend import OciBackend, OciSandbox
    from shardwright.sandbox.oci._layers import Blob, Layout
    from shardwright.sandbox.oci._needed import needed
    from shardwright.sandbox.oci._plain import plain_bundle
    from shardwright.sandbox.oci._sweep import sweep_containers

__all__ = ["Blob", "Layout", "OciBackend", "OciSandbox", "needed", "plain_bundle", "sweep_containers"]

__getattr__ = lazily(
    __name__,
    {
        "_backend": "OciBackend OciSandbox",
        "_layers": "Blob Layout",
        "_needed": "needed",
        "_plain": "plain_bundle",
        "_sweep": "sweep_containers",
    },
)
