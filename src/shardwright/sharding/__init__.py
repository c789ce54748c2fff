"""Cuts an application into ShardDefinitions: reads its source, finds edges, entry points, state and hazards."""

from shardwright.sharding._codes import CODES, Code, alters, codes_markdown
from shardwright.sharding._found import Explanation, component_graph, explain, explanation_text
from shardwright.sharding._plan import plan
from shardwright.sharding._propose import propose_manifest
from shardwright.sharding._render import explanation_json, plan_json, plan_text
from shardwright.sharding.hazards import rules_markdown

__all__ = [
    "CODES",
    "Code",
    "Explanation",
    "alters",
    "codes_markdown",
    "component_graph",
    "explain",
    "explanation_json",
    "explanation_text",
    "plan",
    "plan_json",
    "plan_text",
    "propose_manifest",
    "rules_markdown",
]
