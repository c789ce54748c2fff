"""What a component's import raised, as the error of whoever is to blame."""

from __future__ import annotations

from shardwright.errors import ComponentImportError, InternalError, ShardwrightError

_OURS = f"{InternalError.__module__}.{InternalError.__qualname__}:"


def import_error(component: str, message: str, traceback: str) -> ShardwrightError:
    """ComponentImportError, or InternalError where the import met a defect of ours."""
    text = f"component {component} cannot be imported: {message}"
    lines = traceback.rstrip().splitlines()
    if any(line.startswith(_OURS) for line in lines):
        return InternalError(
            text, remedy="a defect of Shardwright: report it with what it said and the code that is imported"
        )
    return ComponentImportError(text, user_traceback=traceback, remedy=_remedy(traceback))


def _remedy(traceback: str) -> str:
    places = [line.strip() for line in traceback.splitlines() if line.lstrip().startswith("File ")]
    return (
        f"correct what it does at {places[-1][5:].partition(', in ')[0]}"
        if places
        else "import it by itself to see why"
    )
