"""What the controller saw and decided, round by round, in a file: a simulation replays it to the same decisions."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from shardwright.controller import ComponentRow, LimitStep, ScaleDecision, ScaleParams, ShardRow
from shardwright.errors import NodeError
from shardwright.model.manifest import Component

FORM = 1
MOST_BYTES = 256 * 2**20  # then it ends: a disk is not to be filled
# A row is numbers, names and pairs of numbers: to copy it deeply was two thirds of what a recorded round cost.
_NAMES = ShardRow.__struct_fields__
_values = attrgetter(*_NAMES)


class Recording:
    """Lines of JSON, appended. Raises NodeError where the file cannot be made; after that it never fails."""

    def __init__(self, path: Path, app: str) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise NodeError(f"{path} cannot be written: {error.strerror}") from None
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        self._bytes = 0
        self._write({"recording": FORM, "app": app})

    def __repr__(self) -> str:
        return f"<Recording, {self._bytes} bytes>"

    def limits(
        self,
        now: float,
        rows: Sequence[ShardRow],
        capacity: tuple[float, float],
        steps: Sequence[LimitStep],
        pressures: Mapping[str, float],
    ) -> None:
        decided = [(s.shard, s.cpu, s.memory_bytes, s.rises) for s in steps]
        self._write(
            {
                "limits": now, "capacity": capacity,
                "rows": [dict(zip(_NAMES, _values(row), strict=True)) for row in rows],
                "decided": decided, "pressure": pressures,
            }
        )  # fmt: skip

    def done(self, now: float, step: LimitStep) -> None:
        self._write({"done": now, "step": (step.shard, step.cpu, step.memory_bytes, step.rises)})

    def scale(
        self, now: float, component: Component, row: ComponentRow, decision: ScaleDecision, params: ScaleParams
    ) -> None:
        scale, usage = component.scale, component.usage
        bounds = (scale.min, scale.max, scale.target_concurrency, usage.max_instances, usage.latency_slo_s)
        self._write({"scale": now, "row": to_builtins(row), "bounds": bounds, "decided": decision.instances,
                     "params": to_builtins(params)})  # fmt: skip

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._file.closed or self._bytes > MOST_BYTES:
            return
        try:
            self._bytes += self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
            self._file.flush()
        except OSError:
            self._bytes = MOST_BYTES + 1
