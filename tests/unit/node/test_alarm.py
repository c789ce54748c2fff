"""The timer that any thread sets, and that rouses a loop later."""

from __future__ import annotations

import asyncio
import threading

from shardwright.node._alarm import Alarm


def test_it_rings_on_the_loop_after_any_thread_set_it() -> None:
    asyncio.run(_set_by_four(threading.get_ident()))


async def _set_by_four(here: int) -> None:
    rung: list[int] = []
    alarm = Alarm(lambda: rung.append(threading.get_ident()), 0.01)
    try:
        setters = [threading.Thread(target=alarm.set) for _ in range(4)]
        for setter in setters:
            setter.start()
        for setter in setters:
            await asyncio.to_thread(setter.join)
        while not rung:
            await asyncio.sleep(0.001)
        assert set(rung) == {here}
    finally:
        alarm.close()
    alarm.close()
    alarm.set()
    assert len(rung) <= 4
