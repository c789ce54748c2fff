"""One for each name."""

import os


def process(name: str) -> int:
    return os.getpid()
