"""The warm pool by demand in a real node: whoever comes again finds a shard ready, and what it cost is told."""

from __future__ import annotations

import time
from pathlib import Path

import shardwright
from waiting import eventually

MANIFEST = """
[app]
name = "pooled"
[components.game]
code = "game"
scope = "session"
resources = { memory = "16MiB" }
[policy]
pool = "demand"
tick = "0s"
"""


def test_who_comes_again_finds_a_shard_ready(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    (app / "game.py").write_text("def play():\n    return 1\n")
    with shardwright.start(app, state=tmp_path / "state") as node:
        core = node.running.core

        def met() -> int:
            with node.session() as session:
                assert session.call("game.play") == 1
            time.sleep(0.3)  # how often somebody comes
            return sum(cost.warm for cost in core.shards.pool_costs())

        assert eventually(lambda: met() >= 2), "whoever comes as usual finds a spare"
        [cost] = core.shards.pool_costs()
        assert cost.hidden >= 1
        assert cost.cold_price_s > cost.hidden_price_s > 0
        launched = [row for row in core.journal.tail(100, kind="launch") if "worth their price" in row.reason]
        assert launched
