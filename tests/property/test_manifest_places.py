"""Whatever way a TOML text is written, the scanner finds the parser's paths, each at its line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shardwright.manifest._places import KeyPath, scan

KEYS = st.text("ab-_1 .\"'#=[]{},é\\", max_size=3)
LEAVES = st.sampled_from(["number", "string", "literal", "multi", "multi literal", "moment", "boolean"])
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3))
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=5)


class Writer:
    """Writes a tree as TOML, choosing among the ways there are; numbers are unique, to be found again."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.next_number = 1_000_000

    def maybe(self) -> bool:
        return self.draw(st.booleans())

    def key(self, key: str) -> str:
        bare = key.isascii() and key.replace("-", "_").replace("_", "a").isalnum()
        if bare and self.maybe():
            return key
        return f"'{key}'" if "'" not in key and self.maybe() else json.dumps(key, ensure_ascii=self.maybe())

    def value(self, value: Any) -> str:
        if isinstance(value, list):
            gap = "\n  # ] , [ comment\n" if self.maybe() else " "
            return "[" + "".join(f"{gap}{self.value(inner)}{gap}," for inner in value) + gap + "]"
        if isinstance(value, dict):
            pairs = (f"{self.key(key)} = {self.value(inner)}" for key, inner in value.items())
            return "{ " + " , ".join(pairs) + " }"
        self.next_number += 1
        return {
            "number": f"{self.next_number}",
            "string": r'"a \" # ] } \\"',
            "literal": r"'[ \ " + '"' + " # '",
            "multi": '"""\n[no.table]\n\\""" = "" x\\\\"""""',
            "multi literal": "'''\n[[no]]\n''\\'''''",
            "moment": "1979-05-27 07:32:00Z",
            "boolean": "true",
        }[value]

    def table(self, table: dict[str, Any], path: tuple[str, ...]) -> Iterator[str]:
        sections = []
        for key, value in table.items():
            is_section = isinstance(value, dict) or (
                isinstance(value, list) and value and all(isinstance(inner, dict) for inner in value)
            )
            if is_section and self.maybe():
                sections.append((key, value))
            elif isinstance(value, dict) and value and self.maybe():
                yield from (f"{self.key(key)} . {self.key(sub)} = {self.value(value[sub])}" for sub in value)
            else:
                yield f"{self.key(key)}={self.value(value)} # comment"
        for key, value in sections:
            name = ".".join(map(self.key, (*path, key)))
            for element in value if isinstance(value, list) else [value]:
                yield f"  [[{name}]]" if isinstance(value, list) else f"[ {name} ] # ]"
                yield from self.table(element, (*path, key))


def paths(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    yield path, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from paths(inner, (*path, key))


@settings(max_examples=300, deadline=None)
@given(st.data(), DOCUMENTS, st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_paths_and_lines(data: st.DataObject, document: dict[str, Any], newline: str) -> None:
    text = newline.join(Writer(data.draw).table(document, ())).replace("\r\n", "\n").replace("\n", newline)
    spots = scan(text)
    found = dict(paths(tomllib.loads(text)))
    assert set(spots) == set(found)
    lines = text.split("\n")
    for path, value in found.items():
        if isinstance(value, int) and not isinstance(value, bool):
            assert str(value) in lines[spots[path].line - 1]
        if isinstance(value, str):
            assert tomllib.loads(f"x = {spots[path].raw}")["x"] == value
