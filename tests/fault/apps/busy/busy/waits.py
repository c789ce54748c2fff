"""Coroutines that say how they ended."""

import asyncio

_ends: list[tuple[str, str]] = []


async def wait(name: str, seconds: float) -> str:
    _ends.append((name, "begun"))
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        _ends.append((name, "cancelled"))
        raise
    _ends.append((name, "done"))
    return name


async def ends() -> list[tuple[str, str]]:
    return list(_ends)
