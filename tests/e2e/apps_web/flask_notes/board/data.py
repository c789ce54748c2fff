"""Where messages are kept."""

import itertools
import os


class Topic:
    """A topic has its messages in the order in which they came."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._messages: list[tuple[int, str, str]] = []

    def add(self, number: int, author: str, text: str) -> None:
        self._messages.append((number, author, text))

    def messages(self) -> list[tuple[int, str, str]]:
        return list(self._messages)


_topics: dict[str, Topic] = {}
_numbers = itertools.count(1)


def add(topic: str, author: str, text: str) -> int:
    number = next(_numbers)
    _topics.setdefault(topic, Topic(topic)).add(number, author, text)
    return number


def messages(topic: str) -> list[tuple[int, str, str]]:
    return _topics[topic].messages()


def topics() -> dict[str, int]:
    return {name: len(topic.messages()) for name, topic in sorted(_topics.items())}


def where() -> int:
    return os.getpid()
