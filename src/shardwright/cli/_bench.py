"""``bench``: what this machine makes of it, measured beside what it is compared with, in one run."""

from __future__ import annotations

import fcntl
import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import psutil

from shardwright.cli import _bench_gateway, _bench_start
from shardwright.cli._invocation import Invocation, common_options

_SHOWN = ("case", "placement", "requests_per_s", "ratio_to_in_process", "p50_us", "p99_us", "p99_over_p50",
          "cpu_us_per_request")  # fmt: skip


_OF_STARTS = ("backend", "fork_p50_ms", "ready_p50_ms", "plain_fork_p50_ms", "fresh_interpreter_p50_ms", "shards",
              "private_mib", "pss_mib", "mem_available_drop_mib")  # fmt: skip


@click.group()
def bench() -> None:
    """Measure this installation on this machine.

    Two benchmarks never run at once: the second waits for the first.
    """


@bench.command()
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(1), help="How long each load lasts.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000), help="Loads of each case.")
@common_options
def gateway(invocation: Invocation, seconds: float, rounds: int) -> None:
    """Requests through the gateway to shards, beside the same server library with the functions in its process.

    Needs wrk. The cases take turns within each round; medians over the rounds are shown.

    \b
    Examples:
      shardwright bench gateway
      shardwright bench gateway --seconds 5 --rounds 9 --json
    """
    _measured(
        invocation,
        _SHOWN,
        ("uvicorn", "httptools", "msgspec"),
        lambda say: _bench_gateway.measure(seconds, rounds, say),
    )


@bench.command("start")
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(1, 10_000), help="Starts of each backend.")
@click.option("--shards", default=100, show_default=True, type=click.IntRange(0, 5_000), help="Idle shards to weigh.")
@common_options
def start_shards(invocation: Invocation, rounds: int, shards: int) -> None:
    """From nothing to a shard's first answer by a template with grpc and numpy loaded, beside a plain fork of the same.

    \b
    Examples:
      shardwright bench start
      shardwright bench start --rounds 200 --shards 0 --json
    """
    _measured(invocation, _OF_STARTS, ("numpy", "grpcio"), lambda say: _bench_start.measure(rounds, shards, say))


_OF_LIVE = ("case", "first_action_s", "back_in_slo_s", "p50_ms", "p99_ms", "p99_before_ms", "p99_after_ms",
            "p99_unloaded_ms", "p99_over_unloaded", "shed", "replayed_same")  # fmt: skip


@bench.command()
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(2), help="How long each load lasts.")
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1, 10_000), help="Starts from zero.")
@common_options
def live(invocation: Invocation, seconds: float, rounds: int) -> None:
    """What the controller of a running node makes of load that does not wait for answers.

    The bundled arena stepping from 10 to 70 % of its saturation; the first answer of a component without instances; three
    priorities that ask for more than there is. What was recorded meanwhile is decided again by the simulator.

    \b
    Examples:
      shardwright bench live
      shardwright bench live --seconds 20 --json
    """
    from shardwright.cli import _bench_live  # with the simulation, and its numpy

    _measured(invocation, _OF_LIVE, (), lambda say: _bench_live.measure(seconds, rounds, say))


def _measured(
    invocation: Invocation,
    columns: Sequence[str],
    libraries: Sequence[str],
    measure: Callable[[Callable[[str], None]], list[dict[str, Any]]],
) -> None:
    """Measure alone, and show the records and the machine as asked."""
    with _alone():
        before = os.getloadavg()[0]
        records = measure(lambda said: click.echo(said, err=True))
        machine = {**_machine(*libraries), "load_before": before, "load_after": os.getloadavg()[0]}
    if invocation.json:
        invocation.result({"machine": machine, "records": records})
        return
    invocation.table(columns, [[str(record.get(name, "-")) for name in columns] for record in records])
    click.echo(", ".join(f"{name} {value}" for name, value in machine.items()))


@contextmanager
def _alone() -> Iterator[None]:
    """Hold the lock of all benchmarks of this user on this machine."""
    path = Path(tempfile.gettempdir()) / f"shardwright-bench-{os.getuid()}.lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            click.echo(f"another benchmark runs; waiting for {path}", err=True)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _machine(*packages: str) -> dict[str, Any]:
    machine: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for package in packages:
        try:
            machine[package] = version(package)
        except PackageNotFoundError:
            machine[package] = ""
    return machine


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
