"""Plots of results, PNG or SVG by the name of the file; the same to the byte for the same results. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shardwright.errors import TraceError
from shardwright.simulation._pool_results import PoolResults


def pareto_plot(results: PoolResults, path: str | Path) -> None:
    """Visible cold starts against idle memory and against starts, medians over components, one mark a policy.

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
            for policy in results.outcomes:
                across, up = (float(np.median(results.ratio(policy, what))) for what in (of, "visible"))
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
