"""From the text of a request to a function's arguments, and from its result to JSON: as the function's annotations say.

Path and query are text and are read leniently ("3" is an int); JSON bodies are read strictly. Whatever does not fit is
answered by problem details (RFC 9457) that name every argument that is wrong. Where the arguments are:

* an argument that the route's path names is in the path;
* if a body is possible, and of the other arguments one is a data class or a mapping and all else have defaults, then the
  body is that argument, and the rest are in the query;
* if a body came, its members are the arguments, and those that it lacks may be in the query;
* else they are in the query, where a list is a name that comes repeatedly.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Union

import msgspec

from shardwright.guest._web_messages import FunctionReply, FunctionRequest

__all__ = ["BODY_METHODS", "Argument", "BadRequest", "Reading", "encode_result"]

PROBLEM_TYPE = "application/problem+json"
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})  # where arguments are looked for in the body first
_GOT_CHARS = 100
_MAX_ERRORS = 20
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Set)
_INFERRED = (bool, int, float, str)


class BadRequest(Exception):
    """The request does not fit the function. ``reply`` says why, to the client."""

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.reply = _problem(status, detail, errors)


def _problem(status: int, detail: str, errors: Sequence[Mapping[str, str]]) -> FunctionReply:
    titles = {400: "Bad Request", 415: "Unsupported Media Type", 422: "Unprocessable Content"}
    problem: dict[str, Any] = {"type": "about:blank", "title": titles[status], "status": status, "detail": detail}
    if errors:
        problem["errors"] = list(errors)
    return FunctionReply(status, msgspec.json.encode(problem), PROBLEM_TYPE)


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    kind: Any  # as ``inspect`` says it
    annotation: Any
    text_annotation: Any  # of text: where nothing is annotated, the type of the default
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def structured(self) -> bool:
        return any(_is_structured(choice) for choice in _choices(self.annotation))

    @property
    def repeated(self) -> bool:
        return any((typing.get_origin(choice) or choice) in _LISTS for choice in _choices(self.annotation))


class Reading:
    """How one function's arguments are read. Made once; its annotations are looked up where it was defined.

    Raises TypeError when its arguments cannot come from a request at all.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self.arguments: dict[str, Argument] = {}
        self.takes_more = False  # **kwargs
        self._more: Any = Any
        hints = _hints(function)
        for annotation in hints.values():
            _warm(annotation)
        self.result = hints.get("return", Any)
        try:
            parameters = inspect.signature(function).parameters.values()
        except ValueError as error:
            raise TypeError(f"{name}() cannot be reached from the web: {error}") from None
        for parameter in parameters:
            annotation = hints.get(parameter.name, Any)
            if parameter.kind is parameter.VAR_KEYWORD:
                self.takes_more, self._more = True, annotation
                continue
            if parameter.kind is parameter.VAR_POSITIONAL:
                continue
            text = annotation
            if annotation is Any and type(parameter.default) in _INFERRED:
                text = type(parameter.default)
            self.arguments[parameter.name] = Argument(
                parameter.name, parameter.kind, annotation, text, parameter.default
            )

    def body_argument(self, path: typing.Container[str]) -> Argument | None:
        """The argument that the whole body is, for a route whose path names those of ``path``."""
        others = [argument for argument in self.arguments.values() if argument.name not in path]
        structured = [argument for argument in others if argument.structured]
        if len(structured) != 1 or any(argument.required for argument in others if argument is not structured[0]):
            return None
        return structured[0]

    # -- reading -----------------------------------------------------------------------------------------------

    def read(self, request: FunctionRequest) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments for the function. Raises BadRequest."""
        wrong: list[dict[str, str]] = []
        found: dict[str, Any] = {}
        for name, text in request.path.items():
            argument = self.arguments.get(name)
            if argument is None and not self.takes_more:
                raise TypeError(f"{self.name}() has no argument {name!r}, which the path of its route names")
            annotation = argument.text_annotation if argument is not None else self._more
            one = [text] if argument is not None and argument.repeated else text
            _convert_text(found, name, one, annotation, f"path.{name}", wrong)
        query: dict[str, list[str]] = {}
        for name, text in request.query:
            query.setdefault(name, []).append(text)
        if request.body:
            self._read_body(request, found, query, wrong)
        self._read_query(request, found, query, wrong)
        for argument in self.arguments.values():
            where = self._place(argument, request)
            if argument.required and argument.name not in found and not _named(wrong, where, argument.name):
                wrong.append({"where": where, "expected": _name_of(argument.annotation), "got": "nothing"})
        if wrong:
            several = f"{len(wrong)} arguments do" if len(wrong) > 1 else f"{wrong[0]['where']} does"
            raise BadRequest(422, f"{several} not fit {self.name}()", wrong[:_MAX_ERRORS])
        return self._bound(found)

    def _place(self, argument: Argument, request: FunctionRequest) -> str:
        if not request.body and request.method not in BODY_METHODS:
            return f"query.{argument.name}"
        return "body" if argument is self.body_argument(request.path) else f"body.{argument.name}"

    def _bound(self, found: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional-only arguments apart; those after one that is left out must be left to their defaults too."""
        positional: list[Any] = []
        for argument in self.arguments.values():
            if argument.kind is not inspect.Parameter.POSITIONAL_ONLY:
                break
            positional.append(found.pop(argument.name, argument.default))
        return positional, found

    def _read_query(
        self,
        request: FunctionRequest,
        found: dict[str, Any],
        query: dict[str, list[str]],
        wrong: list[dict[str, str]],
    ) -> None:
        for name, texts in query.items():
            argument = self.arguments.get(name)
            where = f"query.{name}"
            if name in request.path or name in found:
                continue
            if argument is None:
                if self.takes_more:
                    _convert_text(found, name, texts[-1], self._more, where, wrong)
                continue  # others may want it: what links carry along is nobody's mistake
            if argument.repeated:
                _convert_text(found, name, texts, argument.text_annotation, where, wrong)
            elif len(texts) > 1:
                wrong.append({"where": where, "expected": "one value", "got": f"{len(texts)} values"})
            else:
                _convert_text(found, name, texts[0], argument.text_annotation, where, wrong)

    def _read_body(
        self,
        request: FunctionRequest,
        found: dict[str, Any],
        query: dict[str, list[str]],
        wrong: list[dict[str, str]],
    ) -> None:
        _check_content_type(request.content_type)
        try:
            body = msgspec.json.decode(request.body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise BadRequest(400, f"the body is no JSON: {error}") from None
        except RecursionError:
            raise BadRequest(400, "the body is no JSON that can be read: it nests too deep") from None
        whole = self.body_argument(request.path)
        if whole is not None:
            _convert(found, whole.name, body, whole.annotation, "body", wrong)
            return
        if not isinstance(body, dict):
            wrong.append({"where": "body", "expected": "object", "got": _json_type(body)})
            return
        for name, value in body.items():
            argument = self.arguments.get(name)
            where = f"body.{name:.60}"
            if (argument is None and not self.takes_more) or name in request.path:
                wrong.append({"where": where, "expected": "no such member", "got": _json_type(value)})
            else:
                _convert(found, name, value, argument.annotation if argument else self._more, where, wrong)


def encode_result(result: object, name: str) -> FunctionReply:
    """The result as JSON. Raises TypeError when there is no JSON for it."""
    try:
        return FunctionReply(200, msgspec.json.encode(result, enc_hook=_plain))
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError, NotImplementedError) as error:
        raise TypeError(f"the result of {name}() cannot be written as JSON: {error}") from error


# -- types ---------------------------------------------------------------------------------------------------------


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
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


def _warm(annotation: Any) -> None:
    """Let msgspec look up the annotations of classes now; it remembers them."""
    try:
        msgspec.json.Decoder(annotation, dec_hook=_from_plain)
    except Exception:
        pass  # said where a value is to be converted


def _choices(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; the type itself where there is none."""
    if typing.get_origin(annotation) is Annotated:
        return _choices(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for each in typing.get_args(annotation) for choice in _choices(each))
    return (annotation,)


def _is_structured(annotation: Any) -> bool:
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


def _name_of(annotation: Any) -> str:
    if annotation is Any:
        return "a value"
    if annotation is None or annotation is types.NoneType:
        return "null"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    if typing.get_origin(annotation) is Annotated:
        return _name_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(_name_of(each) for each in typing.get_args(annotation))
    return str(annotation).replace("typing.", "")


def _from_plain(annotation: Any, value: Any) -> Any:
    """What msgspec does not know itself: paths, and classes that read plain data (pydantic models)."""
    if isinstance(annotation, type):
        if issubclass(annotation, PurePath) and isinstance(value, str):
            return annotation(value)
        validate = getattr(annotation, "model_validate", None)
        if validate is not None:
            return validate(value)
    raise NotImplementedError(f"an argument of type {_name_of(annotation)} cannot come from the web")


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


def _convert_text(
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
        wrong.append({"where": where, "expected": expected or _name_of(annotation), "got": shown[:_GOT_CHARS]})
    except (ValueError, ArithmeticError) as error:  # a validator of the user's own, a Decimal beyond bounds
        wrong.append({"where": where, "expected": _name_of(annotation), "got": str(error)[:_GOT_CHARS]})


def _convert(
    found: dict[str, Any], name: str, value: Any, annotation: Any, where: str, wrong: list[dict[str, str]]
) -> None:
    try:
        found[name] = _filled(msgspec.convert(value, annotation, dec_hook=_from_plain))
    except msgspec.ValidationError as error:
        expected, got, inside = _explained(error)
        if missing := _MISSING.match(str(error).partition(" - at ")[0]):
            inside = f"{inside}.{missing['name']}"
            expected, got = "a value", "nothing"
        wrong.append(
            {"where": f"{where}{inside}", "expected": expected or _name_of(annotation), "got": got or _json_type(value)}
        )
    except (ValueError, ArithmeticError) as error:
        wrong.append({"where": where, "expected": _name_of(annotation), "got": str(error)[:_GOT_CHARS]})


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


def _named(wrong: list[dict[str, str]], where: str, name: str) -> bool:
    """Whether an argument that was not found is there, and wrong; or is in a body that is."""
    places = (where, f"path.{name}", f"query.{name}", f"body.{name}")
    return any(
        each["where"] == "body"
        or each["where"].startswith(tuple(f"{place}{sign}" for place in places for sign in ".["))
        for each in wrong
    ) or any(each["where"] in places for each in wrong)


def _json_type(value: Any) -> str:
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


def _check_content_type(content_type: str) -> None:
    """Raises BadRequest unless it says JSON, or nothing."""
    kind, _, rest = content_type.partition(";")
    kind = kind.strip().lower()
    charset = re.search(r'charset="?([^";\s]+)', rest.lower())
    if kind and kind != "application/json" and not re.fullmatch(r"application/[\w.\-]+\+json", kind):
        raise BadRequest(415, f"the body must be application/json, not {kind:.60}")
    if charset is not None and charset[1] not in ("utf-8", "utf8", "us-ascii"):
        raise BadRequest(415, f"JSON is UTF-8, not {charset[1]:.60}")
