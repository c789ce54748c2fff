"""The rules of the board."""

import hashlib
import os

from board import data


class Refused(Exception):
    """A message that is not taken. ``field`` says where the mistake is."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(field, why)
        self.field = field
        self.why = why


def post(topic: str, author: str, text: str) -> int:
    if not text.strip():
        raise Refused("text", "says nothing")
    if not topic.isidentifier():
        raise Refused("topic", f"{topic!r} is no name")
    return data.add(topic, author, text.strip())


def read(topic: str) -> list[tuple[int, str, str]]:
    return data.messages(topic)


def topics() -> dict[str, int]:
    return data.topics()


def digest(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def line(topic: str, index: int) -> str | None:
    found = data.messages(topic)[index : index + 1]
    return "{} {}: {}\n".format(*found[0]) if found else None


def where() -> dict[str, int]:
    return {"logic": os.getpid(), "data": data.where()}
