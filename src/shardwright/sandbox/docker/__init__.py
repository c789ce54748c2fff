"""The ``docker`` backend: shards in containers of a Docker daemon, or of podman's socket, which speaks the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardwright._lazy import lazily

if TYPE_CHECKING:
    from shardwright.sandbox.docker._backend import SOCKET, DockerBackend, DockerSandbox

__all__ = ["SOCKET", "DockerBackend", "DockerSandbox"]

__getattr__ = lazily(__name__, {"_backend": "DockerBackend DockerSandbox SOCKET"})
