"""Readers of demand: every format that the published traces come in, and plain CSV.

A file is known by what it holds, not by its name. See docs/simulate.md for the formats.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from msgspec import Struct

from shardwright.contracts.forecast import FloatArray
from shardwright.errors import TraceError


class Series(Struct, frozen=True):
    """Amounts in equal steps: requests a second, or a utilisation, as the file says.

    ``cv`` is the variation of the times between requests inside each step; 1 (memoryless) where nothing is said.
    ``counts`` says that ``values`` were numbers of requests, which are given as requests per second here.
    """

    name: str
    step_s: float
    values: FloatArray
    cv: FloatArray
    counts: bool = True

    @property
    def length_s(self) -> float:
        return self.step_s * self.values.size


class Arrivals(Struct, frozen=True):
    """Single requests, in seconds from the begin of the trace; ``durations_s`` is NaN where nothing is said."""

    name: str
    at_s: FloatArray
    durations_s: FloatArray

    @property
    def length_s(self) -> float:
        return float(self.at_s[-1]) if self.at_s.size else 0.0


Trace = Series | Arrivals


def read_traces(path: str | Path) -> list[Trace]:
    """All demand in a file, or in the files of a folder in the order of their names.

    Raises TraceError when a file cannot be read or holds no demand; of a folder such files are left out.
    """
    path = Path(path)
    if path.is_dir():
        found: list[Trace] = []
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            try:
                found += read_traces(file)
            except TraceError:
                continue
        if not found:
            raise TraceError(f"no file in {path} holds demand", remedy=_REMEDY)
        return found
    try:
        if path.name.endswith((".tar.gz", ".tgz")):
            return list(_packed(path))
        return _of_text(path.name.partition(".")[0], path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tarfile.TarError, ValueError, KeyError, IndexError) as error:
        raise TraceError(f"{path} cannot be read as a trace: {error}", remedy=_REMEDY) from error


def read_distribution(path: str | Path) -> tuple[FloatArray, FloatArray]:
    """A cumulative distribution, ``value,F(x)`` a line: values and shares, both ascending. Raises TraceError."""
    try:
        rows = [line.split(",") for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [row for row in rows if _is_number(row[0])]
        values, shares = (np.array([float(row[column]) for row in rows]) for column in (0, 1))
    except (OSError, ValueError, IndexError) as error:
        raise TraceError(f"{path} cannot be read as a distribution: {error}") from error
    if not values.size or (np.diff(shares) < 0).any():
        raise TraceError(f"{path} is no cumulative distribution")
    return values, shares


_REMEDY = "docs/simulate.md lists the formats; the plainest is CSV with the header component,arrival_s"


def _packed(path: Path) -> Iterator[Trace]:
    with tarfile.open(path) as archive:
        members = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(".csv")]
        if not members:
            raise ValueError("the archive holds no .csv")
        for member in sorted(members, key=lambda member: _natural(member.name)):
            file = archive.extractfile(member)
            assert file is not None
            name = f"{path.name.partition('.')[0]}/{Path(member.name).stem}"
            yield from _of_text(name, file.read().decode("utf-8"))


def _natural(name: str) -> tuple[str, ...]:
    return tuple(part.zfill(8) if part.isdigit() else part for part in name.replace("-", " ").replace(".", " ").split())


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _of_text(name: str, text: str) -> list[Trace]:
    if text.lstrip().startswith("{"):
        return [_json_lines(name, text)]
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows:
        raise ValueError("it is empty")
    header = [cell.strip() for cell in rows[0]]
    names = {cell.lower(): number for number, cell in enumerate(header)}
    if header[:2] == ["timestamp", "value"]:
        return [_numenta(name, rows[1:])]
    if "timestamp" in names and "generatedtokens" in names:
        return [_inference(name, rows[1:])]
    if "end_timestamp" in names:
        return _functions_2021(rows[1:])
    if {"hashfunction", "trigger"} <= names.keys():
        return _functions_2019(rows[1:])
    if "arrival_s" in names:
        return _plain(names, rows[1:], name)
    if {"time_s", "value"} <= names.keys():
        at = np.array([float(row[names["time_s"]]) for row in rows[1:]])
        values = np.array([float(row[names["value"]]) for row in rows[1:]])
        return [_stepped(name, at, values, counts=True)]
    if len(header) == 6 and _is_number(header[0]):
        return [_rates(name, rows)]
    raise ValueError(f"its first line is none that is known: {','.join(header)[:80]}")


def _stepped(name: str, at_s: FloatArray, values: FloatArray, *, counts: bool) -> Series:
    step_s = float(np.median(np.diff(at_s))) if at_s.size > 1 else 300.0
    if not step_s > 0:
        raise ValueError("its times do not grow")
    index = np.round((at_s - at_s[0]) / step_s).astype(np.int64)
    if (index < 0).any():
        raise ValueError("its times do not grow")
    whole = np.full(int(index[-1]) + 1, np.nan)
    whole[index] = values
    filled = np.where(np.isnan(whole), 0.0, whole)
    return Series(name, step_s, filled / step_s if counts else filled, np.ones(filled.size), counts)


def _numenta(name: str, rows: Sequence[Sequence[str]]) -> Series:
    """``timestamp,value``: utilisation where the name says so, else numbers of requests."""
    times = [datetime.fromisoformat(row[0]) for row in rows]
    at = np.array([(time - times[0]).total_seconds() for time in times])
    counts = not any(word in name for word in ("cpu", "latency"))
    return _stepped(name, at, np.array([float(row[1]) for row in rows]), counts=counts)


def _inference(name: str, rows: Sequence[Sequence[str]]) -> Arrivals:
    """Azure's LLM inference traces: ``TIMESTAMP,ContextTokens,GeneratedTokens``."""
    times = [datetime.fromisoformat(row[0][:26]) for row in rows]
    at = np.array([(time - times[0]).total_seconds() for time in times])
    return Arrivals(name, np.sort(at), np.full(at.size, np.nan))


def _json_lines(name: str, text: str) -> Arrivals:
    """Mooncake: a JSON object a line, ``timestamp`` in milliseconds."""
    at = np.array([json.loads(line)["timestamp"] for line in text.splitlines() if line.strip()], dtype=np.float64)
    return Arrivals(name, np.sort(at) / 1000, np.full(at.size, np.nan))


def _functions_2021(rows: Sequence[Sequence[str]]) -> list[Trace]:
    """Azure Functions 2021: ``app,func,end_timestamp,duration`` in seconds; one trace a function."""
    by_function: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for app, function, end, duration, *_ in rows:
        by_function.setdefault((app, function), []).append((float(end) - float(duration), float(duration)))
    first = min((start for calls in by_function.values() for start, _ in calls), default=0.0)
    traces: list[Trace] = []
    for (app, function), calls in by_function.items():
        calls.sort()
        starts, durations = np.array(calls).T
        traces.append(Arrivals(f"{app[:8]}/{function[:8]}", starts - first, durations))
    return traces


def _functions_2019(rows: Sequence[Sequence[str]]) -> list[Trace]:
    """Azure Functions 2019, invocations: owner, app, function, trigger, then a number for each minute of the day."""
    traces: list[Trace] = []
    for owner_app_function_trigger in rows:
        _, app, function, _, *minutes = owner_app_function_trigger
        values = np.array([float(cell or 0) for cell in minutes]) / 60
        traces.append(Series(f"{app[:8]}/{function[:8]}", 60.0, values, np.ones(values.size)))
    return traces


def _plain(names: dict[str, int], rows: Sequence[Sequence[str]], name: str) -> list[Trace]:
    """``component,arrival_s[,duration_s]`` in any order of columns; without a component, one trace."""
    by_component: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        component = row[names["component"]] if "component" in names else name
        duration = float(row[names["duration_s"]]) if "duration_s" in names and row[names["duration_s"]] else np.nan
        by_component.setdefault(component, []).append((float(row[names["arrival_s"]]), duration))
    traces: list[Trace] = []
    for component, calls in by_component.items():
        calls.sort(key=lambda call: call[0])
        at, durations = np.array(calls).T
        traces.append(Arrivals(component, at, durations))
    return traces


def _rates(name: str, rows: Sequence[Sequence[str]]) -> Series:
    """ServeGen: ``time_s,rate_per_s,cv,dist,param1,param2`` without a header."""
    at = np.array([float(row[0]) for row in rows])
    rate = np.array([float(row[1]) for row in rows])
    cv = np.array([float(row[2] or 0) for row in rows])
    series = _stepped(name, at, rate, counts=False)
    spread = _stepped(name, at, cv, counts=False).values
    return Series(name, series.step_s, series.values, np.where(spread > 0, spread, 1.0), True)
