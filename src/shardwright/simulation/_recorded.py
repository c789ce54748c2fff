"""Rounds of a running node's controller, replayed from what it saw: the same functions must decide the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct, field

from shardwright.controller import ComponentRow, LimitRounds, LimitStep, ScaleParams, ScaleRounds, ShardRow
from shardwright.errors import TraceError
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.manifest import Component, Scale, UsageModel

FORM = 1
_SHOWN = 20


class Replayed(Struct):
    """How many rounds were replayed, how many steps and changes of instances they decided, and which came out otherwise."""

    app: str
    rounds: int = 0
    limit_steps: int = 0
    scale_rounds: int = 0
    scale_changes: int = 0
    differences: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not self.differences


def is_recording(path: Path) -> bool:
    """Whether that file begins as ``run --record`` begins one."""
    try:
        with path.open("rb") as file:
            return file.read(13) == b'{"recording":'
    except OSError:
        return False


def replay_recording(path: Path) -> Replayed:
    """Take every recorded decision again. Raises TraceError for what is no recording; a last line that was cut off ends it."""
    lines = _lines(path)
    head = next(lines, None)
    if head is None or head.get("recording") != FORM:
        raise TraceError(
            f"{path} is no recording of this version", remedy="record it anew: shardwright run --record FILE"
        )
    found = Replayed(str(head.get("app", "")))
    limits, scale = LimitRounds(), ScaleRounds()
    steps: tuple[LimitStep, ...] = ()
    for number, line in enumerate(lines, 2):
        try:
            if "limits" in line:
                steps = _limits(limits, line, found, number)
            elif "done" in line:
                for step in steps:
                    if _brief(step) == tuple(line["step"]):
                        limits.done(step, float(line["done"]))
            elif "scale" in line:
                _scale(scale, line, found, number)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise TraceError(f"{path}:{number} is no line of a recording: {error!r}") from error
    return found


def _limits(rounds: LimitRounds, line: dict[str, Any], found: Replayed, number: int) -> tuple[LimitStep, ...]:
    rows = [_row(each) for each in line["rows"]]
    cpu, memory = line["capacity"]
    steps = () if rounds.calm(rows) else rounds.decide(rows, (float(cpu), float(memory)), float(line["limits"]))
    found.rounds += 1
    found.limit_steps += len(steps)
    decided, recorded = [_brief(step) for step in steps], [tuple(each) for each in line["decided"]]
    if decided != recorded and len(found.differences) < _SHOWN:
        found.differences.append(f"line {number}: limits were {recorded}, and are {decided}")
    return steps


def _scale(rounds: ScaleRounds, line: dict[str, Any], found: Replayed, number: int) -> None:
    given = line["row"]
    row = ComponentRow(**{**given, "component": ComponentName(given["component"])})
    low, high, target, most, slo_s = line["bounds"]
    component = Component(
        row.component, "", scale=Scale(low, high, target), usage=UsageModel(max_instances=most, latency_slo_s=slo_s)
    )
    rounds.params = ScaleParams(**line["params"])
    decision, _ = rounds.decide(component, row, float(line["scale"]))
    found.scale_rounds += 1
    found.scale_changes += line["decided"] != row.instances
    if decision.instances != line["decided"] and len(found.differences) < _SHOWN:
        found.differences.append(
            f"line {number}: {line['decided']} instances of {row.component} were decided, and {decision.instances} are"
        )


def _row(given: dict[str, Any]) -> ShardRow:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    fields |= {"shard": ShardId(given["shard"]), "component": ComponentName(given["component"])}
    return ShardRow(**fields)


def _brief(step: LimitStep) -> tuple[str, float | None, int | None, bool]:
    return (step.shard, step.cpu, step.memory_bytes, step.rises)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    return
                found = json.loads(line)
                if not isinstance(found, dict):
                    raise ValueError("no object")
                yield found
    except (OSError, ValueError) as error:
        raise TraceError(f"{path} cannot be read as a recording: {error}") from error
