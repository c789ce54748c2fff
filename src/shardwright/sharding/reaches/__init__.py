"""Where a component's code may reach out of its shard, and what isolation ``auto`` comes to for it."""

from shardwright.sharding.reaches._component import Reaches
from shardwright.sharding.reaches._find import find_reaches
from shardwright.sharding.reaches._known import Known, known_of
from shardwright.sharding.reaches._packages import PACKAGES
from shardwright.sharding.reaches._rule import auto_isolation
from shardwright.sharding.reaches._standard import STANDARD

__all__ = ["PACKAGES", "STANDARD", "Known", "Reaches", "auto_isolation", "find_reaches", "known_of"]
