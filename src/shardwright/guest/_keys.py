"""Which shard a call of a keyed component goes to: the argument that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shardwright.errors import CannotCross, NotPermitted
from shardwright.model.shard import EntryPoint, ShardDefinition


def key_of(definition: ShardDefinition, entry: EntryPoint, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """The value of the argument that routes this call, as the name of its shard.

    Raises NotPermitted when the entry point has no such argument, TypeError when it is missing or not a plain value.
    """
    where = entry.key
    if where is None:
        raise NotPermitted(
            f"{definition.component}.{entry.name} has no argument {definition.scope.argument!r} to find its shard by",
            outcome="not started",
            remedy=f"give it one, or change the scope of {definition.component}",
        )
    if where.name in kwargs:
        value = kwargs[where.name]
    elif 0 <= where.position < len(args):
        value = args[where.position]
    elif where.default:
        return where.default
    else:
        raise TypeError(f"{entry.name}() missing 1 required argument: {where.name!r}")
    if not isinstance(value, (str, int, bytes, tuple, type(None))):
        raise CannotCross(
            f"{entry.name}(): {where.name!r} routes the call and must be a str, int, bytes or tuple of them, "
            f"not {type(value).__name__}",
            outcome="not started",
        )
    return repr(value)
