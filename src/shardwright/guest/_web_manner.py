"""How an application wants to be called: ASGI 3, ASGI 2 or WSGI, found by looking at it."""

from __future__ import annotations

import inspect
from enum import Enum
from functools import partial
from typing import Any, ClassVar

from msgspec import Struct

from shardwright.errors import CallError, Fault
from shardwright.guest._asgi import App3, Receive, Scope, Send
from shardwright.guest._web_lifespan import Lifespan

__all__ = ["Application", "Manner", "NoApplication", "manner_of"]


class NoApplication(CallError):
    """What a route serves cannot be called as an application."""

    code = "SW424"
    fault: ClassVar[Fault] = "you"


class Manner(Enum):
    """How an application wants to be called."""

    ASGI3 = "app(scope, receive, send)"
    ASGI2 = "app(scope)(receive, send)"
    WSGI = "app(environ, start_response)"


class Application(Struct, frozen=True):
    """An application as it was found."""

    served: Any
    manner: Manner
    lifespan: Lifespan | None

    @property
    def asgi(self) -> App3:
        return partial(_double, self.served) if self.manner is Manner.ASGI2 else self.served


async def _double(application: Any, scope: Scope, receive: Receive, send: Send) -> Any:
    return await application(scope)(receive, send)


def manner_of(application: Any, what: str) -> Manner:
    """How ``application`` wants to be called. Raises NoApplication."""
    if not callable(application):
        raise NoApplication(
            f"{what} is no application: a {type(application).__name__} cannot be called", outcome="not started"
        )
    call = application if inspect.isroutine(application) or inspect.isclass(application) else application.__call__
    if inspect.isclass(application) and hasattr(application, "__await__"):
        return Manner.ASGI3
    if inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(call):
        return Manner.ASGI3
    try:
        signature = inspect.signature(application)
    except (TypeError, ValueError) as error:
        raise NoApplication(f"{what} is no application: {error}", outcome="not started") from None
    names = [
        parameter.name.lstrip("_")
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    fits = [count for count in (1, 2, 3) if _binds(signature, count)]
    if names[:1] == ["environ"] or names[1:2] == ["start_response"] or fits == [2]:
        return Manner.WSGI
    if names[:3] == ["scope", "receive", "send"] or fits == [3]:
        return Manner.ASGI3
    if names[:1] == ["scope"] or fits == [1]:
        return Manner.ASGI2
    raise NoApplication(
        f"{what} does not show how it is called: {type(application).__name__}{signature}",
        outcome="not started",
        remedy="give it the signature (scope, receive, send) or (environ, start_response)",
    )


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True
