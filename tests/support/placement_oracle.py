"""The least cost of a placing, by a solver that knows nothing of how ours searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ortools.sat.python import cp_model

from shardwright.model.ids import ShardId
from shardwright.placement import ShardNeed, Topology
from shardwright.placement._placer import CROWDED, FAR_MIB, MILLI

__all__ = ["least_cost"]


def least_cost(
    topology: Topology,
    needs: Sequence[ShardNeed],
    traffic: Mapping[tuple[ShardId, ShardId], int],
    within_s: float = 20.0,
) -> int | None:
    """None where there is no placing that keeps all guarantees. Raises AssertionError when it is not found in time."""
    model = cp_model.CpModel()
    cpus, banks = range(len(topology.cpus)), topology.banks
    runs = [[model.new_bool_var("") for _ in cpus] for _ in needs]
    stores = [[model.new_bool_var("") for _ in banks] for _ in needs]
    number = {need.shard: index for index, need in enumerate(needs)}
    cost: list[cp_model.LinearExprT] = []
    for row in (*runs, *stores):
        model.add_exactly_one(row)
    for cpu in cpus:
        given = sum(round(need.cpu * MILLI) * runs[index][cpu] for index, need in enumerate(needs))
        used = sum(round(max(need.usage, need.cpu) * MILLI) * runs[index][cpu] for index, need in enumerate(needs))
        model.add(given <= MILLI)
        over = model.new_int_var(0, MILLI * len(needs), "")
        model.add(over >= used - MILLI)
        cost.append(CROWDED * over)
        for index, need in enumerate(needs):
            if need.exclusive:
                for other in range(len(needs)):
                    if other != index:
                        model.add_bool_or(runs[index][cpu].Not(), runs[other][cpu].Not())
    for where, bank in enumerate(banks):
        model.add(
            sum(-(-need.memory_bytes // 2**20) * stores[index][where] for index, need in enumerate(needs))
            <= bank.memory_bytes // 2**20
        )
    for index, need in enumerate(needs):
        mebibytes = -(-need.memory_bytes // 2**20)
        near = model.new_bool_var("")
        for where, bank in enumerate(banks):
            here = sum(runs[index][cpu] for cpu in cpus if topology.cpus[cpu].bank == bank.number)
            model.add(here == stores[index][where]).only_enforce_if(near)
            if need.bank is not None and need.bank == bank.number:
                cost.append(FAR_MIB * mebibytes * (1 - here))
        cost.append(FAR_MIB * mebibytes * (1 - near))
    for (caller, callee), weight in traffic.items():
        a, b = number[caller], number[callee]
        for first in cpus:
            for second in cpus:
                far = topology.distance(topology.cpus[first], topology.cpus[second])
                if far:
                    both = model.new_bool_var("")
                    model.add(both >= runs[a][first] + runs[b][second] - 1)
                    cost.append(weight * far * both)
    model.minimize(sum(cost))
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = within_s
    solver.parameters.num_workers = 1
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    assert status == cp_model.OPTIMAL, solver.status_name(status)
    return round(solver.objective_value)
