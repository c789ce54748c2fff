"""Commands that talk to a running node: ps, call, logs, events, sessions, decisions, resize, stop."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from shardwright.cli._errors import FAILED, OK
from shardwright.cli._invocation import Invocation, clock_time, common_options, one_line, shown
from shardwright.cli._shard_tables import amounts, show_pool, show_shards
from shardwright.model.units import format_seconds
from shardwright.node import ApiClient, NoAnswer, NodeAddress, choose, running_nodes, runtime_folder

F = TypeVar("F", bound=Callable[..., Any])
_LONGEST_S = 7 * 86400.0
_TARGET = "APP is an application's name, the path of its manifest, or a process id; needless when one node runs."

target_argument = click.argument("app", required=False)
target_option = click.option("-a", "--app", metavar="APP", help="Which node: a name, a path or a process id.")


def node_of(invocation: Invocation, app: str | None) -> ApiClient:
    """A conversation with the node that is meant. Raises NoAnswer, Ambiguous."""
    return ApiClient(choose(runtime_folder(invocation.environment), app).socket)


@click.command()
@target_argument
@click.option("--pool", is_flag=True, help="What the warm pool costs and saves, in the money of [policy.cost].")
@common_options
def ps(invocation: Invocation, app: str | None, pool: bool) -> None:
    """List the shards of a running node, with what they take.

    \b
    Examples:
      shardwright ps
      shardwright ps arena --json
      shardwright ps --pool
    """
    if pool:
        with node_of(invocation, app) as node:
            answer = node.ask("ps", pool=True)
        if invocation.json:
            invocation.result(answer)
        elif answer["pool"]:
            show_pool(invocation, answer["pool"])
        else:
            click.echo('the pool keeps the minimum, or nobody asked for a shard yet: [policy] pool = "demand" counts')
        return
    with node_of(invocation, app) as node:
        answer = node.ask("ps")
    if invocation.json:
        invocation.result(answer)
    else:
        show_shards(invocation, answer["shards"])


ps.help = f"{ps.help}\n\n{_TARGET}"


# -- call ----------------------------------------------------------------------------------------------------------


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("words", nargs=-1, required=True, metavar="[APP] COMPONENT.FUNCTION [JSON]...")
@click.option("-k", "--keyword", "keywords", multiple=True, metavar="NAME=JSON", help="A keyword argument; repeatable.")
@click.option("--session", metavar="NAME", help="Act in this session; made for the call alone if there is none.")
@click.option("--timeout", default=60.0, show_default=True, metavar="SECONDS", help="The call's deadline.")
@common_options
def call(
    invocation: Invocation, words: tuple[str, ...], keywords: tuple[str, ...], session: str | None, timeout: float
) -> None:
    """Call a function of a component and print its result as JSON.

    Arguments are JSON; what is no JSON is taken as text, and {"__bytes__": "aGk="} as bytes (base64). In the result,
    data classes are objects, and what JSON has no word for is shown as Python would. An exception of the function is
    shown with its traceback, and the exit status is 1.

    \b
    Examples:
      shardwright call arena game.enter player-7 w1
      shardwright call inventory.reserve '"sword"' 2 --timeout 0.5
      shardwright call examples/arena game.look player-7 --session player-7 --json
    """
    nodes = running_nodes(runtime_folder(invocation.environment))
    app, rest = _split(words, nodes)
    if not rest:
        raise click.UsageError("name the function: COMPONENT.FUNCTION")
    if math.isnan(timeout) or not 0 < timeout <= _LONGEST_S:
        raise click.BadParameter(f"must be above 0, and at most {_LONGEST_S:g} seconds", param_hint="--timeout")
    named = dict(_keyword(text) for text in keywords)
    arguments = [_value(text) for text in rest[1:]]
    with node_of(invocation, app) as node:
        answer = node.ask(
            "call",
            wait_s=timeout + 15,
            target=rest[0],
            args=arguments,
            kwargs=named,
            session=session,
            timeout_s=timeout,
        )
    if invocation.json:
        invocation.result(answer)
    else:
        click.echo(shown(json.dumps(answer["value"], indent=2, ensure_ascii=False)))


def _split(words: tuple[str, ...], nodes: list[NodeAddress]) -> tuple[str | None, tuple[str, ...]]:
    """The first word names the node if it is a name, a process id or a path of one; else it is the function."""
    first = words[0]
    names = {node.app for node in nodes} | {str(node.pid) for node in nodes}
    second_is_function = len(words) > 1 and "." in words[1] and not words[1].startswith(("{", "[", '"'))
    if first in names and (second_is_function or "." not in first):
        return first, words[1:]
    if os.path.exists(first) or "." not in first:
        return first, words[1:]
    return None, words


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        return text


def _no_constant(text: str) -> Any:
    raise ValueError(text)


def _keyword(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise click.BadParameter(f"expected NAME=JSON, got {text!r}", param_hint="--keyword")
    return name, _value(value)


# -- lines ---------------------------------------------------------------------------------------------------------


@click.command()
@click.argument("shard", required=False)
@target_option
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, until Ctrl-C or the node's end.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N of the kept lines.")
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="N", help="Only lines after sequence number N.")
@click.option("--session", default="", metavar="NAME", help="Only what this session's calls printed.")
@click.option("--trace", default="", metavar="ID", help="Only lines of this trace; the beginning of its id will do.")
@common_options
def logs(
    invocation: Invocation,
    shard: str | None,
    app: str | None,
    follow: bool,
    tail: int | None,
    since: int,
    session: str,
    trace: str,
) -> int:
    """Show what user code printed and logged, by shard and session.

    SHARD is a shard's id or a component's name.

    \b
    Examples:
      shardwright logs -f
      shardwright logs physics --tail 20
      shardwright logs -f --session player-7 --json
      shardwright logs --trace 4bf92f3577b34da6
    """

    def show(line: dict[str, Any]) -> str:
        session = f" {line['session']}" if line["session"] else ""
        level = f"{line['level']} {line['logger']}: " if line["stream"] == "log" else ""
        begin = one_line(f"{clock_time(line['wall_s'])} {line['shard']}{session} | {level}")
        return f"{begin}{line['text']}"

    fields = {"since": since, "tail": tail, "shard": shard or "", "session": session, "trace": trace}
    return _lines(invocation, app, "logs", follow, fields, show)


@click.command()
@target_argument
@click.option("-f", "--follow", is_flag=True, help="Go on as they happen, until Ctrl-C or the node's end.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N of the kept events.")
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="N", help="Only those after number N.")
@common_options
def events(invocation: Invocation, app: str | None, follow: bool, tail: int | None, since: int) -> int:
    """Show the steps that a running node takes: launches, leases, losses, refusals.

    \b
    Examples:
      shardwright events -f
      shardwright events arena --tail 50 --json
    """

    def show(line: dict[str, Any]) -> str:
        where = line["shard"] or line["component"] or line["session"]
        return one_line(f"{clock_time(line['wall_s'])} {line['kind']:<9} {where:<20} {line['message']}".rstrip())

    return _lines(invocation, app, "events", follow, {"since": since, "tail": tail}, show)


def _lines(
    invocation: Invocation, app: str | None, verb: str, follow: bool, fields: dict[str, Any], show: Callable[[Any], str]
) -> int:
    with node_of(invocation, app) as node:
        for answer in node.lines(verb, follow=follow, **fields):
            if "lost" in answer:
                if invocation.json:
                    click.echo(json.dumps({"lost": answer["lost"]}))
                else:
                    click.echo(f"({answer['lost']} lines were lost here: this reader is too slow)", err=True)
            elif invocation.json:
                click.echo(shown(json.dumps(answer["line"], ensure_ascii=False)))
            else:
                click.echo(shown(show(answer["line"])))
    return OK


# -- sessions, decisions, resize, stop -------------------------------------------------------------------------------


@click.command()
@target_argument
@common_options
def sessions(invocation: Invocation, app: str | None) -> None:
    """List the sessions of a running node, with the shards that each holds.

    \b
    Example:
      shardwright sessions arena --json
    """
    with node_of(invocation, app) as node:
        answer = node.ask("sessions")
    if invocation.json:
        invocation.result(answer)
        return
    now = time.time()
    rows = []
    for session in answer["sessions"]:
        age = format_seconds(round(now - session["begun_s"], 1))
        rows.append((session["name"], age, ", ".join(session["shards"])))
    invocation.table(("SESSION", "AGE", "SHARDS"), rows)


@click.command()
@target_argument
@click.option("-n", "--tail", default=100, show_default=True, type=click.IntRange(1, 10_000), help="How many.")
@click.option("--kind", metavar="KIND", help="Only launch, lease, ready, failure, loss, stop, evict, refuse, ...")
@common_options
def decisions(invocation: Invocation, app: str | None, tail: int, kind: str | None) -> None:
    """Show the decision journal: what was decided, why, and from which inputs.

    \b
    Examples:
      shardwright decisions --kind refuse
      shardwright decisions arena --tail 500 --json
    """
    with node_of(invocation, app) as node:
        answer = node.ask("decisions", count=tail, kind=kind)
    if invocation.json:
        invocation.result(answer)
        return
    rows = []
    for row in answer["decisions"]:
        of, session = row["shard"] or row["component"] or "-", row["session"] or "-"
        rows.append((str(row["sequence"]), clock_time(row["wall_s"]), row["kind"], of, session, row["reason"]))
    invocation.table(("NUMBER", "TIME", "KIND", "OF", "SESSION", "REASON"), rows)


@click.command()
@click.argument("target")
@target_option
@click.option("--cpu", type=float, metavar="CORES", help="Guaranteed cores.")
@click.option("--memory", metavar="AMOUNT", help='Guaranteed memory, such as "64MiB".')
@click.option("--max-cpu", type=float, metavar="CORES", help="Ceiling of cores.")
@click.option("--max-memory", metavar="AMOUNT", help="Ceiling of memory.")
@common_options
def resize(
    invocation: Invocation,
    target: str,
    app: str | None,
    cpu: float | None,
    memory: str | None,
    max_cpu: float | None,
    max_memory: str | None,
) -> None:
    """Change the limits of a shard, or of all shards of a component, while they run.

    TARGET is a shard's id or a component's name. Prints what reads back.

    \b
    Examples:
      shardwright resize physics --cpu 0.5 --max-memory 128MiB
      shardwright resize physics-1a2b3c4d --max-cpu 2
    """
    guarantee = {key: value for key, value in (("cpu", cpu), ("memory", memory)) if value is not None}
    ceiling = {key: value for key, value in (("cpu", max_cpu), ("memory", max_memory)) if value is not None}
    if not guarantee and not ceiling:
        raise click.UsageError("say what to change: --cpu, --memory, --max-cpu, --max-memory")
    with node_of(invocation, app) as node:
        answer = node.ask("resize", target=target, guarantee=guarantee, ceiling=ceiling)
    if invocation.json:
        invocation.result(answer)
        return
    rows = []
    for shard, limits in answer["resized"].items():
        low, high = limits["guarantee"], limits["ceiling"]
        rows.append((shard, amounts(low["cpu"], low["memory_bytes"]), amounts(high["cpu"], high["memory_bytes"])))
    invocation.table(("SHARD", "GUARANTEED", "CEILING"), rows)


@click.command()
@target_argument
@click.option("--timeout", default=30.0, show_default=True, metavar="SECONDS", help="How long to wait for its end.")
@common_options
def stop(invocation: Invocation, app: str | None, timeout: float) -> int:
    """Stop a running node and wait until it has gone; nothing of it remains.

    \b
    Example:
      shardwright stop arena
    """
    address = choose(runtime_folder(invocation.environment), app)
    with ApiClient(address.socket) as node:
        node.ask("stop")
    end_s = time.monotonic() + timeout
    while _answers(address.socket):
        if time.monotonic() > end_s:
            click.echo(f"shardwright: {address.app} (pid {address.pid}) was told to stop and still runs", err=True)
            return FAILED
        time.sleep(0.05)
    if invocation.json:
        invocation.result({"stopped": address.app, "pid": address.pid})
    else:
        click.echo(f"{address.app} (pid {address.pid}) has stopped")
    return OK


def _answers(path: Path) -> bool:
    try:
        ApiClient(path).close()
    except NoAnswer:
        return False
    return True
