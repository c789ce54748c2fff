"""``simulate``: demand of a trace, replayed in virtual time through the decisions that a node takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace

from shardwright.cli._invocation import Invocation, common_options
from shardwright.errors import TraceError

if TYPE_CHECKING:
    from shardwright.simulation import PoolResults

_HEADERS = (
    "policy",
    "visible colds",
    "hidden starts",
    "starts",
    "idle s",
    "cost over fixed 10 min, median",
    "p90",
    "worst",
)


@click.command()
@click.argument("trace", type=click.Path(exists=True, path_type=Path))
@click.option("--report", type=click.Choice(["pool", "controller"]), help="Evaluate over a whole folder of traces.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Where the report is written.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw visible colds against idleness (.png, .svg)."
)
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1, 1000), help="How many seeds.")
@click.option("--seed", default=0, show_default=True, help="The first of them.")
@click.option("--cold", default=600.0, show_default=True, help="The price of a visible cold start, in idle-seconds.")
@click.option("--hidden", default=18.0, show_default=True, help="The price of a hidden start, in idle-seconds.")
@click.option("--start", default=0.01, show_default=True, help="How long a start takes, in seconds.")
@click.option("--hold", default=60.0, show_default=True, help="How long a session holds its shard, in the mean.")
@click.option("--sessions", default=20_000, show_default=True, help="About how many sessions of each trace are used.")
@click.option("--functions", default=2000, show_default=True, help="How many synthetic functions a pool report has.")
@common_options
def simulate(
    invocation: Invocation,
    trace: Path,
    report: str | None,
    output: Path | None,
    plot: Path | None,
    seeds: int,
    seed: int,
    cold: float,
    hidden: float,
    start: float,
    hold: float,
    sessions: int,
    functions: int,
) -> None:
    """Replay demand through the warm pool's decisions, beside other policies, in virtual time.

    TRACE is a file or a folder; docs/simulate.md lists the formats. The same seed gives the same result to the byte. Of each
    trace all but the first 40 % scores. What `shardwright run --record FILE` wrote is no demand: then the
    controller's decisions are taken again from what the node saw, and compared.

    \b
    Examples:
      shardwright simulate requests.csv
      shardwright simulate traces/azure --seeds 5 --plot pareto.svg --json
      shardwright simulate traces --report pool --seeds 5 --output docs/results/pool.md
    """
    from shardwright import simulation  # numpy: only who simulates waits for it

    if simulation.is_recording(trace):
        _replay(invocation, trace)
        return
    say = (lambda _: None) if invocation.json else (lambda text: click.echo(text, err=True))
    chosen = range(seed, seed + seeds)
    try:
        params = simulation.PoolParams(
            cold, hidden, start, demand=simulation.DemandParams(hold_s=hold, most_sessions=sessions)
        )
    except ValueError as error:
        raise TraceError(str(error)) from error
    if report is not None:
        text = (
            simulation.controller_report(trace)
            if report == "controller"
            else simulation.pool_report(trace, params, chosen, functions=functions, say=say)
        )
        if output is None:
            click.echo(text, nl=False)
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")
        return
    params = replace(params, least_colds=1)
    prices = simulation.PRICES_S if plot is not None else ()
    results = simulation.evaluate_pool(simulation.read_traces(trace), params, list(chosen), say, prices=prices)
    if plot is not None:
        simulation.pareto_plot(results, plot)
    rows = _rows(results)
    if invocation.json:
        invocation.result({"components": results.components, "left_out": results.left_out, "policies": rows})
        return
    invocation.table(_HEADERS, [[_shown(value) for value in row.values()] for row in rows])
    if results.left_out:
        click.echo(f"without cold starts under fixed 10 min, so left out: {', '.join(results.left_out)}", err=True)


def _replay(invocation: Invocation, recording: Path) -> None:
    """Decisions of a running node, taken again. Raises TraceError when one comes out otherwise."""
    from shardwright import simulation

    found = simulation.replay_recording(recording)
    counts = {
        "app": found.app,
        "rounds": found.rounds,
        "limit_steps": found.limit_steps,
        "scale_rounds": found.scale_rounds,
        "scale_changes": found.scale_changes,
        "same": found.same,
        "differences": found.differences,
    }
    if invocation.json:
        invocation.result(counts)
    else:
        click.echo(
            f"{found.rounds} rounds of {found.app}: {found.limit_steps} changes of limits, "
            f"{found.scale_changes} of numbers of instances, {'all' if found.same else 'not all'} decided as recorded"
        )
    if not found.same:
        raise TraceError("it is decided otherwise now: " + "; ".join(found.differences[:3]))


def _rows(results: PoolResults) -> list[dict[str, Any]]:
    from shardwright.simulation import BASELINE

    rows = []
    for policy, outcomes in results.outcomes.items():
        ratios = sorted(results.ratio(policy, "cost").tolist())
        row: dict[str, Any] = {"policy": policy}
        for name in ("visible", "hidden", "starts", "idle_s"):
            row[name] = sum(getattr(outcome, name) for outcome in outcomes)
        for name, share in (("median", 0.5), ("p90", 0.9), ("worst", 1.0)):
            row[name] = ratios[round(share * (len(ratios) - 1))] if ratios else None
        rows.append(row)
    rows.sort(key=lambda row: (row["policy"] != BASELINE, row["median"] or 0.0))
    return rows


def _shown(value: Any) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
