"""The composition root of one machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shardwright._lazy import lazily
from shardwright.contracts.sandbox import Finding, Fingerprint

if TYPE_CHECKING:
    from shardwright.node._activation import inherited_sockets
    from shardwright.node._api_client import (
        Ambiguous,
        ApiClient,
        NoAnswer,
        NodeAddress,
        Refused,
        choose,
        running_nodes,
    )
    from shardwright.node._api_messages import describe
    from shardwright.node._api_sockets import runtime_folder
    from shardwright.node._checks import lacking_secrets, measured_plan, unbuilt, withheld
    from shardwright.node._container_trial import container_trial
    from shardwright.node._doctor import examine_application, examine_machine, no_walls, unenforced
    from shardwright.node._export import Exported, export_image
    from shardwright.node._face import AsyncNode, AsyncSession, Node, Session, astart, start
    from shardwright.node._logs import LogLine
    from shardwright.node._notify import Notifier
    from shardwright.node._numbers import Health
    from shardwright.node._profiles import (
        PROFILE_VERSION,
        assumed,
        cores,
        host,
        profile_path,
        read_constants,
        read_profile,
        write_constants,
        write_profile,
    )
    from shardwright.node._reload import Reloaded
    from shardwright.node._resize_trial import resize_trial
    from shardwright.node._running import Options, Running, plan
    from shardwright.node._state import state_folder
    from shardwright.node._status import ShardStatus, shard_object
    from shardwright.node._testing import Bench

__all__ = [
    "PROFILE_VERSION",
    "Ambiguous",
    "ApiClient",
    "AsyncNode",
    "AsyncSession",
    "Bench",
    "Exported",
    "Finding",
    "Fingerprint",
    "Health",
    "LogLine",
    "NoAnswer",
    "Node",
    "NodeAddress",
    "Notifier",
    "Options",
    "Refused",
    "Reloaded",
    "Running",
    "Session",
    "ShardStatus",
    "assumed",
    "astart",
    "choose",
    "container_trial",
    "cores",
    "describe",
    "examine_application",
    "examine_machine",
    "export_image",
    "host",
    "inherited_sockets",
    "lacking_secrets",
    "measured_plan",
    "no_walls",
    "plan",
    "profile_path",
    "read_constants",
    "read_profile",
    "resize_trial",
    "running_nodes",
    "runtime_folder",
    "shard_object",
    "start",
    "state_folder",
    "unbuilt",
    "unenforced",
    "withheld",
    "write_constants",
    "write_profile",
]

__getattr__ = lazily(
    __name__,
    {
        "_activation": "inherited_sockets",
        "_api_client": "Ambiguous ApiClient NoAnswer NodeAddress Refused choose running_nodes",
        "_api_messages": "describe",
        "_api_sockets": "runtime_folder",
        "_checks": "lacking_secrets measured_plan unbuilt withheld",
        "_container_trial": "container_trial",
        "_export": "Exported export_image",
        "_doctor": "examine_application examine_machine no_walls unenforced",
        "_face": "AsyncNode AsyncSession Node Session astart start",
        "_logs": "LogLine",
        "_notify": "Notifier",
        "_numbers": "Health",
        "_profiles": (
            "PROFILE_VERSION assumed cores host profile_path read_constants read_profile write_constants write_profile"
        ),
        "_reload": "Reloaded",
        "_resize_trial": "resize_trial",
        "_running": "Options Running plan",
        "_state": "state_folder",
        "_status": "ShardStatus shard_object",
        "_testing": "Bench",
    },
)
