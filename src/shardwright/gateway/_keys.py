"""Which shard of a keyed component a request goes to: the argument of that name in its path or query."""

from __future__ import annotations

import re

from shardwright.gateway._replies import problem
from shardwright.guest import FunctionReply, FunctionRequest
from shardwright.model.shard import RouteTarget

_WHOLE = re.compile(r"[+-]?[0-9]{1,100}")


class WrongKey(Exception):
    """No shard can be found for it; ``reply`` says why."""

    def __init__(self, reply: FunctionReply) -> None:
        super().__init__(reply)
        self.reply = reply


def key_in(route: RouteTarget, request: FunctionRequest) -> str:
    """The key as calls inside the application name it: the ``repr`` of the argument's value. Raises WrongKey.

    An annotation that speaks of ``int`` and not of ``str`` makes it a number, as the function's own conversion does.
    """
    assert route.key is not None
    name, annotation = route.key.name, set(re.split(r"\W+", route.key.annotation))
    text = request.path.get(name)
    where = f"path.{name}"
    if text is None:
        where = f"query.{name}"
        text = next((value for key, value in request.query if key == name), None)
    if text is None:
        if route.key.default:
            return route.key.default
        raise WrongKey(_unprocessable(where, "a value", "nothing", f"{name} says which shard answers, and is missing"))
    if "int" not in annotation or "str" in annotation:
        return repr(text)
    if not _WHOLE.fullmatch(text):
        raise WrongKey(_unprocessable(where, "int", text, f"{name} is no whole number"))
    return repr(int(text))


def _unprocessable(where: str, expected: str, got: str, detail: str) -> FunctionReply:
    error = {"where": where, "expected": expected, "got": got[:100]}
    return problem(422, "Unprocessable Content", detail, [error])
