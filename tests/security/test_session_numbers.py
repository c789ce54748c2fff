"""A shard acts for a session by its number: nobody can guess one."""

from __future__ import annotations

from pathlib import Path

from guest_apps import running, write_application


def test_session_numbers_are_not_counted(tmp_path: Path) -> None:
    folder = write_application(
        tmp_path / "app", '[app]\nname = "many"\n[components.a]\ncode = "a"\n', a="def f():\n    return 1\n"
    )
    with running(folder) as node:
        numbers = []
        for _ in range(20):
            with node.session() as session:
                assert session.call("a.f") == 1
                numbers.append(session._live.number)
    assert len(set(numbers)) == 20
    assert all(0 < number < 2**63 for number in numbers)
    assert min(abs(a - b) for n, a in enumerate(numbers) for b in numbers[:n]) > 2**20
