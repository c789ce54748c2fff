"""The journal: append-only rows that other processes may read, and that survive the writer."""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

from shardwright.node._journal import Journal


def test_rows_come_back_in_order_with_their_inputs(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state" / "j.sqlite3", "node-1")
    for number in range(5):
        journal.append(
            float(number),
            "launch" if number % 2 else "stop",
            f"because {number}",
            inputs=[("n", number), ("p", Path("x"))],
        )
    rows = journal.tail(3)
    assert [row.reason for row in rows] == ["because 2", "because 3", "because 4"]
    assert rows[0].inputs == {"n": 2, "p": "x"} and rows[0].node == "node-1"
    assert [row.reason for row in journal.tail(kind="launch")] == ["because 1", "because 3"]
    journal.close()


def test_strange_text_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3", "n")
    for text in ("", "\0", "ünï ☃", "'; DROP TABLE decisions; --", "x" * 100_000):
        journal.append(0.0, "note", text, component=text[:9], shard=text[:9], session=text[:9])
    assert [row.reason for row in journal.tail()] == ["", "\0", "ünï ☃", "'; DROP TABLE decisions; --", "x" * 100_000]
    journal.close()


def test_others_read_it_while_it_is_written_and_a_second_node_appends(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    first, second = Journal(path, "one"), Journal(path, "two")
    first.append(1.0, "node", "a")
    second.append(2.0, "node", "b")
    other = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    assert other.execute("SELECT node, reason FROM decisions ORDER BY sequence").fetchall() == [
        ("one", "a"),
        ("two", "b"),
    ]
    other.close()
    first.close()
    second.close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_what_was_appended_survives_a_writer_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    pid = os.fork()
    if pid == 0:
        journal = Journal(path, "dead")
        for number in range(20):
            journal.append(0.0, "node", str(number))
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    journal = Journal(path, "next")
    assert [row.reason for row in journal.tail()] == [str(number) for number in range(20)]
    journal.close()
