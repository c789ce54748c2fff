"""Plots of results, PNG or SVG by the name of the file; the same to the byte for the same results. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shardwright.errors import TraceError
from shardwright.simulation._policies import FIXED_S
from shardwright.simulation._pool_results import OURS, PoolResults

PRICES_S = (20.0, 60.0, 200.0, 600.0, 2_000.0, 6_000.0, 20_000.0)  # of a cold start, along the curve


def pareto_plot(results: PoolResults, path: str | Path) -> None:
    """Visible cold starts against idle memory and against starts, medians over components, one mark a policy.

    Two curves join what one rule can reach: keep-alives by their times, ours by the price of a cold start (the prices that
    ``evaluate_pool`` was given, such as ``PRICES_S``).
    Raises TraceError when matplotlib is missing (``pip install shardwright[plots]``) or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TraceError("plots need matplotlib", remedy="pip install 'shardwright[plots]'") from error
    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise TraceError(f"{path} is neither .png nor .svg")
    with matplotlib.rc_context({"svg.hashsalt": "shardwright", "font.size": 8}):
        figure = Figure(figsize=(9, 4.5), layout="constrained")
        for axes, of, label in zip(figure.subplots(1, 2), ("idle_s", "starts"), ("idle memory", "starts"), strict=True):
            places = {
                policy: (
                    float(np.median(results.ratio(policy, of))),
                    float(np.median(results.ratio(policy, "visible"))),
                )
                for policy in results.outcomes
            }
            for curve in (list(FIXED_S), [policy for policy in places if policy.startswith(f"{OURS}, C = ")]):
                if len(curve) > 1:
                    axes.plot(*zip(*(places[policy] for policy in curve), strict=True), linewidth=0.8, zorder=0)
            for policy, (across, up) in places.items():
                axes.scatter([across], [up], s=16)
                axes.annotate(policy, (across, up), xytext=(3, 3), textcoords="offset points", fontsize=6)
            axes.set_xlabel(f"{label} over fixed 10 min")
            axes.set_ylabel("visible cold starts over fixed 10 min")
            axes.set_xscale("symlog", linthresh=0.1)
            axes.set_yscale("symlog", linthresh=0.1)
            axes.grid(alpha=0.3)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {"Software": None})
        except OSError as error:
            raise TraceError(f"{path} cannot be written: {error}") from error
