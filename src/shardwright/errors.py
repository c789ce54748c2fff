"""One tree of errors, importable from everywhere.

Each error says whose fault it is and what to do now. ``fault`` is one of ``"you"`` (the caller or the
manifest), ``"world"`` (the machine, a peer, the network), ``"us"`` (a defect of Shardwright). Errors survive
pickling and carry a stable ``code`` that the documentation lists. An error about a call also says what is
known of its outcome: ``"not started"`` (safe to repeat), ``"unknown"`` (it may have had effects), ``"failed"``
(it ran, and raised).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

Outcome = Literal["not started", "unknown", "failed"]
Fault = Literal["you", "world", "us"]

__all__ = [
    "CallError",
    "CannotCross",
    "ChannelClosed",
    "ComponentImportError",
    "CompositionRefused",
    "CutRefused",
    "DeadlineExceeded",
    "Fault",
    "HandleExpired",
    "InternalError",
    "ManifestError",
    "MessageTooLarge",
    "NodeError",
    "NotPermitted",
    "Outcome",
    "Overloaded",
    "PlanError",
    "ProtocolViolation",
    "RemoteError",
    "SandboxError",
    "ShardLost",
    "ShardwrightError",
    "StartFailed",
    "TraceError",
    "WouldDeadlock",
]


class ShardwrightError(Exception):
    """The root of the tree.

    ``message`` says what happened, ``remedy`` what the reader can do about it (may be empty).
    """

    code: ClassVar[str] = "SW000"
    fault: ClassVar[Fault] = "us"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, dict(self.__dict__)))


def _rebuild(cls: type[ShardwrightError], message: str, state: dict[str, Any]) -> ShardwrightError:
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class InternalError(ShardwrightError):
    """A defect of Shardwright itself."""

    code = "SW001"


# -- what the author wrote -------------------------------------------------------------------------------------


class ManifestError(ShardwrightError):
    """The manifest cannot be used. ``problems`` holds every problem found, already rendered, in file order."""

    code = "SW100"
    fault: ClassVar[Fault] = "you"

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join((super().__str__(), *self.problems))


class PlanError(ShardwrightError):
    """The application cannot be planned: code missing, unreadable or contradictory.

    An instance made with ``code`` carries the code of what was found in place of the class's.
    """

    code = "SW200"
    fault: ClassVar[Fault] = "you"

    def __init__(self, message: str, *, code: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        if code:
            self.__dict__["code"] = code  # read by instance, documented by class


class CutRefused(PlanError):
    """A cut would change what the program computes."""

    code = "SW201"


class ComponentImportError(ShardwrightError):
    """A component's own code failed while it was imported.

    ``user_traceback`` is the traceback of the user's code alone, as text.
    """

    code = "SW210"
    fault: ClassVar[Fault] = "you"

    def __init__(self, message: str, *, user_traceback: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.user_traceback = user_traceback


class TraceError(ShardwrightError):
    """A trace of demand cannot be read, or cannot be simulated."""

    code = "SW220"
    fault: ClassVar[Fault] = "you"


# -- calls -----------------------------------------------------------------------------------------------------


class CallError(ShardwrightError):
    """A call across a cut edge did not return. ``outcome`` says what is known of its effects."""

    code = "SW300"
    fault: ClassVar[Fault] = "world"

    def __init__(self, message: str, *, outcome: Outcome = "unknown", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.outcome: Outcome = outcome


class ShardLost(CallError):
    """The shard that held the state, or was running the call, is gone."""

    code = "SW301"


class Overloaded(CallError):
    """The callee's bounded queue is full; nothing was started."""

    code = "SW302"

    def __init__(self, message: str, *, outcome: Outcome = "not started", remedy: str = "") -> None:
        super().__init__(message, outcome=outcome, remedy=remedy)


class DeadlineExceeded(CallError, TimeoutError):
    """The deadline passed before the reply arrived."""

    code = "SW303"


class CannotCross(CallError, TypeError):
    """An argument or result does not fit the codec of this edge; it names the argument and the type."""

    code = "SW304"
    fault: ClassVar[Fault] = "you"


class MessageTooLarge(CallError):
    """A message is larger than the edge permits."""

    code = "SW305"
    fault: ClassVar[Fault] = "you"


class NotPermitted(CallError):
    """The caller's identity may not reach this component, session or entry point."""

    code = "SW306"
    fault: ClassVar[Fault] = "you"


class HandleExpired(CallError, ReferenceError):
    """The object behind a handle was released when its session or its last holder ended."""

    code = "SW307"


class WouldDeadlock(CallError):
    """A blocking call from an event loop came back into that same loop."""

    code = "SW308"
    fault: ClassVar[Fault] = "you"


class RemoteError(CallError):
    """An exception of the callee that cannot be rebuilt here; ``type_name`` names its type."""

    code = "SW309"
    fault: ClassVar[Fault] = "you"

    def __init__(self, message: str, *, type_name: str = "", outcome: Outcome = "failed", remedy: str = "") -> None:
        super().__init__(message, outcome=outcome, remedy=remedy)
        self.type_name = type_name


# -- channels --------------------------------------------------------------------------------------------------


class ChannelClosed(ShardwrightError):
    """The channel was closed by this side, or its peer is gone."""

    code = "SW400"
    fault: ClassVar[Fault] = "world"


class ProtocolViolation(ChannelClosed):
    """The peer sent bytes that the protocol forbids; the channel is closed."""

    code = "SW401"


# -- machine, sandbox, node ------------------------------------------------------------------------------------


class SandboxError(ShardwrightError):
    """A sandbox could not be made, changed or ended."""

    code = "SW500"
    fault: ClassVar[Fault] = "world"


class StartFailed(SandboxError):
    """A shard or template did not become ready. ``log`` holds its last lines."""

    code = "SW501"

    def __init__(self, message: str, *, log: tuple[str, ...] = (), remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.log = log


class NodeError(ShardwrightError):
    """The node cannot start, is gone, or refuses."""

    code = "SW600"
    fault: ClassVar[Fault] = "world"


class CompositionRefused(NodeError):
    """A session or call cannot get all the shards that it needs; it got none."""

    code = "SW601"
