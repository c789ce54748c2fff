"""The emit side of events, metrics and traces. What becomes of them is decided by who listens."""

from shardwright.telemetry._events import Event, EventLog, RecordedEvent
from shardwright.telemetry._metrics import Metrics
from shardwright.telemetry._trace import TraceContext, current_trace, use_trace

__all__ = [
    "Event",
    "EventLog",
    "Metrics",
    "RecordedEvent",
    "TraceContext",
    "current_trace",
    "use_trace",
]
