"""A private part."""

import os


def process() -> int:
    return os.getpid()
