"""Tracebacks as the user's program would show them: our own frames between the user's are left out."""

from __future__ import annotations

import os
from types import TracebackType

from shardwright import errors
from shardwright.model.shard import ShardPlan

STUB = "<call to "  # so begin the file names of proxies
MOST_NAMED = 12
NOTE = "raised in shards of "  # so begins the note of ``note_shards``
_OURS = os.path.dirname(os.path.abspath(errors.__file__)) + os.sep


def beyond(trace: TracebackType | None) -> TracebackType | None:
    """The traceback from its first frame that is not ours: the callee's, where there is one."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith((_OURS, STUB)):
        trace = trace.tb_next
    return trace


def note_shards(error: BaseException, plan: ShardPlan) -> None:
    """Let an exception that crossed components say which, in a note; for who is outside of them, and prints it.

    Code is told by its file.
    """
    owners = {os.path.join(plan.root, surface.path): str(surface.owner) for surface in plan.modules}
    crossed: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        owner = owners.get(trace.tb_frame.f_code.co_filename)
        if owner is not None and (not crossed or crossed[-1] != owner):
            crossed.append(owner)
        trace = trace.tb_next
    if not crossed:
        return
    if len(crossed) > MOST_NAMED:  # a recursion: how it began, and how it ended
        half = MOST_NAMED // 2
        crossed = [*crossed[:half], f"({len(crossed) - 2 * half} more)", *crossed[-half:]]
    note = f"{NOTE}{' > '.join(crossed)}"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def is_ours(filename: str) -> bool:
    """Whether code of that file is Shardwright's."""
    return filename.startswith(_OURS)
