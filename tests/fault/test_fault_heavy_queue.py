"""Calls of many bytes that wait do not take a shard's memory: they are refused, and others are served afterwards."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from guest_apps import running, write_application
from shardwright.errors import Overloaded

MANIFEST = """
    [app]
    name = "heavy"
    [components.bank]
    code = "bank"
    state = "memory"
    limits = { memory = "400MiB" }
"""
BANK = """
    def slow(seconds):
        import time
        time.sleep(seconds)

    def size(what):
        return len(what)
"""
LOAD = b"x" * (20 << 20)  # a hundred MiB may wait, fifty of one caller: two such


def test_calls_of_many_bytes_are_refused_before_they_are_kept(tmp_path: Path, record_exercised: Any) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, bank=BANK)
    with running(folder) as node, node.session("one") as session:
        assert session.call("bank.size", LOAD) == len(LOAD)
        answers: list[Any] = []

        def call() -> None:
            try:
                answers.append(session.call("bank.size", LOAD))
            except Overloaded as refused:
                answers.append(refused)

        busy = threading.Thread(target=session.call, args=("bank.slow", 4.0))
        busy.start()
        threads = [threading.Thread(target=call) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in (busy, *threads):
            thread.join(60)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert len(answers) == 12
        assert {answer for answer in answers if isinstance(answer, int)} == {len(LOAD)}
        assert refused and all(error.outcome == "not started" for error in refused)
        assert session.call("bank.size", LOAD) == len(LOAD)  # and nothing is left behind of those
        assert [shard.component for shard in node.shards() if shard.status == "ready"] == ["bank"]
    record_exercised("heavy calls refused", len(refused))
