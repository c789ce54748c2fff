"""What a terminal is told, and when."""

from __future__ import annotations

import io
import sys
import threading
from typing import Any

import pytest

from shardwright.guest._debug_session import Attachment


class Terminal(io.StringIO):
    """Remembers which trace function new threads had when it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.traced: list[Any] = []

    def write(self, text: str) -> int:
        self.traced.append(threading.gettrace())
        return super().write(text)


@pytest.mark.parametrize("impatient", [False, True])
def test_who_reads_that_it_is_attached_is(impatient: bool) -> None:
    """The program stops from the moment on at which the terminal says so, and Ctrl-C that came before that counts."""
    terminal = Terminal()
    before = threading.gettrace(), sys.gettrace()
    attached = Attachment("desk-1", "/nowhere", terminal, 1, lambda: None)  # type: ignore[arg-type]
    try:
        if impatient:
            attached.break_in()
        attached.wait(now=False, entry=True, saying="attached\n")
        assert terminal.getvalue() == "attached\n"
        assert terminal.traced == [attached.watch]
        assert (attached._now, attached._entry) == (impatient, not impatient)
    finally:
        attached.detach(lost=True)
        sys.settrace(before[1])
    assert attached.over and threading.gettrace() == before[0]
