"""Tables of shards and of the warm pool, as `ps` and the demo show them."""

from __future__ import annotations

from typing import Any

from shardwright.cli._invocation import Invocation
from shardwright.model.units import format_bytes, format_seconds

_POOL_HEADERS = (
    "COMPONENT", "FREE", "WANTED", "WARM", "STARTING", "COLD", "HIDDEN STARTS", "IDLE", "SPENT", "SAVED", "COLD PRICE",
    "HIDDEN PRICE",
)  # fmt: skip


def show_pool(invocation: Invocation, pool: list[dict[str, Any]]) -> None:
    """The table of what the warm pool costs and saves, a row for each component."""
    invocation.table(_POOL_HEADERS, [_pool_row(each) for each in pool])


def _pool_row(each: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(each[name]) for name in ("free", "wanted", "warm", "starting", "cold", "hidden"))
    money = (f"{each[name]:.3g}" for name in ("spent", "saved"))
    prices = (f"{each[name]:.4g} idle s" for name in ("cold_price_s", "hidden_price_s"))
    return (each["component"], *counts, format_seconds(round(each["idle_s"], 1)), *money, *prices)


_HEADERS = (
    "SHARD", "STATUS", "PID", "SCOPE", "KEY", "CPU TIME", "MEMORY", "GUARANTEED", "CEILING", "ISOLATION", "TRANSPORT",
    "START", "AGE", "SESSIONS",
)  # fmt: skip


def show_shards(invocation: Invocation, shards: list[dict[str, Any]], *, stderr: bool = False) -> None:
    """The table of what `ps` answers, on standard output unless told otherwise."""
    invocation.table(_HEADERS, [_shard_row(shard) for shard in shards], stderr=stderr)


def _shard_row(shard: dict[str, Any]) -> tuple[str, ...]:
    usage = shard["usage"] or {}
    sessions = shard["sessions"]
    return (
        shard["id"],
        shard["status"],
        str(shard["pid"] or "-"),
        shard["scope"],
        shard["key"] or "-",
        format_seconds(usage["cpu_s"]) if usage else "-",
        format_bytes(usage["memory_bytes"]) if usage else "-",
        amounts(shard["guarantee_cpu"], shard["guarantee_memory_bytes"]),
        amounts(shard["ceiling_cpu"], shard["ceiling_memory_bytes"]),
        shard["isolation"] or "-",
        shard["transport"],
        shard["start"].partition(":")[0],
        format_seconds(round(shard["age_s"], 1)),
        f"{', '.join(sessions[:2])}{f' and {len(sessions) - 2} more' if len(sessions) > 2 else ''}" or "-",
    )


def amounts(cpu: float | None, memory_bytes: int | None) -> str:
    """Cores and memory as a reader likes them, `-` where neither is said."""
    # the system keeps shares in steps of 1/1024
    parts = [f"{round(cpu, 3):g} cpu"] if cpu is not None else []
    return " ".join([*parts, *([format_bytes(memory_bytes)] if memory_bytes is not None else [])]) or "-"
