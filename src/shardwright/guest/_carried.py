"""Context variables that the manifest names: they go with a call to the callee, and what it sets comes back.

In the program uncut, a function runs in the context of its caller, so what it sets there the caller sees afterwards. Here the
request carries the values of all declared variables that have one, and the reply those that the callee set, be it an error.
Variables are known by their place in the plan's list: a peer names no module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import Any

from shardwright.errors import CallError

ON_ERROR = "__shardwright_context__"
"""The attribute by which an exception carries them home."""
_UNSET = object()

Values = dict[int, Any]


class Carried:
    """The declared variables of one shard; ``resolve`` finds a shard's own, by module and name."""

    def __init__(self, names: Sequence[str], resolve: Callable[[str, str], Any]) -> None:
        self.names = tuple(names)
        self._resolve = resolve
        self._found: tuple[ContextVar[Any], ...] | None = None

    def __repr__(self) -> str:
        return f"<carries {', '.join(self.names)}>"

    def _variables(self) -> tuple[ContextVar[Any], ...]:
        found = self._found
        if found is None:
            made = tuple(self._resolve(*name.split(":")) for name in self.names)
            if not all(isinstance(variable, ContextVar) for variable in made):
                raise CallError(
                    f"one of {', '.join(self.names)} is no ContextVar when the program runs",
                    outcome="not started",
                    remedy="take it out of app.context_variables",
                )
            found = self._found = made
        return found

    def values(self) -> Values:
        """Those that have a value in the current context."""
        found = {number: variable.get(_UNSET) for number, variable in enumerate(self._variables())}
        return {number: value for number, value in found.items() if value is not _UNSET}

    def adopt(self, values: object) -> Values:
        """Set them in the current context. Raises CallError for what is no such values."""
        variables = self._variables()
        if not isinstance(values, dict) or not all(
            type(number) is int and 0 <= number < len(variables) for number in values
        ):
            raise CallError("the context variables of a message are none", outcome="not started")
        for number, value in values.items():
            variables[number].set(value)
        return values

    def changes(self, before: Values) -> Values:
        """Those that hold another object now."""
        return {number: value for number, value in self.values().items() if before.get(number, _UNSET) is not value}

    def take_back(self, answer: Any) -> Any:
        """The result in an answer; what the callee set is set here. Raises CallError for what is no such answer."""
        match answer:
            case (result, values):
                self.adopt(values)
                return result
        raise CallError("an answer without its context variables")

    def taken_from(self, error: BaseException) -> None:
        """Set what an exception brought along."""
        values = error.__dict__.pop(ON_ERROR, None)
        if values is not None:
            self.adopt(values)
