"""Two hundred sessions at once and too few slots: each gets all its shards or a clear refusal, and none deadlocks."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import shardwright
from shardwright.errors import CompositionRefused
from shardwright.testing._faults import becomes

CROWD = Path(__file__).parents[1] / "fault" / "apps" / "crowd"
ROOMS = ("attic", "bath", "den", "loft", "study")
Record = Callable[[str, int], None]


def crowd(state: Path, sessions: int, timeout_s: float, hold_s: float) -> tuple[Counter[str], list[str], list[int]]:
    outcome: Counter[str] = Counter()
    wrong: list[str] = []
    most: list[int] = [0]
    inside: set[str] = set()
    mutex = threading.Lock()
    start = threading.Barrier(sessions)
    with shardwright.start(CROWD, state=state) as node:

        def come(number: int) -> None:
            room = ROOMS[number % len(ROOMS)]
            start.wait(60)
            try:
                with node.session(f"guest-{number}", keys={"room": room}, timeout_s=timeout_s) as session:
                    with mutex:
                        inside.add(session.name)
                        most[0] = max(most[0], len(inside))
                    desk, cellar, _, hall = session.call("desk.work", room)
                    time.sleep(hold_s)
                    if session.call("desk.work", room)[:2] != (desk, cellar) or not hall:
                        wrong.append(f"{session.name} lost its shards")
                    with mutex:
                        inside.discard(session.name)
                        outcome["served"] += 1
            except CompositionRefused as refused:
                with mutex:
                    outcome["refused"] += 1
                if not refused.message:
                    wrong.append("a refusal without a reason")
            except BaseException as error:
                wrong.append(f"guest-{number}: {type(error).__name__}: {error}")

        threads = [threading.Thread(target=come, args=(number,), daemon=True) for number in range(sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(90)
        wrong += [f"{thread.name} hangs" for thread in threads if thread.is_alive()]
        composer = node.running.core.shards.composer
        if becomes(lambda: not any(record.sessions for record in composer.shards()), 5) is None:
            wrong.append(f"still held: {[record.id for record in composer.shards() if record.sessions]}")
        if composer.queued():
            wrong.append(f"still queued: {composer.queued()}")
        with node.session("afterwards", keys={"room": "den"}) as session:
            session.call("desk.work", "den")
    return outcome, wrong, most


@pytest.mark.slow
def test_two_hundred_sessions_at_once_are_all_served_in_turn(tmp_path: Path, record_exercised: Record) -> None:
    outcome, wrong, most = crowd(tmp_path, 200, 80.0, 0.0)
    assert not wrong
    assert outcome == {"served": 200}
    assert 1 < most[0] <= 10, "there are ten cellars"
    record_exercised("sessions composed at once with too few slots", 200)


@pytest.mark.slow
def test_who_cannot_be_served_in_time_is_refused_and_holds_nothing(tmp_path: Path, record_exercised: Record) -> None:
    outcome, wrong, most = crowd(tmp_path, 200, 1.0, 0.3)
    assert not wrong
    assert outcome["served"] + outcome["refused"] == 200
    assert outcome["served"] >= 5 and outcome["refused"] >= 5, outcome
    assert most[0] <= 10
    record_exercised("compositions refused clearly", outcome["refused"])
