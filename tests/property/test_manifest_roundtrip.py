"""A manifest written down and loaded again is the same manifest."""

from __future__ import annotations

import keyword
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shardwright.manifest import load
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
from shardwright.model.scope import Scope, ScopeKind, Start, StateKind

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True).filter(
    lambda name: name != "main" and not keyword.iskeyword(name)
)
PYTHON_NAMES = st.sampled_from(["a", "B2", "_c", "Größe", "x_y"])
MODULES = st.lists(PYTHON_NAMES, min_size=1, max_size=3).map(".".join)
OBJECTS = st.tuples(MODULES, PYTHON_NAMES).map(":".join)
TEXTS = st.text(min_size=1, max_size=8).filter(lambda text: "\0" not in text)
PATHS = TEXTS.filter(lambda text: ".." not in text)
VARIABLES = st.sampled_from(["TZ", "JWT_KEY", "_x", "lower9"])
SECONDS = st.integers(1, 10_000).map(float)
COUNTS = st.integers(1, 1000)


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(values, max_size=3, unique=True).map(tuple)


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Random guarantees, each with a ceiling above it or none."""
    guarantee, ceiling = {}, {}
    for field in Resources.__struct_fields__:
        fractions = field in ("cpu", "gpu")
        low = draw(st.none() | (st.floats(0, 64) if fractions else st.integers(0, 2**40)))
        if low is not None:
            guarantee[field] = low
        if draw(st.booleans()):
            ceiling[field] = (low or 0) + (draw(st.floats(0.5, 64)) if fractions else draw(st.integers(1, 2**40)))
    return Limits(Resources(**guarantee), Resources(**ceiling))


@st.composite
def components(draw: st.DrawFn, name: str, names: list[str]) -> Component:
    kind = draw(st.sampled_from(ScopeKind))
    scaled = kind in (ScopeKind.SHARED, ScopeKind.KEY)
    low, warm_low = draw(COUNTS), draw(COUNTS)
    listed = draw(some(PYTHON_NAMES | OBJECTS))
    split = draw(st.integers(0, len(listed)))
    return Component(
        name=ComponentName(name),
        code=f"m_{name}.{draw(MODULES | OBJECTS)}",
        limits=draw(limits()),
        scope=Scope(kind, draw(PYTHON_NAMES) if kind is ScopeKind.KEY else ""),
        secrets=draw(st.dictionaries(VARIABLES, PATHS.map(lambda path: f"file:{path}"), max_size=2)),
        env=draw(some(VARIABLES)),
        files=Files(draw(some(PATHS)), draw(some(PATHS.map(lambda path: f"/written/{path}")))),  # no secrets there
        network=Network(draw(some(st.sampled_from(["db.internal:5432", "[::1]:1", "*.x.org:443", "10.0.0.1:65535"])))),
        depends_on=tuple(ComponentName(other) for other in names if other != name and draw(st.booleans())),
        isolation=draw(st.sampled_from(["auto", "process", "namespace", "oci:runsc", "oci:my-1", "docker", "microvm"])),
        start=draw(st.sampled_from(Start)),
        state=draw(st.sampled_from(StateKind)),
        sessions_per_shard=draw(COUNTS) if kind is ScopeKind.SESSION else 1,
        reuse=draw(st.booleans()),
        warm=Warm(warm_low, warm_low + draw(COUNTS)),
        scale=Scale(low, low + draw(COUNTS), draw(st.floats(0.1, 100))) if scaled else Scale(),
        usage=UsageModel(
            priority=draw(st.integers(0, 100)),
            latency_slo_s=draw(st.none() | SECONDS),
            max_instances=draw(st.none() | st.integers(1001, 5000)),
            max_nodes=draw(st.none() | COUNTS),
            node_labels=draw(st.dictionaries(TEXTS, TEXTS, max_size=2)),
        ),
        stateful=listed[:split],
        value=listed[split:],
        queue=draw(COUNTS),
        start_timeout_s=draw(SECONDS),
        idle_timeout_s=draw(st.none() | SECONDS),
    )


@st.composite
def gateways(draw: st.DrawFn) -> Gateway:
    bind = draw(st.sampled_from(["127.0.0.1:8000", "[::1]:0", "localhost:65535", "0.0.0.0:1", "[::]:0", "a.b:1"]))
    files = draw(st.sampled_from([("", ""), ("/c.pem", "/k.pem")]))
    local = bind.startswith(("127.", "[::1]", "localhost"))
    return Gateway(
        bind,
        *files,
        plaintext=draw(st.booleans()) if local or files[0] else True,
        session_idle_s=draw(SECONDS),
        max_header_bytes=draw(COUNTS),
        max_body_bytes=draw(COUNTS),
        header_timeout_s=draw(SECONDS),
        body_timeout_s=draw(SECONDS),
        idle_timeout_s=draw(SECONDS),
        call_timeout_s=draw(SECONDS),
        max_connections=draw(COUNTS),
        queue=draw(COUNTS),
        drain_s=draw(SECONDS),
    )


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    name = st.sampled_from(names).map(ComponentName)
    pairs = draw(some(st.tuples(name, name).filter(lambda pair: pair[0] != pair[1])))
    route_paths = draw(some(st.sampled_from(["/", "/a/{b}/c", "/{x}", "/%20~"])))
    return Manifest(
        app=draw(st.sampled_from(["arena", "A.1-x_"])),
        path="",
        root="",
        main=draw(st.just("") | OBJECTS),
        visitors=draw(st.just("") | OBJECTS),
        components=tuple(draw(components(each, names)) for each in names),
        edges=tuple(EdgeRule(*pair, draw(st.booleans()), draw(some(OBJECTS))) for pair in pairs),
        gateway=draw(gateways()),
        routes=tuple(
            Route(path, draw(some(st.sampled_from(["GET", "PUT"]))), app=draw(name))
            if "{" not in path and draw(st.booleans())  # an application takes no arguments from its path
            else Route(path, call=f"{draw(name)}.{draw(PYTHON_NAMES)}.{draw(PYTHON_NAMES)}")
            for path in route_paths
        ),
        policy=Policy(
            Cost(draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6)), draw(st.floats(0, 1e6))),
            draw(limits()).guarantee,
            draw(st.floats(1, 64)),
            draw(SECONDS),
        ),
    )


def plain(text: str) -> str:
    return text.replace("${", "$${")


def resources(amounts: Resources) -> dict[str, Any]:
    written = {
        "cpu": amounts.cpu,
        "memory": None if amounts.memory_bytes is None else f"{amounts.memory_bytes}B",
        "io": None if amounts.io_bytes_s is None else f"{amounts.io_bytes_s} /s",
        "network": None if amounts.network_bits_s is None else f"{amounts.network_bits_s}bit/s",
        "gpu": amounts.gpu,
        "gpu_memory": None if amounts.gpu_memory_bytes is None else f"{amounts.gpu_memory_bytes}",
    }
    return {key: amount for key, amount in written.items() if amount is not None}


def seconds(amount: float | None) -> str | None:
    return None if amount is None else f"{amount}s"


def stated(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}


def written_component(component: Component) -> dict[str, Any]:
    scaled = component.scope.kind in (ScopeKind.SHARED, ScopeKind.KEY)
    scale = component.scale
    return stated(
        {
            "code": component.code,
            "resources": resources(component.limits.guarantee),
            "limits": resources(component.limits.ceiling),
            "scope": str(component.scope),
            "secrets": {key: plain(value) for key, value in component.secrets.items()},
            "env": component.env,
            "files": {"read": [*map(plain, component.files.read)], "write": [*map(plain, component.files.write)]},
            "network": {"egress": component.network.egress},
            "depends_on": component.depends_on,
            "isolation": component.isolation,
            "start": component.start.value,
            "state": component.state.value,
            "sessions_per_shard": component.sessions_per_shard,
            "reuse": component.reuse,
            "warm": {"min": component.warm.min, "max": component.warm.max},
            "scale": {"min": scale.min, "max": scale.max, "target_concurrency": scale.target_concurrency}
            if scaled
            else None,
            "usage": stated(
                {
                    "priority": component.usage.priority,
                    "latency_slo": seconds(component.usage.latency_slo_s),
                    "max_instances": component.usage.max_instances,
                    "max_nodes": component.usage.max_nodes,
                    "node_labels": {key: plain(value) for key, value in component.usage.node_labels.items()},
                }
            ),
            "stateful": component.stateful,
            "value": component.value,
            "queue": component.queue,
            "start_timeout": seconds(component.start_timeout_s),
            "idle_timeout": seconds(component.idle_timeout_s),
        }
    )


def written_gateway(gateway: Gateway) -> dict[str, Any]:
    tls = {"certificate": gateway.certificate, "key": gateway.key} if gateway.secure else None
    return stated(
        {
            "bind": gateway.bind,
            "tls": tls,
            "plaintext": gateway.plaintext,
            "session_idle": seconds(gateway.session_idle_s),
            "max_header": f"{gateway.max_header_bytes}B",
            "max_body": f"{gateway.max_body_bytes}B",
            "header_timeout": seconds(gateway.header_timeout_s),
            "body_timeout": seconds(gateway.body_timeout_s),
            "idle_timeout": seconds(gateway.idle_timeout_s),
            "call_timeout": seconds(gateway.call_timeout_s),
            "max_connections": gateway.max_connections,
            "queue": gateway.queue,
            "drain": seconds(gateway.drain_s),
        }
    )


def written(manifest: Manifest) -> dict[str, Any]:
    cost = manifest.policy.cost
    return {
        "app": {
            "name": manifest.app,
            **{key: value for key in ("main", "visitors") if (value := getattr(manifest, key))},
        },
        "components": {component.name: written_component(component) for component in manifest.components},
        "edges": [
            {
                "from": edge.caller,
                "to": edge.callee,
                "codec": "pickle" if edge.pickle else "tagged",
                "allow": edge.allow,
            }
            for edge in manifest.edges
        ],
        "gateway": written_gateway(manifest.gateway or Gateway()),
        "routes": [
            {
                "path": route.path,
                "methods": route.methods,
                **({"app": route.app} if route.app else {"call": route.call}),
            }
            for route in manifest.routes
        ],
        "policy": {
            "cost": {"cpu_hour": cost.cpu_hour, "gib_hour": cost.gib_hour, "cold_start": cost.cold_start},
            "reserve": resources(manifest.policy.reserve),
            "overcommit": {"cpu": manifest.policy.overcommit_cpu},
            "node_grace": seconds(manifest.policy.node_grace_s),
        },
    }


def without_lines(manifest: Manifest) -> Manifest:
    return replace(
        manifest,
        path="",
        root="",
        components=tuple(replace(component, line=0) for component in manifest.components),
        edges=tuple(replace(edge, line=0) for edge in manifest.edges),
        routes=tuple(replace(route, line=0) for route in manifest.routes),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("application")


@settings(max_examples=60, deadline=None)
@given(manifest=manifests())
def test_written_and_loaded_again(folder: Path, manifest: Manifest) -> None:
    (folder / "shardwright.toml").write_text(tomlkit.dumps(written(manifest)), encoding="utf-8", newline="")
    assert without_lines(load(folder)) == manifest
