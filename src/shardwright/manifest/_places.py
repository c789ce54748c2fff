"""Where each key and value of a TOML text was written.

The standard library's ``tomllib`` parses exactly and quickly but keeps no positions. This scanner walks a text that
``tomllib`` has already accepted, so it need not judge anything: it finds keys, strings and brackets and notes lines.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

from msgspec import Struct

KeyPath = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'  # up to two more quotes belong to the text
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_TOKEN = re.compile(
    rf"(?P<string>{_STRING.pattern})|(?P<bare>[A-Za-z0-9_-]+)|(?P<dot>\.)|[ \t]+|#[^\n]*|(?P<other>.)", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\n]+")  # numbers, booleans, dates (which may contain a space)


class Spot(Struct, frozen=True):
    """The line (from 1) where a key, or an element of an array, begins; ``raw`` is a string's text as written."""

    line: int
    raw: str = ""


def check_keys(text: str, most: int) -> None:
    """Raises RecursionError for a dotted key of more than ``most`` parts, before anybody takes the square of their number.

    ``text`` may be anything.
    """
    if text.count(".") < most:
        return
    dots = 0
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "dot":
            dots += 1
            if dots >= most:
                raise RecursionError
        elif token.lastgroup == "other":
            if token[0] in "\"'":
                return  # no end of a string: it is no TOML, and will be said to be none
            dots = 0


def scan(text: str) -> dict[KeyPath, Spot]:
    """The spot of every table, key and array element, by its path; elements of arrays count from 0.

    ``text`` must be TOML that ``tomllib.loads`` accepts; the result for anything else is undefined. Raises
    RecursionError for a text nested deeper than the interpreter's stack.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.spots


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0
        self.spots: dict[KeyPath, Spot] = {(): Spot(1)}
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._last_element: dict[KeyPath, int] = {}  # of each array of tables

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK) < len(self.text):
            if self.text[self.position] == "[":
                table = self._header()
            else:
                self._pair(table)

    def _skip(self, pattern: re.Pattern[str]) -> int:
        match = pattern.match(self.text, self.position)
        if match is not None:
            self.position = match.end()
        return self.position

    def _spot(self, start: int, raw: str = "") -> Spot:
        return Spot(bisect_right(self._newlines, start - 1) + 1, raw)

    def _header(self) -> KeyPath:
        start = self.position
        is_array = self.text.startswith("[[", start)
        self.position += 2 if is_array else 1
        keys = self._dotted_key()
        self.position += 2 if is_array else 1
        spot = self._spot(start)
        path: KeyPath = ()
        for key in keys[:-1]:
            path = self._current((*path, key))
            self.spots.setdefault(path, spot)
        path = (*path, keys[-1])
        if is_array:
            self.spots.setdefault(path, spot)
            self._last_element[path] = self._last_element.get(path, -1) + 1
        path = self._current(path)
        self.spots[path] = spot
        return path

    def _current(self, path: KeyPath) -> KeyPath:
        """A header that names an array of tables means its last element."""
        return (*path, self._last_element[path]) if path in self._last_element else path

    def _pair(self, table: KeyPath) -> None:
        start = self.position
        keys = self._dotted_key()
        spot = self._spot(start)
        for length in range(1, len(keys)):
            self.spots.setdefault((*table, *keys[:length]), spot)
        self.position += 1  # the equals sign
        self._skip(_SPACE)
        path = (*table, *keys)
        self.spots[path] = Spot(spot.line, self._value(path))

    def _dotted_key(self) -> tuple[str, ...]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            start = self.position
            if self.text[start] in "\"'":
                self._skip(_STRING)
                keys.append(tomllib.loads(f"key = {self.text[start : self.position]}")["key"])
            else:
                self._skip(_BARE_KEY)
                keys.append(self.text[start : self.position])
            self._skip(_SPACE)
            if self.text[self.position] != ".":
                return tuple(keys)
            self.position += 1

    def _value(self, path: KeyPath) -> str:
        """Step over a value, noting what is inside it; the raw text of a string, else nothing."""
        start = self.position
        first = self.text[start]
        if first in "\"'":
            self._skip(_STRING)
            return self.text[start : self.position]
        if first not in "[{":
            self._skip(_SCALAR)
            return ""
        self.position += 1
        count = 0
        while self.text[self._skip(_BLANK)] not in "]}":
            if first == "{":
                self._pair(path)
            else:
                spot = self._spot(self.position)
                self.spots[(*path, count)] = Spot(spot.line, self._value((*path, count)))
            count += 1
            if self.text[self._skip(_BLANK)] == ",":
                self.position += 1
        self.position += 1
        return ""
