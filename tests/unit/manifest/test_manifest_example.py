"""The design's example, whole, and what stands for what it leaves out."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

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

MIB = 2**20


def test_the_whole_example_becomes_the_expected_objects(write: Any, example: str, tmp_path: Path) -> None:
    assert load(write(example)) == Manifest(
        app="arena",
        path=str(tmp_path / "shardwright.toml"),
        root=str(tmp_path),
        main="arena.tools:main",
        components=(
            Component(ComponentName("web"), "arena.web:app", line=6),
            Component(
                ComponentName("auth"),
                "arena.auth",
                limits=Limits(Resources(0.25, 64 * MIB), Resources(1.0, 128 * MIB)),
                scope=Scope(ScopeKind.SHARED),
                secrets={"JWT_KEY": "file:secrets/jwt"},
                env=("TZ",),
                files=Files(("assets/",), ("var/auth/",)),
                network=Network(("db.internal:5432",)),
                line=8,
            ),
            Component(
                ComponentName("physics"),
                "arena.physics:World",
                limits=Limits(Resources(1.0, 256 * MIB, 20 * MIB, 10_000_000, 0.25, 2048 * MIB)),
                scope=Scope(ScopeKind.KEY, "world"),
                depends_on=(ComponentName("inventory"),),
                isolation="namespace",
                start=Start.AUTO,
                state=StateKind.JOURNAL,
                sessions_per_shard=1,
                reuse=False,
                warm=Warm(0, 16),
                scale=Scale(1, 8, 4.0),
                usage=UsageModel(80, 0.02, 32, 4, {"zone": "eu"}),
                line=17,
            ),
            Component(ComponentName("inventory"), "arena.inventory", line=52),
        ),
        gateway=Gateway("127.0.0.1:8000"),
        routes=(
            Route("/api/items/{item}", ("GET",), "inventory.get", line=38),
            Route("/", app="web", line=42),
        ),
        policy=Policy(Cost(0.04, 0.005, 0.00002), Resources(0.2, 512 * MIB), 1.0, 0.0),
    )


def test_the_file_itself_may_be_named_and_a_byte_order_mark_is_tolerated(write: Any, example: str) -> None:
    folder = write(b"\xef\xbb\xbf" + example.encode())
    assert load(folder) == load(str(folder / "shardwright.toml"))
    assert load(folder).component("auth").line == 8


def test_carriage_returns_change_nothing(write: Any, example: str) -> None:
    unix = load(write(example))
    assert load(write(example.replace("\n", "\r\n"))) == unix


def test_keys_beyond_the_example(write: Any) -> None:
    manifest = load(
        write(
            """
            [app]
            name = "shop"
            visitors = "shop.demo:visitor"
            [components.front]
            code = "shop"
            scope = "session"
            sessions_per_shard = 8
            queue = 16
            start_timeout = "2m"
            idle_timeout = "500ms"
            stateful = ["Basket", "shop.stock:Shelf"]
            value = ["Price"]
            state = "replica"
            start = "spawn"
            isolation = "oci:runsc"
            [components.stock]
            code = "shop.stock:Store"
            scope = "request"
            [[edges]]
            from = "front"
            to = "stock"
            codec = "pickle"
            allow = ["shop.stock:Item"]
            """
        )
    )
    front = manifest.component("front")
    assert (front.sessions_per_shard, front.queue, front.start_timeout_s, front.idle_timeout_s) == (8, 16, 120.0, 0.5)
    assert (front.stateful, front.value) == (("Basket", "shop.stock:Shelf"), ("Price",))
    assert (front.state, front.start, front.isolation) == (StateKind.REPLICA, Start.SPAWN, "oci:runsc")
    assert (manifest.component("stock").module, manifest.component("stock").attribute) == ("shop.stock", "Store")
    assert manifest.visitors == "shop.demo:visitor"
    assert manifest.gateway is None
    rule = EdgeRule(ComponentName("front"), ComponentName("stock"), True, ("shop.stock:Item",), manifest.edges[0].line)
    assert manifest.edges == (rule,)
    assert rule.line == 20


def test_an_unstated_bound_never_contradicts_a_stated_one(write: Any) -> None:
    component = load(write('app.name = "a"\ncomponents.web = {code = "web", warm.min = 40, scale.min = 3}')).component(
        "web"
    )
    assert component.warm == Warm(40, 40)
    assert component.scale == Scale(3, 3)


def test_routes_bring_the_default_gateway(write: Any) -> None:
    text = 'app.name = "a"\ncomponents.web.code = "web"\nroutes = [{path = "/", app = "web"}]'
    assert load(write(text)).gateway == Gateway()


def test_the_gateway_serves_other_machines_when_told_how(write: Any) -> None:
    base = 'app.name = "a"\ncomponents.web.code = "web"\n[gateway]\nbind = "0.0.0.0:8443"\n'
    secure = load(write(base + 'tls = { certificate = "tls/c.pem", key = "/k.pem" }\nmax_body = "1KiB"\n')).gateway
    assert secure is not None and secure.secure and not secure.loopback
    assert secure.certificate.endswith("/tls/c.pem") and secure.certificate.startswith("/")
    assert (secure.key, secure.max_body_bytes) == ("/k.pem", 1024)
    plain = load(write(base + "plaintext = true")).gateway
    assert plain is not None and plain.plaintext and not plain.secure


@pytest.mark.parametrize(
    ("bind", "loopback"),
    [
        ("127.0.0.1:80", True), ("127.8.0.1:0", True), ("localhost:80", True), ("[::1]:80", True),
        ("0.0.0.0:80", False), ("[::]:80", False), ("10.0.0.1:80", False), ("127.example.com:80", False), ("*:80", False),
    ],
)  # fmt: skip
def test_what_counts_as_this_machine_alone(bind: str, loopback: bool) -> None:
    assert Gateway(bind).loopback is loopback


def test_an_application_may_have_main_alone(write: Any) -> None:
    assert load(write('app = {name = "a", main = "tool:main"}')).components == ()


def test_the_import_root_may_be_elsewhere(write: Any, tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    assert load(write('app = {name = "a", root = "src", main = "tool:main"}')).root == str(tmp_path / "src")


def test_places_name_the_line_of_every_key(write: Any, example: str, tmp_path: Path) -> None:
    manifest = load(write(example))
    file = tmp_path / "shardwright.toml"
    assert manifest.place("components.physics.usage.priority") == f"{file}:30"
    assert manifest.place("components.physics.resources.cpu") == f"{file}:21"
    assert manifest.place("routes[1].path") == f"{file}:43"
    assert manifest.place("routes[1].methods[0]") == f"{file}:42", "the nearest enclosing key that was written"
    assert manifest.place("edges") == f"{file}:1"


def test_a_manifest_is_immutable_and_survives_pickling(write: Any, example: str) -> None:
    manifest = load(write(example))
    with pytest.raises(AttributeError, match="immutable"):
        manifest.app = "other"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(manifest)) == manifest
