"""Virtual time: demand of traces replayed through the same decisions that a node takes. Needs numpy."""

from shardwright.simulation._demand import DemandParams, Sessions, make_sessions
from shardwright.simulation._fleet import FleetParams, FleetResult, run_fleet
from shardwright.simulation._functions import Function, synthetic_functions
from shardwright.simulation._instances import Lane, replay
from shardwright.simulation._levels import Outcome
from shardwright.simulation._plant import PlantResult, limits_controller, plant_demand, run_plant
from shardwright.simulation._plots import PRICES_S, pareto_plot
from shardwright.simulation._pool_results import BASELINE, BOUNDED, OURS, PoolParams, PoolResults, evaluate_pool
from shardwright.simulation._recorded import Replayed, is_recording, replay_recording
from shardwright.simulation._results import controller_report, demand_traces, pool_report, utilisation_traces
from shardwright.simulation._traces import Arrivals, Series, Trace, read_distribution, read_traces
from shardwright.simulation._within import replay_within

__all__ = [
    "BASELINE",
    "BOUNDED",
    "OURS",
    "PRICES_S",
    "Arrivals",
    "DemandParams",
    "FleetParams",
    "FleetResult",
    "Function",
    "Lane",
    "Outcome",
    "PlantResult",
    "PoolParams",
    "PoolResults",
    "Replayed",
    "Series",
    "Sessions",
    "Trace",
    "controller_report",
    "demand_traces",
    "evaluate_pool",
    "is_recording",
    "limits_controller",
    "make_sessions",
    "pareto_plot",
    "plant_demand",
    "pool_report",
    "read_distribution",
    "read_traces",
    "replay",
    "replay_recording",
    "replay_within",
    "run_fleet",
    "run_plant",
    "synthetic_functions",
    "utilisation_traces",
]
