"""Cuts an application into ShardDefinitions: reads its source, finds edges, entry points, state and hazards."""

from shardwright.sharding._codes import CODES, Code, alters, codes_markdown
from shardwright.sharding._plan import plan
from shardwright.sharding._propose import propose_manifest
from shardwright.sharding._render import plan_json, plan_text

__all__ = ["CODES", "Code", "alters", "codes_markdown", "plan", "plan_json", "plan_text", "propose_manifest"]
