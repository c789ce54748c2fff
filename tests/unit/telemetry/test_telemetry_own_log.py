"""What Shardwright itself says: JSON or for people, from a level on, without secrets, whoever reads."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import threading

import pytest
import structlog

from shardwright.telemetry import OwnLog, TraceContext, use_trace


class Stream(io.StringIO):
    def __init__(self, terminal: bool = False) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def said(log: OwnLog, stream: Stream) -> list[str]:
    log.close()
    return stream.getvalue().splitlines()


def test_a_line_is_one_object_with_what_is_bound_and_what_is_said() -> None:
    stream = Stream()
    log = OwnLog(stream, of="node")
    log.say("warning", "a shard was lost", shard="web-1", session="", sequence=3, component=None)
    (line,) = said(log, stream)
    told = json.loads(line)
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "of": "node", "pid": os.getpid(), "event": "a shard was lost", "level": "warning", "shard": "web-1", "sequence": 3,
    }  # fmt: skip


def test_only_what_matters_enough_is_said() -> None:
    stream = Stream()
    log = OwnLog(stream, level="warning")
    for level in ("debug", "info", "warning", "error"):
        log.say(level, level)
    assert [json.loads(line)["event"] for line in said(log, stream)] == ["warning", "error"]
    silent = OwnLog(stream, level="off")
    silent.say("error", "never")
    assert not silent.wants("error") and len(said(silent, stream)) == 2


@pytest.mark.parametrize(
    ("form", "terminal", "pretty"),
    [("auto", True, True), ("auto", False, False), ("json", True, False), ("pretty", False, True)],
)
def test_it_is_pretty_for_people_and_json_for_the_rest(form: str, terminal: bool, pretty: bool) -> None:
    stream = Stream(terminal)
    log = OwnLog(stream, form=form, colours=False)  # type: ignore[arg-type]
    log.say("info", "hello", kind="node")
    (line,) = said(log, stream)
    assert ("kind=node" in line) is pretty
    assert (not pretty) or "\x1b" not in line


def test_text_of_others_moves_no_cursor_and_makes_no_second_line() -> None:
    evil = "\x1b[2Jgone\r\n2026 fake line \u202e"
    for form in ("pretty", "json"):
        stream = Stream()
        log = OwnLog(stream, form=form)  # type: ignore[arg-type]
        log.say("info", evil, shard=evil)
        (line,) = said(log, stream)
        assert not any(sign in line for sign in "\x1b\r\u202e")


def test_secrets_are_concealed_in_text_and_in_fields() -> None:
    stream = Stream()
    log = OwnLog(stream)
    log.conceal = lambda text: text.replace("hunter2", "[secret]")
    log.say("info", "it said hunter2", reason="hunter2!")
    (line,) = said(log, stream)
    assert "hunter2" not in line and line.count("[secret]") == 2


def test_the_current_trace_is_on_the_line() -> None:
    stream = Stream()
    log = OwnLog(stream)
    trace = TraceContext.new_trace()
    with use_trace(trace):
        log.say("info", "inside")
    log.say("info", "outside")
    inside, outside = map(json.loads, said(log, stream))
    assert inside["trace_id"] == trace.trace_id.hex() and "trace_id" not in outside


def test_nothing_of_the_process_is_configured() -> None:
    before = structlog.get_config(), logging.getLogger().handlers[:], logging.getLogger().level
    stream = Stream()
    log = OwnLog(stream)
    log.say("info", "x")
    assert said(log, stream)
    assert (structlog.get_config(), logging.getLogger().handlers[:], logging.getLogger().level) == before


def test_a_reader_that_has_gone_hinders_nobody() -> None:
    stream = Stream()
    log = OwnLog(stream)
    stream.close()
    log.say("error", "who hears me?")
    log.close()
    read, write = os.pipe()
    os.close(read)
    with contextlib.suppress(BrokenPipeError), open(write, "w", buffering=1) as broken:  # of its end, which tries again
        gone = OwnLog(broken)
        gone.say("error", "nobody")
        gone.close()


def test_a_reader_that_stands_still_holds_nobody_up_and_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardwright.telemetry._own_log.MOST_WAITING", 10)
    go = threading.Event()

    class Slow(Stream):
        def write(self, text: str) -> int:
            go.wait(30)
            return super().write(text)

    stream = Slow()
    log = OwnLog(stream)
    for number in range(50):
        log.say("info", str(number))  # returns, though nobody reads
    go.set()
    lines = [json.loads(line) for line in said(log, stream)]
    lost = sum(line.get("lost", 0) for line in lines)
    assert lost >= 35 and lost + sum("lost" not in line for line in lines) == 50
