"""Cuts an application into ShardDefinitions: reads its source, finds edges, entry points, state and hazards."""

from shardwright.sharding._codes import CODES, codes_markdown
from shardwright.sharding._plan import plan

__all__ = ["CODES", "codes_markdown", "plan"]
