"""Public fakes, conformance suites and the fault kit: for tests of Shardwright, and of what plugs into it."""

from shardwright.testing._transports import check_transport, transport_checks

__all__ = [
    "check_transport",
    "transport_checks",
]
