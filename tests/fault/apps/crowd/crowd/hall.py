"""Shared by all."""

import os


def process() -> int:
    return os.getpid()
