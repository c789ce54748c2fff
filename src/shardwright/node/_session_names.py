"""What a session may be called: names stand in tables, lines and the journal."""

from __future__ import annotations

MAX_SESSION_NAME = 200  # characters


def name_problem(name: str) -> str:
    """Why a session cannot be called that, in words; empty where it can."""
    if name and len(name) <= MAX_SESSION_NAME and name.isprintable():
        return ""
    return f"a session's name has 1 to {MAX_SESSION_NAME} printable characters, this one {len(name)}" + (
        "" if name.isprintable() else ", and some cannot be printed"
    )


def check_name(name: object) -> None:
    """Raises TypeError for what is no text, ValueError for a text that is no name."""
    if not isinstance(name, str):
        raise TypeError(f"a session's name is text, not {type(name).__name__}: pass str({name!r:.60})")
    if problem := name_problem(name):
        raise ValueError(problem)
