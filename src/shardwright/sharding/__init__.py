"""Cuts an application into ShardDefinitions: reads its source, finds edges, entry points, state and hazards."""

from shardwright.sharding._codes import CODES, Code, alters, codes_markdown
from shardwright.sharding._draw import plan_mermaid, plan_svg
from shardwright.sharding._found import Explanation, component_graph, explain, explanation_text
from shardwright.sharding._found import scan_manifest as read_application
from shardwright.sharding._inside import Read, cut_components, cut_functions, cut_inside, hot_functions, sources_of
from shardwright.sharding._plan import plan
from shardwright.sharding._propose import propose_manifest
from shardwright.sharding._render import explanation_json, plan_json, plan_text
from shardwright.sharding.cuts import changed_sources
from shardwright.sharding.hazards import rules_markdown

__all__ = [
    "CODES",
    "Code",
    "Explanation",
    "Read",
    "alters",
    "changed_sources",
    "codes_markdown",
    "component_graph",
    "cut_components",
    "cut_functions",
    "cut_inside",
    "explain",
    "explanation_json",
    "explanation_text",
    "hot_functions",
    "plan",
    "plan_json",
    "plan_mermaid",
    "plan_svg",
    "plan_text",
    "propose_manifest",
    "read_application",
    "rules_markdown",
    "sources_of",
]
