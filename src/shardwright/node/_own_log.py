"""What the node does, as lines of our own log."""

from __future__ import annotations

from shardwright.telemetry import LogLevel, OwnLog, RecordedEvent

LEVELS: dict[str, LogLevel] = {
    "failure": "error",
    "loss": "warning",
    "refuse": "warning",
    "abort": "warning",
    "journal": "warning",
    "api": "warning",
    "note": "warning",
    "lease": "debug",
    "return": "debug",
    "queue": "debug",
    "unbind": "debug",
    "ended": "debug",
}
"""How much each kind of event matters; the others are of level info."""


class EventLines:
    """A subscriber of the node's events that says each of them."""

    def __init__(self, log: OwnLog) -> None:
        self._log = log

    def __call__(self, recorded: RecordedEvent) -> None:
        event = recorded.event
        level = LEVELS.get(event.kind, "info")
        if self._log.wants(level):
            self._log.say(
                level, event.message or event.kind, kind=event.kind, component=event.component, shard=event.shard,
                session=event.session, sequence=recorded.sequence,
            )  # fmt: skip
