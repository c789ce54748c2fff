"""``reload``: a running node takes up what changed; and what a reload did, in words."""

from __future__ import annotations

from typing import Any

import click

from shardwright.cli._ask import node_of, target_argument
from shardwright.cli._invocation import Invocation, common_options, shown

_RELOAD_S = 600.0


@click.command()
@target_argument
@common_options
def reload(invocation: Invocation, app: str | None) -> None:
    """Let a running node take up what changed in the application's code and manifest.

    Shards of components whose code changed are replaced, new ones before old ones end; the others run on. Sessions live
    on; those that had state in a replaced shard are told with their next call (ShardLost). When the code has a mistake,
    nothing is replaced. `shardwright run --reload` does this with every change of a file.

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
