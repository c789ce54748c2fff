"""The ``oci:<runtime>`` backends: shards in containers that an OCI runtime of the machine makes."""

from shardwright.sandbox.oci._backend import OciBackend, OciSandbox, sweep_containers
from shardwright.sandbox.oci._plain import plain_bundle

__all__ = ["OciBackend", "OciSandbox", "plain_bundle", "sweep_containers"]
