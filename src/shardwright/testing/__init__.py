"""Public fakes, conformance suites and the fault kit: for tests of Shardwright, and of what plugs into it.

The pytest plugin (``pytest --shardwright``) lives here as well; pytest loads its first module in every run, so importing
this package alone must cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardwright.testing._fault_kit import Fault, Faults, FaultyTransport
    from shardwright.testing._forecasters import check_forecaster, forecaster_checks
    from shardwright.testing._sandboxes import SANDBOX_CHECKS, SandboxCheck, check_sandbox_backend
    from shardwright.testing._transports import check_transport, transport_checks

__all__ = [
    "SANDBOX_CHECKS",
    "Fault",
    "Faults",
    "FaultyTransport",
    "SandboxCheck",
    "check_forecaster",
    "check_sandbox_backend",
    "check_transport",
    "forecaster_checks",
    "transport_checks",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        kinds = {"Fault": "_fault_kit", "transport": "_transports", "forecaster": "_forecasters"}
        room = next((room for kind, room in kinds.items() if kind in name), "_sandboxes")
        return getattr(import_module(f"shardwright.testing.{room}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
