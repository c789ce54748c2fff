"""Secrets, taken out of what is logged, recorded and told.

A shard may print what it may know. What it prints is kept by the node and shown to whoever asks for logs: the values of
the manifest's secrets are replaced there, in any shard's lines, in the journal, in events and in our own log.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from shardwright.model.ids import ComponentName

LEAST = 5  # characters: shorter ones would take ordinary words out of every line
SHOWN = "[secret]"


class Mask:
    """Replaces values by ``[secret]``: as they are, as ``repr`` and JSON spell them, and each line of a longer one."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        found: set[str] = set()
        for value in values:
            for piece in (value, *value.splitlines()):
                piece = piece.strip()
                spelled = (
                    piece,
                    repr(piece)[1:-1],
                    json.dumps(piece)[1:-1],
                    json.dumps(piece, ensure_ascii=False)[1:-1],
                )
                found.update(text for text in spelled if len(text) >= LEAST)
        # a longer one may contain a shorter one
        ordered = sorted(found, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    @classmethod
    def of(cls, secrets: Mapping[ComponentName, Mapping[str, str]], *others: str) -> Mask:
        """Of all secrets of all components, and others."""
        return cls((*(value for values in secrets.values() for value in values.values()), *others))

    def __repr__(self) -> str:
        return f"<Mask, {'something' if self._pattern else 'nothing'} to hide>"

    def text(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(SHOWN, text)

    def value(self, value: object) -> object:
        return self.text(value) if isinstance(value, str) else value
