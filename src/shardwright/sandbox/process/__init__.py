"""The ``process`` backend: a process group of its own, limits by control groups where the machine permits them."""

from shardwright.sandbox.process._backend import ProcessBackend
from shardwright.sandbox.process._sandbox import ProcessSandbox

__all__ = ["ProcessBackend", "ProcessSandbox"]
