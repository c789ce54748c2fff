"""``stack``: what every thread and task of running shards does now."""

from __future__ import annotations

import re
from typing import Any

import click

from shardwright.cli._ask import node_of, target_option
from shardwright.cli._errors import FAILED, OK
from shardwright.cli._invocation import Invocation, common_options, one_line, shown

_STANDARD = re.compile(r"/lib/python3\.\d+t?/(?!(site|dist)-packages/)|^<frozen ")  # where nobody looks first


@click.command()
@click.argument("shard", required=False)
@target_option
@click.option("--all", "everything", is_flag=True, help="Of all shards.")
@click.option("--full", is_flag=True, help="Show Shardwright's own frames and idle threads too.")
@common_options
def stack(invocation: Invocation, shard: str | None, app: str | None, everything: bool, full: bool) -> int:
    """Show what every thread and asyncio task of a shard does, without stopping it.

    SHARD is a shard's id, or a component's name for all of its shards. Frames run from the outermost to the innermost.
    It works while code loops or waits; where a C function keeps the interpreter, its fault handler is asked by a signal,
    which the output says: then there are no names of threads and no tasks.

    \b
    Examples:
      shardwright stack physics
      shardwright stack --all --json
    """
    if everything == (shard is not None):
        raise click.UsageError("name a shard or a component, or --all")
    with node_of(invocation, app) as node:
        answer = node.ask("stack", shard=shard or "")
    if invocation.json:
        invocation.result(answer)
    else:
        for number, found in enumerate(answer["shards"]):
            _show(found, full, first=number == 0)
    return FAILED if answer["shards"] and all(found["way"] == "none" for found in answer["shards"]) else OK


def _show(found: dict[str, Any], full: bool, *, first: bool) -> None:
    if not first:
        click.echo()
    note = f" ({found['note']})" if found["note"] else ""
    way = " by signal" if found["way"] == "signal" else ""
    click.echo(click.style(shown(one_line(f"{found['shard']} pid {found['pid']}{way}{note}")), bold=True))
    idle = 0
    for thread in found["threads"]:
        if not full and _idle(thread):
            idle += 1
            continue
        native = f" ({thread['native_id']})" if thread["native_id"] else ""
        _show_one(f"thread {thread['name']}{native}", thread, full)
    for task in found["tasks"]:
        if full or not _idle(task):
            _show_one(f"task {task['name']}", task, full)
    if idle:
        click.echo(click.style(f"  {idle} threads of Shardwright, which wait or serve (--full shows them)", dim=True))


def _idle(one: dict[str, Any]) -> bool:
    """Whether no code of the application or of its libraries is on that stack."""
    return all(frame["ours"] or _STANDARD.search(frame["file"]) for frame in one["frames"])


def _show_one(title: str, one: dict[str, Any], full: bool) -> None:
    says = f": {one['says']}" if one["says"] else ""
    click.echo(shown(one_line(f"  {title}{says}")))
    hidden = 0
    for frame in one["frames"]:
        if not full and (frame["ours"] or frame["file"].endswith("/threading.py")):
            hidden += 1
            continue
        _say_hidden(hidden)
        hidden = 0
        line = shown(one_line(f'    File "{frame["file"]}", line {frame["line"]}, in {frame["function"]}'))
        click.echo(click.style(line, dim=True) if frame["ours"] else line)
        if frame["source"]:
            click.echo(click.style(shown(one_line(f"      {frame['source']}")), dim=frame["ours"]))
    _say_hidden(hidden)


def _say_hidden(count: int) -> None:
    if count:
        click.echo(click.style(f"    ... {count} frames of Shardwright", dim=True))
