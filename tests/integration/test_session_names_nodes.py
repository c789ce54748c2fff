"""Names and targets that are none are refused where they are given, and the node lives on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import write_application

MANIFEST = """
[app]
name = "names"
[components.a]
code = "a"
scope = "session"
resources = { cpu = 0.01, memory = "16MiB" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_application(tmp_path / "app", MANIFEST, a="def one():\n    return 1\n")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        (3, TypeError, r"text, not int: pass str\(3\)"),
        (b"x", TypeError, "text, not bytes"),
        ("", ValueError, "1 to 200 printable"),
        ("x" * 201, ValueError, "this one 201"),
        ("a\nb", ValueError, "cannot be printed"),
    ],
)
def test_names_that_are_none(folder: Path, name: Any, error: type[Exception], says: str) -> None:
    with shardwright.start(folder, state=folder / ".state", inproc=True) as node:
        with pytest.raises(error, match=says):
            node.session(name)
        with node.session("x" * 200) as session:
            assert session.call("a.one") == 1
            with pytest.raises(TypeError, match="text, not int"):
                session.call(3)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="text, not int"):
                session.with_timeout(1).call(3)  # type: ignore[arg-type]


def test_what_the_journal_cannot_record_wedges_nothing(folder: Path) -> None:
    circle: list[Any] = []
    circle.append(circle)

    class Silent:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with shardwright.start(folder, state=folder / ".state", inproc=True) as node:

        async def record() -> list[Any]:
            core = node.running.core
            core.record("note", "odd", session=Silent(), inputs=[("circle", circle)])  # type: ignore[arg-type]
            return core.journal.tail(10, kind="note")

        rows = node.running.submit(record()).result(10)
        assert "cannot be shown" in rows[-1].session and "not recorded" in rows[-1].inputs
        with node.session() as session:
            assert session.call("a.one") == 1


def test_awaiting_sessions_are_entered_either_way(folder: Path) -> None:
    async def use() -> list[Any]:
        starting = shardwright.astart(folder, state=folder / ".state", inproc=True)
        seen = [repr(starting)]
        async with starting as node:
            async with node.session("one") as session:
                seen.append(await session.call("a.one"))
            assert session._ended
            async with await node.session("two") as other:
                seen.append(await other.call("a.one"))
            third = await asyncio.create_task(node.session("three"))
            seen.append(await third.call("a.one"))
            with pytest.raises(TypeError, match="text, not int"):
                async with node.session(3):  # type: ignore[arg-type]
                    raise AssertionError
            assert node.urls == () and "running" in repr(node)
            with pytest.raises(shardwright.errors.ShardwrightError, match="nobody"):
                await node.resize("nobody", ceiling={"cpu": 1})
        return seen

    seen = asyncio.run(use())
    assert "not entered" in seen[0] and seen[1:] == [1, 1, 1]
