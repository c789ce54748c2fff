"""The rule for every hazard of cutting inside a component: what becomes of the functions that it concerns."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from shardwright.model.shard import Severity


class Verdict(StrEnum):
    """What a rule says: cut there if it pays, keep the functions in one shard, or leave them where the program begins."""

    SHARD = "shard"
    TOGETHER = "keep together"
    REFUSE = "refuse"


class Rule(Struct, frozen=True):
    """One row: the hazard in a sentence, and what the user may do."""

    code: str
    verdict: Verdict
    meaning: str
    remedy: str

    @property
    def severity(self) -> Severity:
        return Severity.REFUSAL if self.verdict is Verdict.REFUSE else Severity.NOTE


_S, _T, _R = Verdict.SHARD, Verdict.TOGETHER, Verdict.REFUSE

RULES: dict[str, Rule] = {
    code: Rule(code, verdict, meaning, remedy)
    for code, verdict, meaning, remedy in (
        ("SW300", _S, "A global is read that only imports write; a shard imports it again.", "Nothing to do."),
        ("SW301", _T, "A global is written after import; its readers and writers share one shard.",
         "Pass the value as an argument, or keep it in a class with one owner."),
        ("SW302", _S, "A function changes an argument; the changes travel back to the caller's objects.",
         "Return the new value instead, which costs less."),
        ("SW303", _T, "A function keeps an argument beyond the call; caller and function share one shard.",
         "Keep a copy, or a key to look it up by."),
        ("SW304", _T, "State of a class is written after import (caches, registries); its users share one shard.",
         "Fill it at import, or give it to one object."),
        ("SW305", _T, "Objects of a class hold what cannot be copied (locks, files, modules, sessions); it stays whole.",
         "Make such members where they are used."),
        ("SW306", _S, "A class copies itself in its own way; a round trip is checked before a cut relies on it.",
         "Let the copy be equal to the original."),
        ("SW307", _T, "Objects are compared by identity; both sides share one shard.",
         "Compare by value, or use an Enum member."),
        ("SW308", _T, "A function inside another writes its variables and is handed on; all share one shard.",
         "Return the value, or use an object with one owner."),
        ("SW309", _S, "A generator is consumed elsewhere; its items are streamed.", "Nothing to do."),
        ("SW310", _S, "A coroutine function is called through an awaitable proxy; cancelling reaches it.", "Nothing to do."),
        ("SW311", _S, "An exception class cannot be rebuilt from its arguments; it arrives as an error that names it.",
         "Hand all arguments of `__init__` on to `super().__init__`."),
        ("SW312", _T, "A context manager or lock is held around the call; no cut between enter and exit.",
         "Take the lock inside of the function that is called."),
        ("SW313", _T, "A class changes its own attributes; its objects live whole in one shard.", "Nothing to do."),
        ("SW314", _R, "Attributes of an object are written from outside of its class.",
         "Give the class a method that sets them."),
        ("SW315", _T, "A class and its bases, or a metaclass, share one shard.", "Hold an object instead of inheriting."),
        ("SW316", _S, "A decorated function is cut with its decorators: the outermost callable is the unit.",
         "Nothing to do."),
        ("SW317", _S, "A cache belongs to each shard: a cut function is computed once in each.",
         "Keep the function whole if one cache matters."),
        ("SW318", _R, "A module starts threads, processes or services when it is imported.",
         "Start them in a function that the program calls."),
        ("SW319", _R, "Code replaces an attribute of another module or class (monkeypatching).",
         "Give the owner a function that sets it."),
        ("SW320", _S, "Tests patch an attribute: it is patched in the shard that owns it, and undone there.",
         "Nothing to do."),
        ("SW321", _T, "A setting of the whole process is read or written after import; its users share one shard.",
         "Set it at import, or pass the value."),
        ("SW322", _T, "State is touched on both sides of an await; a cut there would let others in between.",
         "Hold a lock, or read the state once."),
        ("SW323", _R, "A coroutine calls a plain function that runs an event loop itself: across a cut it would wait forever.",
         "Await the coroutine instead."),
        ("SW324", _S, "A context variable is read or set; the variables that the manifest lists travel.",
         "List it, or pass its value."),
        ("SW325", _T, "Thread-local state is read or written; its users share one shard.", "Pass the value as an argument."),
        ("SW326", _T, "A file, socket or database handle is opened and handed on; its users share one shard.",
         "Open it where it is used, and pass its name."),
        ("SW327", _R, "Code that analysis cannot follow: eval, exec, frames, fork, signal handlers, computed names.",
         "Name what is called, or keep it out of cut code with `never_cut`."),
        ("SW328", _S, "Functions call each other in a circle; a shard that is called back answers while it waits.",
         "Nothing to do."),
        ("SW329", _T, "A function returns what cannot be copied; caller and function share one shard.",
         "Return data instead."),
    )
}  # fmt: skip


def rules_markdown() -> str:
    """The table of rules as Markdown, for the documentation."""
    lines = ["| code | rule | hazard | what to do |", "|---|---|---|---|"]
    lines += [f"| {row.code} | {row.verdict.value} | {row.meaning} | {row.remedy} |" for row in RULES.values()]
    return "\n".join(lines) + "\n"
