"""docs/results/*.md: evaluations as text, the same to the byte for the same seeds and traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from shardwright.contracts.forecast import FloatArray
from shardwright.controller import LimitParams
from shardwright.errors import TraceError
from shardwright.simulation._fleet import FleetParams, run_fleet
from shardwright.simulation._function_results import evaluate_functions
from shardwright.simulation._plant import Controller, limits_controller, run_plant
from shardwright.simulation._pool_results import BASELINE, BOUNDED, OURS, TOLD, PoolParams, PoolResults, evaluate_pool
from shardwright.simulation._rightsizing import (
    fit,
    lean_guarantees,
    period_of,
    pooled_fit,
    pooled_guarantees,
    vpa_guarantees,
)
from shardwright.simulation._specified_rule import specified_rule
from shardwright.simulation._traces import Series, Trace, read_traces

_COUNTS = ("elb_request_count", "Twitter_volume", "nyc_taxi")
_CPU = ("ec2_cpu_utilization", "rds_cpu_utilization", "cpu_utilization_asg")
_OTHERS = ("grok_asg_anomaly", "ec2_request_latency", "elb_request_count", "Twitter_volume")
SLOW_S = 0.5  # a start without a template
_FIXED = ("none", "fixed 1 min", "fixed 10 min", "fixed 60 min")


def demand_traces(folder: str | Path) -> list[Trace]:
    """The traces of requests below ``folder``: nab request counts, azure, mooncake, servegen."""
    folder = Path(folder)
    files = [p for p in sorted((folder / "nab").glob("*.csv")) if p.name.startswith(_COUNTS)]
    traces = [trace for path in files for trace in read_traces(path)]
    for name in ("azure", "mooncake", "servegen"):
        if (folder / name).is_dir():
            traces += read_traces(folder / name)
    if not traces:
        raise TraceError(f"{folder} holds none of the traces nab, azure, mooncake, servegen")
    return traces


def utilisation_traces(folder: str | Path) -> list[Series]:
    """The traces of CPU utilisation below ``folder``."""
    files = [p for p in sorted((Path(folder) / "nab").glob("*.csv")) if p.name.startswith(_CPU)]
    found = [trace for path in files for trace in read_traces(path) if isinstance(trace, Series)]
    if not found:
        raise TraceError(f"{folder} holds no traces of CPU utilisation (nab/*cpu*.csv)")
    return found


def pool_report(
    folder: str | Path,
    params: PoolParams,
    seeds: Sequence[int],
    *,
    functions: int = 2000,
    function_seeds: Sequence[int] = (0, 1, 2),
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """The whole of docs/results/pool.md."""
    traces = demand_traces(folder)
    parts = [_POOL_HEAD.format(p=params, hold=params.demand.hold_s, seeds=len(seeds), most=params.demand.most_sessions)]
    for cold_s, start_s in ((600.0, params.start_s), (60.0, params.start_s), (3600.0, params.start_s), (600.0, SLOW_S)):
        some = seeds if (cold_s, start_s) == (600.0, params.start_s) else seeds[: max(1, len(seeds) // 2)]
        own = replace(params, cold_s=cold_s, start_s=start_s)
        results = evaluate_pool(traces, own, some, say, budgets=cold_s == params.cold_s)
        parts.append(_pool_section(results))
    synthetic = Path(folder) / "serverlessbench"
    if synthetic.is_dir():
        rows = evaluate_functions(
            synthetic,
            count=functions,
            days=14,
            seeds=function_seeds,
            hidden_s=params.hidden_s,
            start_s=params.start_s,
            say=say,
        )
        parts.append(_FUNCTIONS_HEAD.format(count=functions, seeds=len(function_seeds)))
        parts.append(
            table(
                ("beside", "functions", "number", "visible colds", "starts", "idle"),
                [
                    (r.comparator, r.group, str(r.functions), f"{r.visible:.3f}", f"{r.starts:.2f}", f"{r.idle:.3f}")
                    for r in rows
                ],
            )
        )
    return "\n".join(parts) + "\n"


_POOL_HEAD = """# The warm pool, replayed

Written by `shardwright simulate --report pool TRACES --output docs/results/pool.md`; the same to the byte by seed.

Each trace is one component. Its rates are scaled down to at most 20 sessions at once, sessions are held lognormally for
{hold:g} s in the mean and arrive as the trace says (ServeGen: with its variation). A start takes {p.start_s:g} s, as one
from a template does; last the same with starts of half a second. Of each trace at most 14 days and about {most:,} sessions
are used; all but the first 40 % scores, and parameters, the same for all, were chosen from first parts. {seeds} seeds, every
component with equal weight (other tables than the first: half as many). Prices are in idle-seconds: of one ready shard for
one second. A visible cold start costs C, a hidden one W = {p.hidden_s:g}, as measured on the arena (`shardwright bench live`:
its CPU time and memory by the prices of `[policy.cost]`, and its time).
Who waits for any start counts as visible cold. Idle includes starting; sessions keep their shard to their end.

"told the true rate" is the same policy with the rate from which arrivals were drawn, and needs taken as memoryless. The
clairvoyants know every arrival. Greedy dual shares among all components the memory that the baseline uses in the mean.
"""

_FUNCTIONS_HEAD = """
## Rarely used functions (synthetic)

{count} functions over 14 days, {seeds} seeds, drawn from published distributions of Azure Functions 2019 (at least one and at
most 1,440 invocations a day); no trace of real functions was to be had. Ratios to the comparator, over all functions of the
group together; the price of a cold start was chosen on other functions so that idleness there stays below the comparator's, and
that of a hidden one is dearer than measured where starts there came to more than 8, 2.5 and 1.5 times the comparator's.
"""


def _pool_section(results: PoolResults) -> str:
    p = results.params
    rows = []
    for policy in results.outcomes:
        cost, visible, starts, idle = (results.ratio(policy, of) for of in ("cost", "visible", "starts", "idle_s"))
        rows.append(
            (
                policy,
                _three(cost),
                *(f"{np.median(v):.3f} / {np.quantile(v, 0.9):.3f}" for v in (visible, starts, idle)),
            )
        )
    best = np.min([results.costs(policy) for policy in _FIXED], axis=0)
    worst = results.costs(OURS) / best
    told = results.ratio(OURS, "cost", TOLD)
    lines = [
        f"\n## C = {p.cold_s:g} idle-seconds, a start takes {p.start_s:g} s\n",
        f"{len(results.components)} components scored; ratios to {BASELINE}, median / p90 (/ worst).\n",
        table(("policy", "cost", "visible colds", "starts", "idle"), rows),
        "",
        f"- Cost of {OURS}: {_three(results.ratio(OURS, 'cost'))} of {BASELINE}.",
        f"- Over the best of fixed 0, 1, 10, 60 minutes, component by component: {_three(worst)}.",
        f"- Over the same policy told the true rate: {_three(told)}.",
    ]
    if BOUNDED in results.outcomes:
        lines.append(_bounded(results))
    if results.left_out:
        names = ", ".join(results.left_out)
        lines.append(f"\nLeft out for fewer than {p.least_colds} baseline colds: {names}.")
    return "\n".join(lines)


def _bounded(results: PoolResults) -> str:
    seen, starts, idle = (results.ratio(BOUNDED, of) for of in ("visible", "starts", "idle_s"))
    within = (starts <= 3) & (idle <= 1)
    kept = np.where(within, seen, np.maximum(seen, 1.0))
    return (
        f"- {BOUNDED}: visible colds fewer by {100 * (1 - np.median(seen)):.1f} % in the median, "
        f"{100 * (1 - np.quantile(seen, 0.9)):.1f} % at p10; both budgets (3 × starts, 1 × idle) kept on "
        f"{100 * within.mean():.0f} % of components, starts {_three(starts)}, idle {_three(idle)}. Where one was "
        f"not kept counted as nothing saved: {100 * (1 - np.median(kept)):.1f} % in the median, "
        f"{100 * (1 - np.quantile(kept, 0.9)):.1f} % at p10."
    )


def controller_report(folder: str | Path) -> str:
    """The whole of docs/results/controller.md."""
    parts = [_CONTROLLER_HEAD, _plant_table(), _SIZING_HEAD]
    traces = utilisation_traces(folder)
    for chosen in (traces, _other_series(folder)):
        if chosen:
            parts.append(_sizing_table(chosen))
    parts.append(_LENDING_HEAD)
    parts.append(_lending_table([np.maximum(trace.values, 0.0) for trace in traces]))
    parts.append(_fleet_text(FleetParams()))
    return "\n".join(parts) + "\n"


def _sizing_table(traces: Sequence[Series]) -> str:
    rows, slacks, sums = [], [], np.zeros((2, 2))
    for trace in traces:
        demand = np.maximum(trace.values, 0.0)
        learn = int(0.4 * demand.size)
        period = period_of(demand, learn)
        found = []
        for place, given in enumerate((vpa_guarantees(demand), lean_guarantees(demand, period))):
            found.append(fit(demand[learn:], given[learn:]))
            sums[place] += np.minimum(demand, given)[learn:].sum(), given[learn:].sum()
        theirs, mine = found
        slacks.append(1 - mine.slack / theirs.slack)
        rows.append(
            (trace.name, str(period), f"{theirs.short:.4f}", f"{mine.short:.4f}", f"{theirs.slack:.3f}", f"{mine.slack:.3f}",
             f"{100 * slacks[-1]:.1f} %")
        )  # fmt: skip
    pooled = 1 - sums[:, 0] / sums[:, 1]
    return (
        table(("trace", "period found", "VPA short", "short", "VPA slack", "slack", "less slack"), rows)
        + f"\n\nLess slack in the median: {100 * np.median(slacks):.1f} %; worst {100 * min(slacks):.1f} %. "
        f"Pooled: {pooled[1]:.3f} and not {pooled[0]:.3f}, {100 * (1 - pooled[1] / pooled[0]):.1f} % less.\n"
    )


def _other_series(folder: str | Path) -> list[Series]:
    """Series that no choice was made on: sizes of a group of machines, latencies, volumes."""
    files = [p for p in sorted((Path(folder) / "nab").glob("*.csv")) if p.name.startswith(_OTHERS)]
    return [trace for path in files for trace in read_traces(path) if isinstance(trace, Series)]


def _fleet_text(params: FleetParams) -> str:
    found = run_fleet(params, 0)
    return f"""
## A fleet

{params.shards:,} shards on {params.nodes:,} nodes for an hour in ticks of {params.tick_s:g} s; {params.node_failures} nodes
die. All limits are decided anew each tick. Unmet were {100 * found.unmet:.3f} % of the demand; {found.moved:,} shards began
anew elsewhere; {found.changes:,} limits changed. Nodes and ticks in which more was guaranteed than there is:
{found.overcommitted}."""


_CONTROLLER_HEAD = """# Limits, replayed

Written by `shardwright simulate --report controller TRACES --output docs/results/controller.md`; the same to the byte by seed.

## The plant

Eight cores, four shards, 2,000 ticks, 20 seeds; demand whose sum exceeds the cores now and then. Unmet and least possible are
shares of all demand; what is not served in its tick is lost. Changes are per 100 ticks and shard.
"""

_SIZING_HEAD = """
## Right-sizing

Recorded CPU utilisation in steps of five minutes. The VPA rule is the 90th percentile of a histogram with a half-life of a day,
and 15 %. Ours follows it beside, and is to fall short no more often. The first 40 % is learnt from, the rest scored; pooled are
amounts of all traces together. How ours chooses was made with these traces in sight; those of the second table were not
looked at before it was done, and are no CPU: anything that is measured in equal steps.
"""

_LENDING_HEAD = """
## With lending

Units are these traces, each scaled to the same mean, then parts of the longest, then copies shifted in time. The node is as
large as the largest sum that the VPA rule reserved, in the part that is learnt from or ever; what is idle of it is lent fairly.
Where all ask for more than the node has somebody is short whatever is decided: one unit at least, which is the least possible.
"""


def _plant_table() -> str:
    rules: dict[str, tuple[Callable[[], Controller], bool]] = {
        "guarantee, ceiling, lending": (lambda: limits_controller(LimitParams()), True),
        "the same as hard caps": (lambda: limits_controller(LimitParams()), False),
        "the specified rule as written": (specified_rule, False),
    }
    rows = []
    for name, (make, lending) in rules.items():
        results = [run_plant(seed, make(), lending=lending) for seed in range(20)]
        gap = [100 * (r.unmet - r.least_unmet) for r in results]
        rows.append(
            (name, f"{100 * np.mean([r.unmet for r in results]):.2f} %",
             f"{100 * np.mean([r.least_unmet for r in results]):.2f} %",
             f"{max(gap):.2f}", f"{np.mean([r.changes for r in results]):.2f}", f"{max(r.changes for r in results):.2f}",
             f"{max(r.most_guaranteed for r in results):.2f}")
        )  # fmt: skip
    return table(
        ("rule", "unmet", "least possible", "worst gap, points", "changes", "most changes", "most guaranteed, cores"),
        rows,
    )


def _lending_table(traces: list[FloatArray]) -> str:
    length = min(4000, *(trace.size for trace in traces))
    units = [trace[:length] for trace in traces]
    longest = max(traces, key=lambda trace: trace.size)
    units += [longest[k * length : (k + 1) * length] for k in range(1, longest.size // length)]
    generator = np.random.default_rng(0)
    while len(units) < 16:
        units.append(np.roll(units[len(units) % 8], int(generator.integers(300, length - 300))))
    learn, rows = int(0.4 * length), []
    for count in (4, 8, 16):
        demand = np.stack(units[:count])
        demand = demand / demand.mean(axis=1, keepdims=True)
        vpa = np.stack([vpa_guarantees(unit) for unit in demand])
        alone = [fit(unit[learn:], given[learn:]) for unit, given in zip(demand, vpa, strict=True)]
        need = pooled_guarantees(demand, 0.15, learn)
        for node, reserved in (("learnt", vpa[:, 100:learn]), ("ever", vpa[:, 100:])):
            capacity = float(np.max(reserved.sum(axis=0)))
            theirs = pooled_fit(demand[:, learn:], vpa[:, learn:], capacity)
            mine = pooled_fit(demand[:, learn:], need[:, learn:], capacity)
            over = float((demand[:, learn:].sum(axis=0) > capacity).mean())
            rows.append(
                (str(count), node, f"{100 * float(np.mean([f.short for f in alone])):.2f} %", f"{100 * theirs.short:.3f} %",
                 f"{100 * mine.short:.3f} %", f"{100 * over / count:.3f} %", f"{theirs.slack:.3f}", f"{mine.slack:.3f}")
            )  # fmt: skip
    return table(
        ("units", "node", "VPA short, alone", "VPA short, lending", "short", "least possible", "VPA slack", "slack"),
        rows,
    )


def _three(values: FloatArray) -> str:
    return f"{np.median(values):.3f} / {np.quantile(values, 0.9):.3f} / {np.max(values):.3f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
