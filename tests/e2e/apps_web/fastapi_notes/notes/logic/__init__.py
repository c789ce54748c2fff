"""The rules: what a note may be, who may see it, what is found in it."""

import os
import re
from collections import Counter

from notes import data
from notes.model import Note, TooLong

LONGEST = 200


def create(owner: str, title: str, text: str) -> Note:
    if len(text) > LONGEST:
        raise TooLong(f"a note has at most {LONGEST} characters, and not {len(text)}")
    return data.add(owner, title.strip(), text, sorted(set(re.findall(r"#(\w+)", text))))


def mine(owner: str, tag: str | None = None) -> list[Note]:
    return [note for note in data.of(owner) if tag is None or tag in note.tags]


def read(number: int) -> Note:
    return data.get(number)


def remove(number: int) -> None:
    data.remove(number)


def words(text: str) -> dict[str, int]:
    return dict(Counter(re.findall(r"\w+", text.lower())).most_common(3))


async def search(word: str) -> list[str]:
    return sorted(note.title for note in data.every() if word in note.text)


def numbers() -> list[int]:
    return [note.id for note in data.every()]


def line(number: int) -> str:
    note = data.get(number)
    return f"{note.id};{note.title};{len(note.text)}\n"


def note_done(what: str) -> None:
    data.note_done(what.upper())


def done() -> list[str]:
    return data.done()


def where() -> dict[str, int]:
    return {"logic": os.getpid(), "data": data.where()}
