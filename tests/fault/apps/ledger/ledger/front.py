"""What a session calls; it counts for itself and asks three others."""

import os
import time

from ledger import counter, safe, sums

_steps = 0


def step(session: str, name: str, number: int) -> dict[str, tuple[str, int]]:
    """Count everywhere; each count comes with the process that holds it."""
    global _steps
    _steps += 1
    return {
        "front": (str(os.getpid()), _steps),
        "safe": safe.bump(name, session),
        "counter": counter.bump(session),
        "sums": sums.square(number),
    }


def slow(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()
