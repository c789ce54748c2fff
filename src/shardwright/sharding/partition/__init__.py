"""Divides a weighted graph into parts: several capacities, sets that stay together, pairs that must not meet."""

from shardwright.sharding.partition._generate import generate
from shardwright.sharding.partition._solve import partition
from shardwright.sharding.partition._task import Partition, PartitionTask

__all__ = ["Partition", "PartitionTask", "generate", "partition"]
