"""What whoever runs a cut program should know of its plan."""

from __future__ import annotations

from shardwright.model.shard import Severity, ShardPlan
from shardwright.sharding import alters

_WORDS = {Severity.REFUSAL: "refused", Severity.WARNING: "warning"}


def hazards(plan: ShardPlan) -> list[str]:
    """What may make the cut program fail, or do something else than the uncut one: a line each, with its place."""
    found = []
    for finding in plan.diagnostics:
        if alters(finding):
            place = f"{finding.site}: " if finding.site is not None else ""
            found.append(f"{_WORDS.get(finding.severity, finding.severity)}: {finding.code} {place}{finding.message}")
    return found
