"""Commands for those who operate a node: its numbers, and whether it is ready."""

from __future__ import annotations

import time

import click

from shardwright.cli._errors import FAILED, OK
from shardwright.cli._invocation import Invocation, common_options
from shardwright.node import ApiClient, NoAnswer, choose, runtime_folder

POLL_S = 0.1


@click.command()
@click.argument("app", required=False)
@click.option("--openmetrics", is_flag=True, help="OpenMetrics 1.0 instead of Prometheus' own text format.")
@common_options
def metrics(invocation: Invocation, app: str | None, openmetrics: bool) -> None:
    """Print the numbers of a running node, as a scraper reads them.

    The gateway serves the same, and its own, at /metrics.

    \b
    Examples:
      shardwright metrics
      shardwright metrics arena > /var/lib/node_exporter/arena.prom
    """
    with ApiClient(choose(runtime_folder(invocation.environment), app).socket) as node:
        answer = node.ask("metrics", accept="application/openmetrics-text" if openmetrics else "")
    if invocation.json:
        invocation.result(answer)
    else:
        click.echo(answer["text"], nl=False)


@click.command()
@click.argument("app", required=False)
@click.option("--wait", "wait_s", default=0.0, metavar="SECONDS", help="How long to wait for it.  [default: 0]")
@common_options
def ready(invocation: Invocation, app: str | None, wait_s: float) -> int:
    """Say whether a running node serves all that it should.

    Exit status: 0 it is ready, 1 it is not (and why), 3 no node answers.

    \b
    Examples:
      shardwright ready arena
      shardwright ready --wait 30 && echo it serves
    """
    end_s = time.monotonic() + wait_s
    while True:
        left_s = end_s - time.monotonic()
        try:
            with ApiClient(choose(runtime_folder(invocation.environment), app).socket) as node:
                health = node.ask("health")
        except NoAnswer:
            if left_s <= 0:
                raise
        else:
            if health["ready"] or left_s <= 0:
                break
        time.sleep(max(0.0, min(POLL_S, left_s)))
    if invocation.json:
        invocation.result(health)
    elif health["ready"]:
        click.echo("ready")
    else:
        for reason in health["reasons"]:
            click.echo(f"not ready: {reason}")
    return OK if health["ready"] else FAILED
