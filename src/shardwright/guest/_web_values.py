"""Values of requests and results: plain data into what an annotation says, and back; and what was wrong, in few words."""

from __future__ import annotations

import collections
import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Union

import msgspec

from shardwright.guest._web_messages import FunctionReply

__all__ = [
    "choices",
    "convert",
    "convert_text",
    "encode_result",
    "hints_of",
    "is_structured",
    "json_type",
    "name_of",
    "named",
    "warm",
]

_GOT_CHARS = 100


def encode_result(result: object, name: str) -> FunctionReply:
    """The result as JSON. Raises TypeError when there is no JSON for it."""
    try:
        return FunctionReply(200, msgspec.json.encode(result, enc_hook=_plain))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, NotImplementedError) as error:
        raise TypeError(f"the result of {name}() cannot be written as JSON: {error}") from error


# -- types ---------------------------------------------------------------------------------------------------------


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    """Its annotations as types; one that cannot be looked up (imported for type checkers only) says nothing."""
    function = inspect.unwrap(function)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:
        pass
    hints: dict[str, Any] = {}
    names = getattr(function, "__globals__", {})
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = types.SimpleNamespace(__annotations__={name: annotation})
        try:
            hints.update(typing.get_type_hints(alone, names, include_extras=True))
        except Exception:
            continue
    return hints


def warm(annotation: Any) -> None:
    """Let msgspec look up the annotations of classes now; it remembers them."""
    try:
        msgspec.json.Decoder(annotation, dec_hook=_from_plain)
    except Exception:
        pass  # said where a value is to be converted


def choices(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself where there is none."""
    if typing.get_origin(annotation) is Annotated:
        return choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for each in typing.get_args(annotation) for choice in choices(each))
    return (annotation,)


def is_structured(annotation: Any) -> bool:
    kind = typing.get_origin(annotation) or annotation
    if not isinstance(kind, type):
        return False
    return (
        issubclass(kind, (dict, Mapping, msgspec.Struct))
        or dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or hasattr(kind, "__attrs_attrs__")
        or hasattr(kind, "model_validate")
    )


def name_of(annotation: Any) -> str:
    if annotation is Any:
        return "a value"
    if annotation is None or annotation is types.NoneType:
        return "null"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    if typing.get_origin(annotation) is Annotated:
        return name_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(name_of(each) for each in typing.get_args(annotation))
    return str(annotation).replace("typing.", "")


def _from_plain(annotation: Any, value: Any) -> Any:
    """What msgspec does not know itself: paths, and classes that read plain data (pydantic models)."""
    if isinstance(annotation, type):
        if issubclass(annotation, PurePath) and isinstance(value, str):
            return annotation(value)
        validate = getattr(annotation, "model_validate", None)
        if validate is not None:
            return validate(value)
    raise NotImplementedError(f"an argument of type {name_of(annotation)} cannot come from the web")


def _plain(value: Any) -> Any:
    """What msgspec does not write itself."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (collections.abc.Mapping, collections.abc.KeysView, collections.abc.ValuesView)):
        return dict(value) if isinstance(value, collections.abc.Mapping) else list(value)
    if isinstance(value, (collections.deque, range)):
        return list(value)
    to_list = getattr(value, "tolist", None)  # arrays and scalars of numpy
    if to_list is not None:
        return to_list()
    raise NotImplementedError(f"{type(value).__name__} is no plain data")


# -- conversion ----------------------------------------------------------------------------------------------------

_FAULT = re.compile(r"^(?P<what>.*?)(?: - at `(?P<path>.*)`)?$", re.DOTALL)
_EXPECTED = re.compile(
    r"^Expected `(?P<expected>.*?)`(?P<bound> (?:of|matching|that|<|>|[a-z]).*?)?(?:, got `(?P<got>.*?)`)?$"
)
_MISSING = re.compile(r"^Object missing required field `(?P<name>.*)`$")


def convert_text(
    found: dict[str, Any],
    name: str,
    text: str | list[str],
    annotation: Any,
    where: str,
    wrong: list[dict[str, str]],
) -> None:
    try:
        found[name] = msgspec.convert(text, annotation, strict=False, dec_hook=_from_plain)
    except msgspec.ValidationError as error:
        expected, _, _ = _explained(error)
        shown = text if isinstance(text, str) else ", ".join(text)
        wrong.append({"where": where, "expected": expected or name_of(annotation), "got": shown[:_GOT_CHARS]})
    except (ValueError, ArithmeticError) as error:  # a validator of the user's own, a Decimal beyond bounds
        wrong.append({"where": where, "expected": name_of(annotation), "got": str(error)[:_GOT_CHARS]})


def convert(
    found: dict[str, Any], name: str, value: Any, annotation: Any, where: str, wrong: list[dict[str, str]]
) -> None:
    try:
        found[name] = _filled(msgspec.convert(value, annotation, dec_hook=_from_plain))
    except msgspec.ValidationError as error:
        expected, got, inside = _explained(error)
        if got == "float":
            try:
                changed = _whole(value)
            except RecursionError:
                changed = value
            if changed is not value:
                convert(found, name, changed, annotation, where, wrong)
                return
        if missing := _MISSING.match(str(error).partition(" - at ")[0]):
            inside = f"{inside}.{missing['name']}"
            expected, got = "a value", "nothing"
        wrong.append(
            {"where": f"{where}{inside}", "expected": expected or name_of(annotation), "got": got or json_type(value)}
        )
    except (ValueError, ArithmeticError) as error:
        wrong.append({"where": where, "expected": name_of(annotation), "got": str(error)[:_GOT_CHARS]})


def _whole(value: Any) -> Any:
    """``value`` with floats that are whole numbers as such: to JSON, and to its schemas, ``1.0`` is an integer. The same
    object where there are none."""
    if type(value) is float:
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        items = [_whole(each) for each in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if isinstance(value, dict):
        members = {name: _whole(each) for name, each in value.items()}
        return members if any(members[name] is not each for name, each in value.items()) else value
    return value


def _filled(value: Any) -> Any:
    """``value``, with every field of its data classes set in the instances, as ``__init__`` does; msgspec leaves defaults to
    the class, where they can be read but are not written as JSON."""
    if isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            _filled(each)
    elif isinstance(value, dict):
        for each in value.values():
            _filled(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "__dict__", None)
        for field in dataclasses.fields(value):
            content = getattr(value, field.name, None)
            if own is not None and field.name not in own:
                object.__setattr__(value, field.name, content)
            _filled(content)
    return value


def _explained(error: msgspec.ValidationError) -> tuple[str, str, str]:
    """What was expected, what came, and where inside the value."""
    fault = _FAULT.match(str(error))
    assert fault is not None
    inside = (fault["path"] or "$")[1:]
    expected = _EXPECTED.match(fault["what"])
    if expected is not None:
        return expected["expected"] + (expected["bound"] or ""), expected["got"] or "", inside
    what = fault["what"]
    return ("", what[:_GOT_CHARS], inside)


def named(wrong: list[dict[str, str]], where: str, name: str) -> bool:
    """Whether an argument that was not found is there, and wrong; or is in a body that is."""
    places = (where, f"path.{name}", f"query.{name}", f"body.{name}")
    return any(
        each["where"] == "body"
        or each["where"].startswith(tuple(f"{place}{sign}" for place in places for sign in ".["))
        for each in wrong
    ) or any(each["where"] in places for each in wrong)


def json_type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case dict():
            return "object"
        case list():
            return "array"
    return type(value).__name__
