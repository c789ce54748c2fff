"""``reload``: a running node takes up what changed; ``run --reload``: it does so with every change of a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec

from shardwright.cli._ask import node_of, target_argument
from shardwright.cli._errors import report
from shardwright.cli._invocation import Invocation, common_options, shown
from shardwright.errors import NodeError
from shardwright.node import Running

_QUIET_MS = 150  # a change is over when nothing changed for so long: editors and version control write many files
_FIRST_MS = 500
_PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})
_RELOAD_S = 600.0


@click.command()
@target_argument
@common_options
def reload(invocation: Invocation, app: str | None) -> None:
    """Let a running node take up what changed in the application's code and manifest.

    Shards of components whose code changed are replaced, new ones before old ones end; the others run on. Sessions live
    on; those that had state in a replaced shard are told with their next call (ShardLost). When the code has a mistake,
    nothing is replaced; one that only a new shard can meet keeps the old shards of its component, and the exit status
    is 1. `shardwright run --reload` does this with every change of a file.

    \b
    Examples:
      shardwright reload
      shardwright reload arena --json
    """
    with node_of(invocation, app) as node:
        answer = node.ask("reload", wait_s=_RELOAD_S)
    if invocation.json:
        invocation.result(answer)
    else:
        click.echo(shown(reload_text(answer)))
    if answer["failed"]:
        raise click.exceptions.Exit(1)


def reload_text(answer: dict[str, Any]) -> str:
    """What a reload did, in a line or a few."""
    replaced = answer["replaced"]
    if not replaced:
        return "nothing has changed"
    lines = [
        f"replaced in {answer['took_s']:.2f} s: " + ", ".join(f"{name} ({len(s)})" for name, s in replaced.items())
    ]
    if answer["kept"]:
        lines.append(f"kept: {', '.join(answer['kept'])}")
    if answer["told"]:
        lines.append(f"sessions that lost state, and are told with their next call: {', '.join(answer['told'])}")
    return "\n".join([*lines, *answer["notes"]])


@contextmanager
def watching(invocation: Invocation, running: Running) -> Iterator[None]:
    """Meanwhile every change of the application's Python files, or of its manifest, is taken up, and told on stderr."""
    try:
        import watchfiles  # noqa: F401  # where nobody reloads, nobody waits for it to be loaded
    except ImportError:
        raise NodeError("--reload needs watchfiles, which is not installed", remedy="pip install watchfiles") from None
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(invocation, running, stop), name="reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(5)


def _watch(invocation: Invocation, running: Running, stop: threading.Event) -> None:
    from watchfiles import watch

    root, manifest = Path(running.manifest.root), Path(running.manifest.path).parent
    folders = {root} if manifest.is_relative_to(root) else {root, manifest}
    first, mistaken = True, False
    for changes in watch(
        *sorted(folders), watch_filter=lambda _, path: _counts(path, root), step=_QUIET_MS, debounce=10 * _QUIET_MS,
        stop_event=stop, rust_timeout=_FIRST_MS, yield_on_timeout=True, raise_interrupt=False,
    ):  # fmt: skip
        # the first time without a change too: between the start and the first look there may have been one
        if changes or first:
            mistaken = _reload(invocation, running, sorted({_short(path, root) for _, path in changes}), stop, mistaken)
        first = False


def _reload(
    invocation: Invocation, running: Running, changed: list[str], stop: threading.Event, mistaken: bool
) -> bool:
    """Whether it could not be taken up; ``mistaken``: nor could what was there before."""
    try:
        done = running.submit(running.reload()).result()
    except CancelledError:
        return mistaken
    except Exception as error:
        if not stop.is_set():
            report(error, invocation)
            click.echo("shardwright: the old code goes on", err=True)
        return True
    answer = msgspec.to_builtins(done)
    if mistaken and not answer["replaced"]:
        click.echo("shardwright: the mistake is gone, and what runs is the code that is there", err=True)
    if answer["replaced"]:
        text = reload_text(answer).replace("\n", "\nshardwright: ")
        click.echo(shown(f"shardwright: {', '.join(changed[:3]) or 'code'} changed; {text}", err=True), err=True)
    return bool(answer["failed"])


def _short(path: str, root: Path) -> str:
    return str(Path(path).relative_to(root)) if Path(path).is_relative_to(root) else path


def _counts(path: str, root: Path) -> bool:
    """Whether a change of that file may be one of the application: not of what is hidden, cached or installed."""
    below = Path(path).relative_to(root).parts if Path(path).is_relative_to(root) else (Path(path).name,)
    if any(part.startswith(".") or part in _PASSED_OVER for part in below):
        return False
    return path.endswith(".py") or (below[-1].startswith("shardwright") and below[-1].endswith(".toml"))
