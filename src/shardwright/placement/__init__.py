"""What fits where."""

from shardwright.placement._capacity import Capacity
from shardwright.placement._gpu import GpuLedger
from shardwright.placement._needs import Home, Placing, ShardNeed, Traffic
from shardwright.placement._placer import CorePlacer
from shardwright.placement._topology import Bank, Cpu, Topology

__all__ = [
    "Bank", "Capacity", "CorePlacer", "Cpu", "GpuLedger", "Home", "Placing", "ShardNeed", "Topology", "Traffic",
]  # fmt: skip
