"""The journal: append-only rows that other processes may read, and that survive the writer."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardwright.errors import NodeError
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


def test_a_row_is_found_by_its_number(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3", "n")
    journal.append(0.0, "note", "one")
    journal.append(0.0, "note", "two", inputs=[("n", 2)])
    assert [journal.find(row.sequence) for row in journal.tail()] == journal.tail()
    for unknown in (0, -1, 3, 2**80):
        with pytest.raises(NodeError, match=r"no decision|cannot be read"):
            journal.find(unknown)
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


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[tuple[Journal, sqlite3.Connection]]:
    """A journal with one row, and somebody who has its file locked."""
    path = tmp_path / "j.sqlite3"
    journal = Journal(path, "n")
    assert journal.append(0.0, "node", "0")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    yield journal, other
    other.close()
    journal.close()


def test_rows_wait_while_the_file_is_locked_and_come_in_order(locked: tuple[Journal, sqlite3.Connection]) -> None:
    journal, other = locked
    assert not any(journal.append(float(n), "node", str(n)) for n in range(1, 4))
    assert (journal.waiting, journal.trouble) == (3, "database is locked")
    assert not journal.flush()
    assert [(row.sequence, row.reason) for row in journal.tail(3)] == [(2, "1"), (3, "2"), (4, "3")]
    assert journal.tail(kind="other") == []
    other.execute("ROLLBACK")
    assert not journal.append(4.0, "node", "4"), "it does not overtake those that wait"
    assert journal.flush() and journal.waiting == 0 and journal.trouble == ""
    assert journal.append(5.0, "node", "5")
    rows = other.execute("SELECT sequence, reason FROM decisions ORDER BY sequence").fetchall()
    assert rows == [(n + 1, str(n)) for n in range(6)]


def test_what_has_no_place_to_wait_is_counted(
    locked: tuple[Journal, sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardwright.node._journal.MAX_WAITING", 3)
    journal, other = locked
    for n in range(1, 6):
        journal.append(0.0, "node", str(n))
    assert (journal.waiting, journal.dropped) == (3, 2)
    other.execute("ROLLBACK")
    assert [row.reason for row in journal.tail()] == ["0", "3", "4", "5"]


def test_what_is_lost_at_the_end_is_said(
    locked: tuple[Journal, sqlite3.Connection], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shardwright.node._journal.CLOSE_TIMEOUT_S", 0.01)
    journal, _ = locked
    journal.append(0.0, "node", "1")
    journal.close()
    assert "1 records are lost" in capsys.readouterr().err
    journal.close()
    assert not journal.append(0.0, "node", "after its end")
    journal._waiting.clear()


def test_text_that_is_no_unicode_is_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.sqlite3", "n")
    assert journal.append(0.0, "note", "a\udce4b", shard="\udcff", inputs=[("x", "\udc80")])
    assert journal.tail()[0].reason == "a\\udce4b"
    journal.close()


def test_a_file_that_cannot_be_read_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite3"
    path.write_text("something else" * 100)
    path.chmod(0o600)
    journal = Journal(path, "n")
    assert journal.set_aside is not None and journal.set_aside.name.startswith("j.sqlite3.corrupt-")
    assert journal.set_aside.read_text() == "something else" * 100
    assert journal.append(0.0, "node", "new") and [row.reason for row in journal.tail()] == ["new"]
    journal.close()
    again = Journal(path, "n")
    assert again.set_aside is None
    again.close()


def test_old_rows_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwright.node._journal._CHUNK", 3)
    journal = Journal(tmp_path / "j.sqlite3", "n")
    for n in range(30):
        journal.append(0.0, "node", str(n))
    journal.close()
    monkeypatch.setattr("shardwright.node._journal.KEPT", 10)
    journal = Journal(tmp_path / "j.sqlite3", "n")
    assert [row.reason for row in journal.tail()] == [str(n) for n in range(20, 30)]
    journal.close()
