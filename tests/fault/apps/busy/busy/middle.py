"""Calls the others for a session."""

import os

from busy import boxes, slow, waits


def process() -> int:
    return os.getpid()


def nap(seconds: float, name: str) -> int:
    return slow.nap(seconds, name)


async def wait(name: str, seconds: float) -> str:
    return await waits.wait(name, seconds)


def boxed(count: int) -> int:
    return sum(boxes.Box(8).grow(n) for n in range(count))
