"""A terminal debugs a running shard: where it stops, what goes on meanwhile, and that no shard is ever left standing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import shardwright as public
from cli_apps import environment, write_app
from dev_terminals import Typing, api_path, attached, begin
from shardwright.errors import DeadlineExceeded
from shardwright.node import ApiClient, Node, Refused, Session

MANIFEST = """
[app]
name = "debugged"
[components.desk]
code = "desk"
[components.side]
code = "side"
"""
DESK = """\
import asyncio
import threading
import time

import side

going = True


def twice(n):
    doubled = n * 2
    more = side.plus(doubled)
    return more


def loops():
    n = 0
    while going:
        n += 1
    return "stopped by hand"


async def answers(n):
    await asyncio.sleep(0)
    found = n + 1
    return found


def marks():
    before = "kept"
    breakpoint()
    after = before + " and seen"
    return after


class Clerk:
    def __init__(self, name):
        self.name = name
        self.greeted = 0

    def greets(self, whom):
        self.greeted += 1
        text = f"{self.name} greets {whom}"
        return text
"""
SIDE = """\
def plus(n):
    return n + 1
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    app = write_app(tmp_path / "app", MANIFEST, desk=DESK, side=SIDE)
    with public.start(app, state=tmp_path / "state") as node:
        yield node


def shard_of(node: Node, component: str) -> str:
    return next(shard.id for shard in node.shards() if shard.component == component)


def test_the_next_call_stops_and_can_be_walked_through(node: Node) -> None:
    with node.session() as session, attached(node, "desk") as terminal:
        terminal.until("deadlines of calls are not extended")
        call = begin(session.call, "desk.twice", 21)
        terminal.until("doubled = n * 2")
        prompt = f"({shard_of(node, 'desk')}) "
        terminal.until(prompt)
        assert session.call("side.plus", 1) == 2  # elsewhere calls go on
        terminal.type("where\n")
        stack = terminal.until(prompt)
        assert "desk.py(11)twice()" in stack and "shardwright/guest" not in stack and "threading.py" not in stack
        terminal.type("next\n")
        terminal.until("more = side.plus(doubled)", prompt)
        terminal.until(prompt)
        terminal.type("p n, doubled\n")
        terminal.until("(21, 42)")
        terminal.type("!doubled = 100\n")
        terminal.until(prompt)
        assert not call.done()
        terminal.type("quit\n")
        terminal.until("goes on")
        terminal.to_end()
        assert call.result(20) == 101
        assert session.call("desk.twice", 1) == 3  # and nothing stops any more


def test_stepping_out_of_a_call_never_leads_into_our_code(node: Node) -> None:
    with node.session() as session, attached(node, "desk") as terminal:
        terminal.until("not extended")
        call = begin(session.call, "desk.twice", 2)
        prompt = f"({shard_of(node, 'desk')}) "
        terminal.until(prompt)
        for _ in range(4):  # two lines, the return's, and out
            terminal.type("next\n")
            if "--Return--" in terminal.until(prompt):
                break
        terminal.type("next\n")
        assert call.result(20) == 5
        second = begin(session.call, "desk.twice", 3)  # on the same thread, which is still stepped through
        assert "desk.py" in terminal.until(prompt)
        terminal.type("quit\n")
        assert second.result(20) == 7
        assert "guest/_" not in terminal.to_end()


def test_a_place_is_a_function_a_method_or_a_line(node: Node) -> None:
    with node.session() as session:
        for at, target, args, expected in (
            ("desk:twice", "desk.twice", (4,), 9),
            ("desk.py:12", "desk.twice", (5,), 11),
            ("desk:answers", "desk.answers", (1,), 2),
        ):
            with attached(node, "desk", at=at) as terminal:
                terminal.until("not extended")
                assert session.call("side.plus", 0) == 1
                call = begin(session.call, target, *args)
                terminal.until(f"({shard_of(node, 'desk')}) ")
                if at.endswith(":12"):
                    assert "-> more = side.plus(doubled)" in terminal.shown
                terminal.type("continue\n")
                assert call.result(20) == expected
                again = begin(session.call, target, *args)  # a breakpoint holds every time
                terminal.until(f"({shard_of(node, 'desk')}) ")
                terminal.type("quit\n")
                assert again.result(20) == expected
                terminal.to_end()
        clerk = session.call("desk.Clerk", "Ada")
        with attached(node, "desk", at="desk:Clerk.greets") as terminal:
            terminal.until("not extended")
            call = begin(clerk.greets, "Bob")
            terminal.until("self.greeted += 1")
            terminal.until(") ")
            terminal.type("p self.name\nquit\n")
            terminal.until("'Ada'")
            assert call.result(20) == "Ada greets Bob"


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_loop_is_stopped_in_the_middle(node: Node, by_hand: bool) -> None:
    """By ``--now``, or by Ctrl-C later on."""
    with node.session() as session:
        call = begin(session.call, "desk.loops")
        with attached(node, "desk", now=not by_hand) as terminal:
            terminal.until("not extended")
            if by_hand:
                terminal.type("\x03")
            terminal.until("loops()")
            terminal.until(") ")
            terminal.type("import desk\np desk.going\n")
            terminal.until("True")
            terminal.type("continue\n")
            terminal.until("Ctrl-D detaches")
            terminal.type("\x03")
            terminal.until("loops()")
            terminal.until(") ")
            terminal.type("!import desk; desk.going = False\n\x04")
            assert call.result(20) == "stopped by hand"
            terminal.to_end()


def test_a_lost_terminal_lets_the_program_go_on(node: Node) -> None:
    with node.session() as session:
        for typed in ("", "p n\n", "half a li", "step\n"):
            with attached(node, "desk") as terminal:
                terminal.until("not extended")
                call = begin(session.call, "desk.twice", 3)
                terminal.until("doubled = n * 2")
                terminal.type(typed)
            assert call.result(20) == 7
        with attached(node, "desk"):  # lost while it waits
            pass
        assert session.call("desk.twice", 4) == 9


def test_deadlines_are_said_and_kept(node: Node) -> None:
    with node.session() as session, attached(node, "desk") as terminal:
        terminal.until("not extended")
        call = begin(session.with_timeout(1.0).call, "desk.twice", 3)
        terminal.until("deadline passes in")
        with pytest.raises(DeadlineExceeded):
            call.result(20)
        terminal.type("quit\n")
        terminal.until("goes on")
        assert session.call("desk.twice", 3) == 7


def test_breakpoint_stops_for_who_is_attached_and_is_told_of_otherwise(
    node: Node,
) -> None:
    with node.session() as session:
        assert session.call("desk.marks") == "kept and seen"
        with ApiClient(api_path(node)) as client:
            lines = [line["line"]["text"] for line in client.lines("logs", follow=False)]
        shard = shard_of(node, "desk")
        assert any("desk.py:31" in line and f"shardwright attach {shard}" in line for line in lines), lines
        with attached(node, "desk", at="desk:twice") as terminal:
            terminal.until("not extended")
            call = begin(session.call, "desk.marks")
            terminal.until('after = before + " and seen"')
            terminal.until(") ")
            terminal.type("p before\ncontinue\n")
            terminal.until("'kept'")
            assert call.result(20) == "kept and seen"


def test_what_cannot_be_attached_to_is_said(node: Node) -> None:
    def refused(**wanted: Any) -> str:
        with pytest.raises(Refused) as caught, attached(node, **wanted):
            pass
        return f"{caught.value.message} {caught.value.remedy}"

    assert "desk" in refused(shard="dask")
    assert "no function" in refused(shard="desk", at="desk:nothing")
    assert "belongs to side" in refused(shard="desk", at="side:plus")
    assert "no file" in refused(shard="desk", at="dask.py:3")
    assert "nothing to run" in refused(shard="desk", at="desk.py:9")
    assert "no place" in refused(shard="desk", at="desk")
    with attached(node, "desk") as terminal:
        terminal.until("not extended")
        assert "another terminal" in refused(shard="desk")
    with node.session() as session:
        assert session.call("desk.twice", 4) == 9


def test_the_end_of_a_shard_ends_its_debugger(node: Node) -> None:
    with node.session() as session, attached(node, "desk") as terminal:
        terminal.until("not extended")
        call = begin(session.call, "desk.twice", 3)
        terminal.until("doubled = n * 2")
        pid = next(shard.pid for shard in node.shards() if shard.component == "desk")
        os.kill(pid, 9)
        with pytest.raises(public.errors.ShardLost):
            call.result(20)
        terminal.to_end()


def test_debugpy_listens_on_loopback(tmp_path: Path) -> None:
    app = write_app(tmp_path / "app", MANIFEST + 'isolation = "process"\n', desk=DESK, side=SIDE)
    with public.start(app, state=tmp_path / "state") as node:
        with attached(node, "side", debugpy=True) as terminal:
            shown = terminal.to_end(60)
        assert "debugpy listens at 127.0.0.1:" in shown
        with node.session() as session:
            assert session.call("side.plus", 1) == 2


def test_behind_walls_pdb_works_and_debugpy_is_refused(node: Node) -> None:
    assert {each.component: each.isolation for each in node.shards()} == {"desk": "process", "side": "namespace"}
    with pytest.raises(Refused, match="behind walls") as caught, attached(node, "side", debugpy=True):
        pass
    assert 'isolation = "process" in [components.side]' in caught.value.remedy
    with node.session() as session, attached(node, "side") as terminal:
        terminal.until("not extended")
        call = begin(session.call, "side.plus", 1)
        terminal.until("return n + 1")
        terminal.until(") ")
        terminal.type("p n * 1000\n")
        terminal.until("1000")
        terminal.type("continue\n")
        assert call.result(20) == 2


def test_from_a_real_terminal(tmp_path: Path, node: Node) -> None:
    """The command itself at a pseudo terminal: raw while it debugs, as it was afterwards."""
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = subprocess.Popen(
        [sys.executable, "-m", "shardwright", "attach", "desk", "--app", "debugged"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment(tmp_path), start_new_session=True,
    )  # fmt: skip
    try:
        terminal = Typing(ours)
        terminal.until("not extended")
        raw = termios.tcgetattr(theirs)
        assert raw[3] & (termios.ICANON | termios.ISIG | termios.ECHO) == 0
        with node.session() as session:
            call = begin(session.call, "desk.twice", 8)
            terminal.until("doubled = n * 2")
            terminal.until(") ")
            terminal.type("p n * 1x\x7f000\n")  # a letter taken back
            terminal.until("8000")
            terminal.type("!print(chr(27) + '[31mred')\n")
            terminal.until("\\u001b[31mred")  # nothing that the terminal would obey
            terminal.type("\x04")
            terminal.until("goes on")
            assert command.wait(20) == 0
            assert call.result(20) == 17
        assert termios.tcgetattr(theirs) == before
    finally:
        if command.poll() is None:
            command.kill()
            command.wait(10)
        os.close(ours)
        os.close(theirs)


def test_forty_terminals_come_and_go_under_load(node: Node, record_exercised: Callable[[str, int], None]) -> None:
    """Whatever the moment at which a terminal is lost, no call fails and none waits for ever."""
    stop = threading.Event()
    done: list[int] = []

    def load(session: Session) -> None:
        while not stop.is_set():
            done.append(session.call("desk.twice", 2))

    sessions = [node.session() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(load, session) for session in sessions]
        try:
            for number in range(40):
                with attached(
                    node, "desk", now=number % 3 == 0, at="desk.py:11" if number % 3 == 1 else ""
                ) as terminal:
                    if number % 4:
                        terminal.until("stops in thread")
                    if number % 5 == 0:
                        terminal.type("continue\n")
            before = len(done)
            end_s = time.monotonic() + 20
            while len(done) < before + 100 and time.monotonic() < end_s:
                time.sleep(0.01)
            assert len(done) >= before + 100
        finally:
            stop.set()
        for future in running:
            future.result(20)
    for session in sessions:
        session.end()
    assert set(done) == {5}
    record_exercised("terminals that came and went", 40)
