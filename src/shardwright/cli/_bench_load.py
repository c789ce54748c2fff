"""Load by ``wrk``, and what a measured process spent on it."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from shardwright.errors import NodeError

_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}
_LATENCY = re.compile(r"^\s+(50|99)%\s+([0-9.]+)(us|ms|s|m)$", re.MULTILINE)
_REQUESTS = re.compile(r"^\s*([0-9]+) requests in", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([0-9.]+)$", re.MULTILINE)
_TROUBLE = re.compile(r"^\s*(Non-2xx or 3xx responses: .*|Socket errors: .*)$", re.MULTILINE)


class Load(Struct, frozen=True):
    """One run against one URL. CPU is in microseconds per request, by the name of the process."""

    requests: int
    requests_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: Mapping[str, float]


def wrk() -> str:
    """The path of wrk. Raises NodeError."""
    found = shutil.which("wrk")
    if found is None:
        raise NodeError("load is made by wrk, which is not here", remedy="install it (Debian: apt-get install wrk)")
    return found


def load(url: str, seconds: float, connections: int, processes: Mapping[str, int]) -> Load:
    """Ask for ``url`` as fast as it answers. Raises NodeError when an answer was no success, or none came."""
    before = {name: cpu_s(pid) for name, pid in processes.items()}
    children_s = _children_s()
    ended = subprocess.run(
        [wrk(), "--latency", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", url],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    spent_s = {name: cpu_s(pid) - before[name] for name, pid in processes.items()}
    spent_s["wrk"] = _children_s() - children_s
    return _read(ended.stdout + ended.stderr, url, spent_s)


def _read(said: str, url: str, spent_s: Mapping[str, float]) -> Load:
    requests, rate = _REQUESTS.search(said), _RATE.search(said)
    trouble = _TROUBLE.search(said)
    latency = {name: float(value) * _UNITS_US[unit] for name, value, unit in _LATENCY.findall(said)}
    if trouble is not None or requests is None or rate is None or len(latency) != 2 or not int(requests[1]):
        why = trouble[1] if trouble is not None else said.strip()[-300:] or "wrk said nothing"
        raise NodeError(f"the load on {url} failed: {why}")
    count = int(requests[1])
    return Load(
        count, float(rate[1]), latency["50"], latency["99"], {name: s / count * 1e6 for name, s in spent_s.items()}
    )


def cpu_s(pid: int) -> float:
    """What all threads of a process have run so far."""
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has ended
    return total_ns / 1e9


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def await_port(process: subprocess.Popen[str], patience_s: float = 30.0) -> int:
    """The port that a server prints as its first line. Raises NodeError when it ends, or takes too long."""
    assert process.stdout is not None
    end_s = time.monotonic() + patience_s
    os.set_blocking(process.stdout.fileno(), False)
    line = ""
    while not line.endswith("\n"):
        if process.poll() is not None or time.monotonic() > end_s:
            raise NodeError(f"the server in process did not start (exit status {process.poll()})")
        line += process.stdout.readline() or ""
        if not line:
            time.sleep(0.01)
    return int(line)
