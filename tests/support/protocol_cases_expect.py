"""``Expect: 100-continue``: the cases that applications of either kind have in common."""

from __future__ import annotations

from collections.abc import Callable

from protocol_wire import Case, Request, Talk

__all__ = ["EXPECTING", "expect_cases"]

EXPECTING = (("Expect", "100-continue"),)


def expect_cases(case: Callable[[Case], Case]) -> None:
    """Enter them."""
    for script in (expect_and_wait, expect_and_send, expect_of_an_untaken_body):
        case(script)


def expect_and_wait(talk: Talk) -> None:
    """The body is sent once the server asks for it, which it does when the application does."""
    with talk.wire() as wire:
        wire.send(Request("POST", "/echo", EXPECTING, b"waited").head(talk.case))
        talk.note("said first", wire.line().decode())
        assert wire.line() == b""
        wire.send(b"waited")
        talk.answer(wire, "POST")
        talk.note("open", wire.stays_open())
    talk.note_log()


def expect_and_send(talk: Talk) -> None:
    talk.ask(Request("POST", "/echo", EXPECTING, b"sent at once"))


def expect_of_an_untaken_body(talk: Talk) -> None:
    """Whoever does not want the body says so by the answer alone."""
    with talk.wire() as wire:
        wire.send(Request("POST", "/untaken", EXPECTING, b"never sent").head(talk.case))
        talk.answer(wire, "POST")
    talk.note_log()
