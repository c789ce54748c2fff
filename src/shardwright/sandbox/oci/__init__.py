"""The ``oci:<runtime>`` backends: shards in containers that an OCI runtime of the machine makes."""

from shardwright.sandbox.oci._backend import OciBackend, OciSandbox, sweep_containers

__all__ = ["OciBackend", "OciSandbox", "sweep_containers"]
