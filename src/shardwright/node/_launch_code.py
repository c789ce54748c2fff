"""What shards are launched by: an application's code, and how each of its components is to start."""

from __future__ import annotations

from functools import cached_property

import msgspec
from msgspec import Struct

from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Manifest, implicit
from shardwright.model.scope import Start
from shardwright.model.shard import ShardPlan
from shardwright.node._auto import AutoIsolations
from shardwright.node._checks import in_containers
from shardwright.node._gpus import Gpus
from shardwright.node._launcher import Surroundings
from shardwright.node._machine_names import machine_backend


class LaunchCode(Struct, frozen=True, dict=True):
    """One state of the code. ``number`` tells the templates of one from those of another."""

    manifest: Manifest
    plan: ShardPlan
    surroundings: Surroundings
    auto: AutoIsolations
    gpus: Gpus
    number: int = 0

    @cached_property
    def plan_bytes(self) -> bytes:
        """As guests are told it."""
        return msgspec.msgpack.encode(self.plan)

    def component(self, name: ComponentName) -> Component:
        """What the manifest says of it, or would say."""
        try:
            return self.manifest.component(name)
        except KeyError:
            return implicit(name, self.plan.definition(name).code.primary)

    def isolation_of(self, name: ComponentName) -> str:
        """The name of its backend."""
        stated = self.auto.of(self.plan.definition(name))
        if stated == "docker" and (address := self.surroundings.environment.get("DOCKER_HOST")):
            return f"docker:{address}"
        if stated == "microvm":
            return machine_backend(stated, self.surroundings.environment)
        return stated

    def start_of(self, name: ComponentName) -> Start:
        """``Start.AUTO``: from a template, where it can be made."""
        start = self.plan.definition(name).start
        if in_containers(self.isolation_of(name)):
            return Start.SPAWN  # a process of one container cannot be forked into another
        if self.gpus.serves(self.component(name)):
            return Start.SPAWN  # each has devices, and an environment, of its own
        if start is Start.AUTO and self.surroundings.secrets.get(name):
            return Start.SPAWN  # a template holds no keys, and code may read them while it is imported
        return start

    def places_of(self, name: ComponentName) -> tuple[str, ...]:
        """What its shards may reach, where walls hold them to that."""
        return () if self.isolation_of(name) == "process" else self.component(name).network.egress
