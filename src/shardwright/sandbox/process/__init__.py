"""The ``process`` backend: processes that are told by a mark, limits by control groups where the machine permits them."""

from shardwright.sandbox.process._backend import ProcessBackend
from shardwright.sandbox.process._kin import end_descendants
from shardwright.sandbox.process._sandbox import ProcessSandbox

__all__ = ["ProcessBackend", "ProcessSandbox", "end_descendants"]
