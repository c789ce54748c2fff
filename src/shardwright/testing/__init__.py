"""Public fakes, conformance suites and the fault kit: for tests of Shardwright, and of what plugs into it."""

from shardwright.testing._sandboxes import SANDBOX_CHECKS, SandboxCheck, check_sandbox_backend
from shardwright.testing._transports import check_transport, transport_checks

__all__ = [
    "SANDBOX_CHECKS",
    "SandboxCheck",
    "check_sandbox_backend",
    "check_transport",
    "transport_checks",
]
