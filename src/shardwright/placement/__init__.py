"""What fits where."""

from shardwright.placement._capacity import Capacity

__all__ = ["Capacity"]
