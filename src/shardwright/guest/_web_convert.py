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
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from shardwright.guest._web_messages import FunctionReply, FunctionRequest
from shardwright.guest._web_values import (
    choices,
    convert,
    convert_text,
    hints_of,
    is_structured,
    json_type,
    name_of,
    named,
    warm,
)

__all__ = ["BODY_METHODS", "Argument", "BadRequest", "Reading"]

PROBLEM_TYPE = "application/problem+json"
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})  # where arguments are looked for in the body first
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


class Argument(Struct, frozen=True):
    name: str
    kind: Any  # as ``inspect`` says it
    annotation: Any
    text_annotation: Any  # of text: where nothing is annotated, the type of the default
    default: Any
    required: bool
    structured: bool
    repeated: bool

    @classmethod
    def of(cls, parameter: inspect.Parameter, annotation: Any) -> Argument:
        """What is found out once, for every request asks."""
        text = annotation
        if annotation is Any and type(parameter.default) in _INFERRED:
            text = type(parameter.default)
        possible = choices(annotation)
        return cls(
            parameter.name,
            parameter.kind,
            annotation,
            text,
            parameter.default,
            required=parameter.default is parameter.empty,
            structured=any(is_structured(choice) for choice in possible),
            repeated=any((typing.get_origin(choice) or choice) in _LISTS for choice in possible),
        )


class Reading:
    """How one function's arguments are read. Made once; its annotations are looked up where it was defined.

    Raises TypeError when its arguments cannot come from a request at all.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self.arguments: dict[str, Argument] = {}
        self.takes_more = False  # **kwargs
        self._more: Any = Any
        hints = hints_of(function)
        for annotation in hints.values():
            warm(annotation)
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
            self.arguments[parameter.name] = Argument.of(parameter, annotation)
        self._required = [argument for argument in self.arguments.values() if argument.required]
        first = next(iter(self.arguments.values()), None)
        self._positional = first is not None and first.kind is inspect.Parameter.POSITIONAL_ONLY

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
            convert_text(found, name, one, annotation, f"path.{name}", wrong)
        if request.query or request.body:
            query: dict[str, list[str]] = {}
            for name, text in request.query:
                query.setdefault(name, []).append(text)
            if request.body:
                self._read_body(request, found, query, wrong)
            self._read_query(request, found, query, wrong)
        for argument in self._required:
            if argument.name not in found:
                where = self._place(argument, request)
                if not named(wrong, where, argument.name):
                    wrong.append({"where": where, "expected": name_of(argument.annotation), "got": "nothing"})
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
        if not self._positional:
            return positional, found
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
                    convert_text(found, name, texts[-1], self._more, where, wrong)
                continue  # others may want it: what links carry along is nobody's mistake
            if argument.repeated:
                convert_text(found, name, texts, argument.text_annotation, where, wrong)
            elif len(texts) > 1:
                wrong.append({"where": where, "expected": "one value", "got": f"{len(texts)} values"})
            else:
                convert_text(found, name, texts[0], argument.text_annotation, where, wrong)

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
            convert(found, whole.name, body, whole.annotation, "body", wrong)
            return
        if not isinstance(body, dict):
            wrong.append({"where": "body", "expected": "object", "got": json_type(body)})
            return
        for name, value in body.items():
            argument = self.arguments.get(name)
            where = f"body.{name:.60}"
            if (argument is None and not self.takes_more) or name in request.path:
                wrong.append({"where": where, "expected": "no such member", "got": json_type(value)})
            else:
                convert(found, name, value, argument.annotation if argument else self._more, where, wrong)


def _check_content_type(content_type: str) -> None:
    """Raises BadRequest unless it says JSON, or nothing."""
    kind, _, rest = content_type.partition(";")
    kind = kind.strip().lower()
    charset = re.search(r'charset="?([^";\s]+)', rest.lower())
    if kind and kind != "application/json" and not re.fullmatch(r"application/[\w.\-]+\+json", kind):
        raise BadRequest(415, f"the body must be application/json, not {kind:.60}")
    if charset is not None and charset[1] not in ("utf-8", "utf8", "us-ascii"):
        raise BadRequest(415, f"JSON is UTF-8, not {charset[1]:.60}")
