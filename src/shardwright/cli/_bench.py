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

from shardwright.cli import _bench_call, _bench_compose, _bench_cuts, _bench_gateway, _bench_resize, _bench_start
from shardwright.cli._invocation import Invocation, common_options

_SHOWN = ("case", "placement", "requests_per_s", "ratio_to_in_process", "p50_us", "p99_us", "p99_over_p50",
          "cpu_us_per_request")  # fmt: skip


_OF_STARTS = ("case", "backend", "fork_p50_ms", "ready_p50_ms", "plain_fork_p50_ms", "by_hand_p50_ms",
              "fresh_interpreter_p50_ms", "shards", "private_mib", "pss_mib", "mem_available_drop_mib")  # fmt: skip
_OF_SESSIONS = ("case", "backend", "shards", "warm", "p50_us", "min_us", "answered_p50_us", "first_call_p50_us",
                "floor_p50_us")  # fmt: skip


_OF_CALLS = ("case", "trust", "transport", "placement", "size", "in_flight", "gap_us", "p50_us", "p99_us", "per_second",
             "ratio_to_floor", "times_faster_than_grpc", "gb_per_s", "max_over_min", "core_percent")  # fmt: skip


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


@bench.command("call")
@click.option("--seconds", default=0.1, show_default=True, type=click.FloatRange(0.01), help="Of each case in a round.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000), help="Rounds over all cases.")
@click.option("--sizes", default=",".join(map(str, _bench_call.SIZES)), show_default=True, help="Bytes there and back.")
@click.option("--peers", default="", metavar="PYTHON", help="An interpreter that has grpcio, or ray; else this one.")
@common_options
def calls(invocation: Invocation, seconds: float, rounds: int, sizes: str, peers: str) -> None:
    """A call of the user's function in another shard, beside the machine's floor and other ways to ask a process.

    The cases take turns within each round. Both processes on one core (same), on two (split), where the kernel likes (free).
    "trust" is "same" where pickle is permitted between the two components, "across" where it is not.

    \b
    Examples:
      shardwright bench call
      shardwright bench call --sizes 64 --rounds 15 --json
      shardwright bench call --peers /opt/peers/bin/python
    """
    try:
        wanted = [int(size) for size in sizes.split(",")]
    except ValueError:
        raise click.BadParameter(f"{sizes!r} are no numbers", param_hint="--sizes") from None
    _measured(
        invocation,
        _OF_CALLS,
        ("grpcio", "msgspec"),
        lambda say: _bench_call.measure(seconds, rounds, wanted, peers, say),
    )


@bench.command("start")
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(1, 10_000), help="Starts of each backend.")
@click.option("--shards", default=100, show_default=True, type=click.IntRange(0, 5_000), help="Idle shards to weigh.")
@common_options
def start_shards(invocation: Invocation, rounds: int, shards: int) -> None:
    """From nothing to a shard's first answer by a template with grpc and numpy loaded, beside a plain fork of the same.

    `start` is a start now and then: the template has forked ahead for it. `start in a row` is one right after another, for
    which it has not. `container` is a bare interpreter's first word from an OCI runtime, beside the same by hand.

    \b
    Examples:
      shardwright bench start
      shardwright bench start --rounds 200 --shards 0 --json
    """
    _measured(invocation, _OF_STARTS, ("numpy", "grpcio"), lambda say: _bench_start.measure(rounds, shards, say))


@bench.command("compose")
@click.option("--rounds", default=60, show_default=True, type=click.IntRange(1, 10_000), help="Sessions of each case.")
@common_options
def compose(invocation: Invocation, rounds: int) -> None:
    """Sessions of one and of five shards, warm and from templates, and fifty at once; beside each its floor.

    \b
    Examples:
      shardwright bench compose
      shardwright bench compose --rounds 200 --json
    """
    _measured(invocation, _OF_SESSIONS, (), lambda say: _bench_compose.measure(rounds, say))


_OF_LIMITS = ("case", "resource", "asked", "measured", "error", "apply_p50_us", "effect_p50_ms", "stopped",
              "neighbour_unharmed", "p50_us", "unmeasured")  # fmt: skip


@bench.command("resize")
@click.option(
    "--rounds", default=500, show_default=True, type=click.IntRange(1, 100_000), help="Changes of each limit."
)
@common_options
def resize_shards(invocation: Invocation, rounds: int) -> None:
    """Limits of running shards changed: how long that takes, and whether they hold from 200 ms later.

    `limit` changes CPU, memory, block I/O (direct, on the disk of /var/tmp) and the rate of a network link as the keeper does,
    and measures what then runs in windows of a second. `memory ceiling` lowers the ceiling of a node's shard, which then takes
    more. `node.resize` is the whole way from the call to its answer.

    \b
    Examples:
      shardwright bench resize
      shardwright bench resize --rounds 2000 --json
    """
    _measured(invocation, _OF_LIMITS, (), lambda say: _bench_resize.measure(rounds, say))


_OF_LIVE = ("case", "first_action_s", "back_in_slo_s", "p50_ms", "p99_ms", "p99_before_ms", "p99_after_ms",
            "p99_unloaded_ms", "p99_over_unloaded", "shed", "core_percent_of_500", "replayed_same", "others_cores")  # fmt: skip


@bench.command()
@click.option("--seconds", default=10.0, show_default=True, type=click.FloatRange(2), help="How long each load lasts.")
@click.option("--rounds", default=40, show_default=True, type=click.IntRange(1, 10_000), help="Starts from zero.")
@common_options
def live(invocation: Invocation, seconds: float, rounds: int) -> None:
    """What the controller of a running node makes of load that does not wait for answers.

    The bundled arena stepping from 10 to 70 % of its saturation; the first answer of a component without instances; three
    priorities that ask for more than there is; what looking at all shards once a second takes of a core. What was recorded
    meanwhile is decided again by the simulator.

    \b
    Examples:
      shardwright bench live
      shardwright bench live --seconds 20 --json
    """
    from shardwright.cli import _bench_live  # with the simulation, and its numpy

    _measured(invocation, _OF_LIVE, (), lambda say: _bench_live.measure(seconds, rounds, say))


_OF_FLEETS = (
    "case",
    "shards",
    "nodes",
    "ticks",
    "p50_ms",
    "max_ms",
    "us_a_shard",
    "took_s",
    "peak_mib",
    "overcommitted",
)


@bench.command()
@click.option("--shards", default=100_000, show_default=True, type=click.IntRange(1), help="Of the simulated fleet.")
@click.option("--nodes", default=1000, show_default=True, type=click.IntRange(1), help="Of the simulated fleet.")
@click.option("--ticks", default=360, show_default=True, type=click.IntRange(1), help="Of ten seconds each.")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1, 10_000), help="Decisions of each size.")
@common_options
def fleet(invocation: Invocation, shards: int, nodes: int, ticks: int, rounds: int) -> None:
    """What deciding costs, on one core: the limits of many shards once, and an hour of a whole fleet in virtual time.

    The peak of memory is that of the whole process.

    \b
    Examples:
      shardwright bench fleet
      shardwright bench fleet --shards 10000 --nodes 100 --json
    """
    from shardwright.cli import _bench_fleet  # with numpy
    from shardwright.simulation import FleetParams

    params = FleetParams(nodes=nodes, shards=shards, ticks=ticks)
    _measured(invocation, _OF_FLEETS, ("numpy",), lambda say: _bench_fleet.measure(params, rounds, say))


_OF_CUTS = ("case", "median_s", "min_s", "throughput_to_uncut", "paired_to_uncut", "throughput_to_best_pool",
            "spin_ceiling")  # fmt: skip


@bench.command()
@click.argument("path", default="examples/pressroom", type=click.Path(path_type=Path))
@click.option("--rounds", default=10, show_default=True, type=click.IntRange(1, 1000), help="Runs of each case.")
@click.option("--limit", default=120, show_default=True, type=click.IntRange(2), help="Documents of a run.")
@click.option("--source", default="installed", show_default=True, help="A folder of .md files, or the packages' texts.")
@common_options
def cuts(invocation: Invocation, path: Path, rounds: int, limit: int, source: str) -> None:
    """The press room as one component, cut by its profile, beside itself uncut and pools of processes by hand.

    \b
    Examples:
      shardwright bench cuts
      shardwright bench cuts examples/pressroom --rounds 20 --json
    """
    _measured(
        invocation, _OF_CUTS, (),
        lambda say: _bench_cuts.measure(path, limit, source, rounds, invocation.environment, say),
    )  # fmt: skip


_OF_CUTCALLS = ("case", "p50_us", "bare_p50_us", "ratio", "p50_ns")


@bench.command()
@click.option(
    "--rounds", default=9, show_default=True, type=click.IntRange(1, 1000), help="Rounds of 1,000 calls each."
)
@common_options
def cutcall(invocation: Invocation, rounds: int) -> None:
    """A call of a cut function with small arguments, beside a bare call over such a channel; and a stub's local path.

    \b
    Examples:
      shardwright bench cutcall
      shardwright bench cutcall --rounds 20 --json
    """
    from shardwright.cli import _bench_cutcall

    _measured(invocation, _OF_CUTCALLS, (), lambda say: _bench_cutcall.measure(rounds, invocation.environment, say))


_OF_PLANS = ("case", "functions_cut", "uncut_s", "cut_s", "gain", "predicted_s", "error", "kendall_tau")


@bench.command()
@click.option(
    "--programs", default=20, show_default=True, type=click.IntRange(1, 1000), help="How many, from seed 0 on."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(1, 100), help="Runs of each case.")
@click.option("--first", default=0, show_default=True, type=click.IntRange(0, 10_000), help="The first one's seed.")
@click.option(
    "--kept",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Add the records to this file, and take those of other programs from it: short runs make one table.",
)
@click.option("--write", "target", type=click.Path(path_type=Path), help="Write the table there, as Markdown.")
@common_options
def plans(
    invocation: Invocation, programs: int, rounds: int, first: int, kept: Path | None, target: Path | None
) -> None:
    """Small programs planned by a profile and run: predicted beside measured, and each cut undone in turn.

    \b
    Examples:
      shardwright bench plans
      shardwright bench plans --programs 5 --json
      shardwright bench plans --programs 3 --first 6 --kept plans.json --write plans.md
    """
    from shardwright.cli import _bench_plans

    def measure(say: Callable[[str], None]) -> list[dict[str, Any]]:
        seeds = range(first, first + programs)
        records = _bench_plans.measure(seeds, rounds, invocation.environment, say, kept)
        if target is not None:
            target.write_text(_bench_plans.report(_machine(), records), encoding="utf-8")
        return records

    _measured(invocation, _OF_PLANS, (), measure)


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
