"""The emit side of events, metrics and traces. What becomes of them is decided by who listens."""

from shardwright.telemetry._events import Event, EventLog, RecordedEvent
from shardwright.telemetry._metrics import LATENCIES_S, Distribution, Metrics, Series
from shardwright.telemetry._own_log import LOG_FORMATS, LOG_LEVELS, LogFormat, LogLevel, OwnLog
from shardwright.telemetry._trace import TraceContext, current_trace, use_trace

__all__ = [
    "LATENCIES_S",
    "LOG_FORMATS",
    "LOG_LEVELS",
    "Distribution",
    "Event",
    "EventLog",
    "LogFormat",
    "LogLevel",
    "Metrics",
    "OwnLog",
    "RecordedEvent",
    "Series",
    "TraceContext",
    "current_trace",
    "use_trace",
]
