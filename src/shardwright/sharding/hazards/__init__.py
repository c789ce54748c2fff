"""What functions do besides computing their result, and the rule for each hazard of cutting there."""

from shardwright.sharding.hazards._facts import Effect, Fact
from shardwright.sharding.hazards._rules import Effects, Hazard, find_hazards
from shardwright.sharding.hazards._table import RULES, Rule, Verdict, rules_markdown

__all__ = ["RULES", "Effect", "Effects", "Fact", "Hazard", "Rule", "Verdict", "find_hazards", "rules_markdown"]
