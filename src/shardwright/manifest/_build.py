"""From the values that were read to the frozen objects of ``model.manifest``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from shardwright.manifest._document import Document
from shardwright.manifest._report import render_path
from shardwright.model.ids import ComponentName
from shardwright.model.limits import Limits, Resources
from shardwright.model.manifest import (
    Component,
    Cost,
    EdgeRule,
    Files,
    Gateway,
    Manifest,
    Network,
    Policy,
    Route,
    Scale,
    UsageModel,
    Warm,
)

_RESOURCE_FIELDS = {
    "cpu": "cpu",
    "memory": "memory_bytes",
    "io": "io_bytes_s",
    "network": "network_bits_s",
    "gpu": "gpu",
    "gpu_memory": "gpu_memory_bytes",
}
RESOURCE_KEYS = {field: key for key, field in _RESOURCE_FIELDS.items()}
_PLAIN_KEYS = (
    "scope", "secrets", "env", "isolation", "start", "state", "sessions_per_shard", "reuse", "stateful", "value",
    "never_cut", "idempotent", "ahead", "together", "apart", "queue",
)  # fmt: skip


def build(values: dict[str, Any], document: Document, file: Path) -> Manifest:
    """The manifest of the values that fit; defaults stand in for the rest, so use it only if no problem was found."""
    app = values.get("app", {})
    path = Path(os.path.abspath(file))  # Path.resolve would follow symbolic links
    components = values.get("components", {})
    gateway = _gateway(values["gateway"], path.parent) if "gateway" in values else None
    routes = tuple(
        Route(
            path=route.get("path", ""),
            methods=route.get("methods", ()),
            call=route.get("call", ""),
            app=route.get("app", ""),
            timeout_s=route.get("timeout"),
            line=document.place(("routes", index)).line,
        )
        for index, route in enumerate(values.get("routes", ()))
    )
    return Manifest(
        app=app.get("name", ""),
        path=str(path),
        root=os.path.abspath(path.parent / app.get("root", ".")),
        main=app.get("main", ""),
        visitors=app.get("visitors", ""),
        context_variables=app.get("context_variables", ()),
        components=tuple(
            _component(name, given if isinstance(given, dict) else {}, document.place(("components", name)).line)
            for name, given in components.items()
        ),
        edges=tuple(
            EdgeRule(
                caller=ComponentName(edge.get("from", "")),
                callee=ComponentName(edge.get("to", "")),
                pickle=edge.get("codec") == "pickle",
                allow=edge.get("allow", ()),
                line=document.place(("edges", index)).line,
            )
            for index, edge in enumerate(values.get("edges", ()))
        ),
        gateway=Gateway() if gateway is None and routes else gateway,
        routes=routes,
        policy=_policy(values.get("policy", {})),
        places={render_path(key): str(place) for key, place in document.places.items() if key},
    )


_GATEWAY_FIELDS = {
    "bind": "bind",
    "plaintext": "plaintext",
    "session_idle": "session_idle_s",
    "max_header": "max_header_bytes",
    "max_body": "max_body_bytes",
    "header_timeout": "header_timeout_s",
    "body_timeout": "body_timeout_s",
    "idle_timeout": "idle_timeout_s",
    "call_timeout": "call_timeout_s",
    "max_connections": "max_connections",
    "queue": "queue",
    "drain": "drain_s",
    "token": "token",
    "access_log": "access_log",
}


def _gateway(given: dict[str, Any], folder: Path) -> Gateway:
    plain = {_GATEWAY_FIELDS[key]: value for key, value in given.items() if key in _GATEWAY_FIELDS}
    files = {key: os.path.abspath(folder / value) for key, value in given.get("tls", {}).items()}
    return Gateway(**plain, **files)


def _component(name: str, given: dict[str, Any], line: int) -> Component:
    plain = {key: given[key] for key in _PLAIN_KEYS if key in given}
    if "start_timeout" in given:
        plain["start_timeout_s"] = given["start_timeout"]
    return Component(
        name=ComponentName(name),
        code=given.get("code", ""),
        limits=Limits(_resources(given.get("resources", {})), _resources(given.get("limits", {}))),
        files=Files(**given.get("files", {})),
        network=Network(**given.get("network", {})),
        depends_on=tuple(ComponentName(other) for other in given.get("depends_on", ())),
        warm=_warm(given.get("warm", {})),
        scale=_scale(given.get("scale", {})),
        usage=_usage(dict(given.get("usage", {}))),
        idle_timeout_s=given.get("idle_timeout"),
        line=line,
        **plain,
    )


def _resources(given: dict[str, Any]) -> Resources:
    return Resources(**{_RESOURCE_FIELDS[key]: amount for key, amount in given.items()})


def _warm(given: dict[str, Any]) -> Warm:
    """An upper bound that is not stated never contradicts the lower bound that is."""
    low = given.get("min", Warm().min)
    return Warm(low, given.get("max", max(low, Warm().max)))


def _scale(given: dict[str, Any]) -> Scale:
    """A bound that is not stated never contradicts the bound that is."""
    low = given.get("min", Scale().min)
    concurrency = given.get("target_concurrency", Scale().target_concurrency)
    return Scale(low, given.get("max", max(low, Scale().max)), concurrency)


def _usage(given: dict[str, Any]) -> UsageModel:
    slo_s = given.pop("latency_slo", None)
    return UsageModel(latency_slo_s=slo_s, **given)


def _policy(given: dict[str, Any]) -> Policy:
    return Policy(
        cost=Cost(**given.get("cost", {})),
        reserve=_resources(given.get("reserve", {})),
        overcommit_cpu=given.get("overcommit", {}).get("cpu", Policy().overcommit_cpu),
        node_grace_s=given.get("node_grace", Policy().node_grace_s),
        transport=given.get("transport", Policy().transport),
        pool=given.get("pool", Policy().pool),
        tick_s=given.get("tick", Policy().tick_s),
    )
