"""Seams: what third parties implement."""

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
