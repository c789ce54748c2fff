"""What the parts speak of."""

from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Note:
    id: int
    owner: str
    title: str
    text: str
    tags: list[str] = field(default_factory=list)
    created: datetime = datetime(2024, 1, 1, tzinfo=UTC)


class NoSuchNote(LookupError):
    """There is no note with that number."""


class TooLong(ValueError):
    """More text than a note may have."""
