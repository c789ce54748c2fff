"""What a routed function takes and gives, in the words of OpenAPI 3.1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec
import msgspec.inspect as types

from shardwright.guest._web_convert import BODY_METHODS, Argument, Reading

__all__ = ["describe"]

_DECIMAL = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?$"


def describe(reading: Reading, path: Sequence[str], method: str, component: str) -> dict[str, Any]:
    """The operation: ``parameters``, ``requestBody``, ``responses``, and the ``schemas`` that these refer to."""
    arguments = [argument for argument in reading.arguments.values() if argument.name not in path]
    body_possible = method in BODY_METHODS and (bool(arguments) or reading.takes_more)
    whole = reading.body_argument(path) if body_possible else None
    wanted = {argument.name: argument.annotation for argument in reading.arguments.values()}
    schemas, components = _schemas({**wanted, "return": reading.result}, component)
    operation: dict[str, Any] = {"parameters": []}
    for name in path:
        operation["parameters"].append(
            {"name": name, "in": "path", "required": True, "schema": schemas.get(name, {"type": "string"})}
        )
    if whole is not None:
        operation["requestBody"] = _json_body(schemas[whole.name], required=whole.required)
    elif body_possible:
        members: dict[str, Any] = {
            "type": "object",
            "properties": {argument.name: _with_default(schemas[argument.name], argument) for argument in arguments},
            "additionalProperties": reading.takes_more,
        }
        required = [argument.name for argument in arguments if argument.required]
        if required:
            members["required"] = required
        operation["requestBody"] = _json_body(members, required=bool(required))
    if whole is not None or not body_possible:
        for argument in arguments:
            if argument is not whole:
                operation["parameters"].append(
                    {
                        "name": argument.name,
                        "in": "query",
                        "required": argument.required,
                        "schema": _with_default(schemas[argument.name], argument),
                    }
                )
    operation["responses"] = {
        "200": {"description": "its result", "content": {"application/json": {"schema": schemas["return"]}}}
    }
    operation["schemas"] = components
    return operation


def _schemas(annotations: dict[str, Any], component: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema for each annotation, and the shared ones, whose names begin with the component's."""
    template = f"#/components/schemas/{component}.{{name}}"
    names = list(annotations)
    try:
        found, shared = msgspec.json.schema_components(
            [annotations[name] for name in names], schema_hook=_schema_of, ref_template=template
        )
    except Exception:  # one that cannot be described must not hide the others
        found, shared = (), {}
        for name in names:
            try:
                (one,), more = msgspec.json.schema_components(
                    [annotations[name]], schema_hook=_schema_of, ref_template=template
                )
            except Exception:
                one, more = {}, {}
            found = (*found, one)
            shared = {**shared, **more}
    for name, schema in zip(names, found, strict=True):
        try:
            info = types.type_info(annotations[name])
        except Exception:
            continue
        _sharpen(schema, info, shared, set())
    return dict(zip(names, found, strict=True)), {f"{component}.{name}": each for name, each in shared.items()}


def _sharpen(schema: Any, info: Any, shared: dict[str, Any], seen: set[str]) -> None:
    """Say more of moments and decimal numbers, wherever they are in ``schema``, which is that of the type ``info``."""
    while isinstance(info, types.Metadata):
        info = info.type
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        name = next((name for name in shared if schema["$ref"].endswith(f".{name}")), "")
        if not name or name in seen:
            return
        seen.add(name)
        schema = shared[name]
    match info:
        case types.DateTimeType():
            schema["format"] = "date-time"
        case types.TimeType():
            schema["format"] = "time"
        case types.DecimalType() if schema.pop("type", None):
            schema.pop("format", None)
            schema["anyOf"] = [{"type": "string", "pattern": _DECIMAL}, {"type": "number"}]
        case types.CollectionType() if "items" in schema:
            _sharpen(schema["items"], info.item_type, shared, seen)
        case types.TupleType():
            for inner, each in zip(schema.get("prefixItems", ()), info.item_types, strict=False):
                _sharpen(inner, each, shared, seen)
        case types.DictType() if "additionalProperties" in schema:
            _sharpen(schema["additionalProperties"], info.value_type, shared, seen)
        case types.UnionType() if len(schema.get("anyOf", ())) == len(info.types):
            for inner, each in zip(schema["anyOf"], sorted(info.types, key=_rank), strict=True):
                _sharpen(inner, each, shared, seen)
        case types.StructType() | types.DataclassType() | types.TypedDictType():
            members = schema.get("properties", {})
            for field in info.fields:
                _sharpen(members.get(field.encode_name), field.type, shared, seen)


def _rank(info: Any) -> int:
    """The members of a union are described in this order."""
    return 2 if isinstance(info, types.NoneType) else int(isinstance(info, types.StructType))


def _schema_of(annotation: Any) -> dict[str, Any]:
    describe = getattr(annotation, "model_json_schema", None)
    if describe is not None:
        found: dict[str, Any] = describe()
        return found
    if isinstance(annotation, type) and issubclass(annotation, PurePath):
        return {"type": "string"}
    return {}


def _with_default(schema: dict[str, Any], argument: Argument) -> dict[str, Any]:
    if argument.required or argument.default is None:
        return schema
    try:
        default = msgspec.to_builtins(argument.default, str_keys=True)
        msgspec.json.encode(default)
    except Exception:
        return schema
    return {**schema, "default": default}


def _json_body(schema: dict[str, Any], *, required: bool) -> dict[str, Any]:
    return {"required": required, "content": {"application/json": {"schema": schema}}}
