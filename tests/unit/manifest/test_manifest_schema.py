"""The JSON Schema: valid itself, true to what ``load`` takes, and good enough for an editor."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from shardwright.manifest import load, schema
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Gateway, Manifest, Policy, Scale


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(json.loads(json.dumps(schema())))


def test_it_accepts_the_example(validator: Draft202012Validator, example: str) -> None:
    assert list(validator.iter_errors(tomllib.loads(example))) == []


def test_it_accepts_variables_where_load_does(validator: Draft202012Validator, write: Any) -> None:
    text = """
        app.name = "a"
        [components.web]
        code = "${CODE}"
        queue = "${NUMBER}"
        reuse = "${FLAG}"
        start = "${START}"
        resources = { cpu = "${NUMBER}", memory = "${NUMBER}GiB" }
    """
    assert validator.is_valid(tomllib.loads(text))
    load(write(text), environment={"CODE": "web", "NUMBER": "3", "FLAG": "false", "START": "spawn"})


@pytest.mark.parametrize(
    "line",
    [
        "unknown = 1",
        'scope = "sesion"',
        'scope = "key:"',
        'start = "fork"',
        'isolation = "oci:"',
        "queue = 0",
        "queue = 1.5",
        "reuse = 1",
        'resources.memory = "64mib"',
        "resources.memory = 64",
        'resources.network = "10MB/s"',
        "limits.cpu = 0",
        "warm = { min = 0, most = 3 }",
        'usage.latency_slo = "20 sec"',
        'env = ["A-B"]',
        'secrets.KEY = "hunter2"',
        'secrets.A-B = "file:x"',
        'network.egress = ["db"]',
        "depends_on = [1]",
        '[components.Web]\ncode = "x"',
        '[components.other]\nscope = "shared"',
        '[[routes]]\napp = "web"',
        '[[edges]]\nfrom = "web"\nto = "web"\ncodec = "json"',
        '[gateway]\nbind = "8000"',
        "[else]",
    ],
)
def test_it_rejects_what_load_rejects(line: str, validator: Draft202012Validator, write: Any, problems: Any) -> None:
    text = f'app.name = "a"\n[components.web]\ncode = "web"\n{line}\n'
    assert not validator.is_valid(tomllib.loads(text))
    write(text)
    assert problems()


def properties(part: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, inner in part.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from properties(inner, f"{path}.{name}")
    for nested in ("additionalProperties", "items"):
        if isinstance(part.get(nested), dict):
            yield from properties(part[nested], f"{path}[]")


def test_every_key_is_described_and_every_table_is_closed() -> None:
    found = dict(properties(schema()))
    assert len(found) > 60
    for path, part in found.items():
        assert part["description"].endswith("."), path
        assert "properties" not in part or part["additionalProperties"] is False, path


def test_defaults_and_examples_are_valid_themselves() -> None:
    for path, part in properties(schema()):
        for value in [*part.get("examples", []), *([part["default"]] if "default" in part else [])]:
            assert Draft202012Validator(part).is_valid(value), (path, value)


def test_stated_defaults_change_nothing(write: Any) -> None:
    """What the schema calls the default of a key is what leaving the key out means."""

    def toml(value: object) -> str:
        return json.dumps(value)

    found = dict(properties(schema()))
    component = {
        path.removeprefix(".components[]."): part["default"]
        for path, part in found.items()
        if path.startswith(".components[].") and "default" in part
    }
    rest = {
        path[1:]: part["default"] for path, part in found.items() if path.startswith(".policy") and "default" in part
    }
    assert len(component) > 15
    assert len(rest) == 8
    lines = [f"{key} = {toml(value)}" for key, value in rest.items()]
    lines += [f"gateway.bind = {toml(found['.gateway.bind']['default'])}", 'app = {name = "a", root = "."}']
    lines += ["[components.web]", 'code = "web"', *(f"{key} = {toml(value)}" for key, value in component.items())]
    manifest = load(write("\n".join(lines)))
    line = manifest.components[0].line
    assert manifest == Manifest(
        app="a",
        path=manifest.path,
        root=manifest.root,
        components=(Component(ComponentName("web"), "web", line=line),),
        gateway=Gateway(),
        policy=Policy(),
    )
    assert manifest.components[0].scale == Scale()
