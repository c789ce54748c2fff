"""Seams: what third parties implement."""

from typing import TYPE_CHECKING

from shardwright._lazy import lazily

if TYPE_CHECKING:
    from shardwright.contracts.clock import Clock, SystemClock
    from shardwright.contracts.forecast import Forecast, Forecaster, ForecasterFactory
    from shardwright.contracts.sandbox import (
        Capabilities,
        Exit,
        Finding,
        Fingerprint,
        LaunchSpec,
        Sandbox,
        SandboxBackend,
        SandboxHandle,
    )
    from shardwright.contracts.transport import Channel, Part, Transport

__getattr__ = lazily(
    __name__,
    {
        "clock": "Clock SystemClock",
        "forecast": "Forecast Forecaster ForecasterFactory",
        "sandbox": "Capabilities Exit Finding Fingerprint LaunchSpec Sandbox SandboxBackend SandboxHandle",
        "transport": "Channel Part Transport",
    },
)

__all__ = [
    "Capabilities",
    "Channel",
    "Clock",
    "Exit",
    "Finding",
    "Fingerprint",
    "Forecast",
    "Forecaster",
    "ForecasterFactory",
    "LaunchSpec",
    "Part",
    "Sandbox",
    "SandboxBackend",
    "SandboxHandle",
    "SystemClock",
    "Transport",
]
