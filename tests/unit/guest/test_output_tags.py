"""Tagged output: whole lines with who said them, and nothing that user code can break by talking."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator

import pytest

from shardwright.guest import CallContext, current_call
from shardwright.guest._output import MARK, SPLIT, TaggedStream
from shardwright.model.ids import SessionNumber


class Pipe:
    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)

    def lines(self) -> list[tuple[dict[str, object], str]]:
        data = b""
        while True:
            try:
                chunk = os.read(self.read, 65536)
            except BlockingIOError:
                break
            if not chunk:
                break
            data += chunk
        found = []
        for line in data.decode().split("\n")[:-1]:
            assert line.startswith(MARK)
            tag, _, text = line[1:].partition(SPLIT)
            found.append((json.loads(tag), text))
        return found


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for descriptor in (made.read, made.write):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_a_line_goes_out_when_it_is_whole(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stdout")
    assert stream.write("hello ") == 6
    assert pipe.lines() == []
    stream.write("you\nand")
    assert pipe.lines() == [({"o": "stdout"}, "hello you")]
    stream.flush()
    assert pipe.lines() == [({"o": "stdout", "p": 1}, "and")]
    stream.flush()
    assert pipe.lines() == []


def test_the_session_of_the_running_call_is_named(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stderr")
    token = current_call.set(CallContext(session=SessionNumber(7)))
    try:
        print("mine", file=stream)
    finally:
        current_call.reset(token)
    print("nobody's", file=stream)
    assert pipe.lines() == [({"o": "stderr", "s": 7}, "mine"), ({"o": "stderr"}, "nobody's")]


def test_a_long_line_goes_in_pieces_that_are_marked(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stdout")
    text = "☃é𝄞x" * 3000
    stream.write(text + "\n")
    lines = pipe.lines()
    assert "".join(piece for _, piece in lines) == text
    assert all(tag.get("p") == 1 for tag, _ in lines[:-1]) and "p" not in lines[-1][0]


def test_marks_in_the_text_forge_nothing(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stdout")
    stream.write(f'{MARK}{{"s": 9}}{SPLIT}I am somebody else\n')
    ((tag, text),) = pipe.lines()
    assert tag == {"o": "stdout"} and text.endswith("I am somebody else") and text.startswith(MARK)


def test_threads_have_lines_of_their_own(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stdout")
    stream.write("first ")
    other = threading.Thread(target=lambda: stream.write("second\n"))
    other.start()
    other.join()
    stream.write("half\n")
    assert [text for _, text in pipe.lines()] == ["second", "first half"]


def test_a_line_that_one_session_began_no_other_continues(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stdout")
    token = current_call.set(CallContext(session=SessionNumber(1)))
    stream.write("mine, ")
    current_call.set(CallContext(session=SessionNumber(2)))
    stream.write("yours\nand ")
    current_call.set(CallContext(session=SessionNumber(1)))
    stream.flush()
    stream.write("more\n")
    current_call.reset(token)
    stream.flush()
    assert pipe.lines() == [
        ({"o": "stdout", "s": 2}, "yours"),
        ({"o": "stdout", "s": 1, "p": 1}, "mine, "),
        ({"o": "stdout", "s": 1}, "more"),
    ]


def test_bytes_and_surrogates_and_wrong_types(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stdout")
    stream.buffer.write(b"\xff\xc3\xa9\n")
    stream.write("\ud800\n")
    assert [text for _, text in pipe.lines()] == ["\\xffé", "\\ud800"]
    with pytest.raises(TypeError):
        stream.write(b"bytes")  # type: ignore[arg-type]
    assert stream.writable() and stream.buffer.writable() and not stream.isatty() and stream.fileno() == 1


def test_logged_records_keep_level_and_name(pipe: Pipe) -> None:
    stream = TaggedStream(pipe.write, "stderr")
    record = logging.LogRecord("a.b", logging.ERROR, "x.py", 1, "two\nlines", (), None)
    stream.log(record, record.getMessage())
    assert pipe.lines() == [
        ({"o": "log", "l": "ERROR", "n": "a.b"}, "two"),
        ({"o": "log", "l": "ERROR", "n": "a.b"}, "lines"),
    ]


def test_a_reader_that_is_gone_is_no_error(pipe: Pipe) -> None:
    os.close(pipe.read)
    print("nobody hears", file=TaggedStream(pipe.write, "stdout"))
