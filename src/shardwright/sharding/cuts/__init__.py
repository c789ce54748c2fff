"""Cuts inside components: which functions may run in other shards, which loops may run ahead, and what pays."""

from shardwright.sharding.cuts._choose import Chosen, candidates, choose
from shardwright.sharding.cuts._made import forced
from shardwright.sharding.cuts._stale import changed_sources

__all__ = ["Chosen", "candidates", "changed_sources", "choose", "forced"]
