"""The fixtures of a sharded test run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shardwright.node import Node, Session

if TYPE_CHECKING:
    from shardwright.testing._plugin_run import ShardedRun

RUN = "shardwright-run"


@pytest.fixture(scope="session")
def node(pytestconfig: pytest.Config) -> Node:
    """The running node: ``shards()``, ``resize()``, sessions of one's own."""
    return _run(pytestconfig).node.node()


@pytest.fixture
def session(pytestconfig: pytest.Config) -> Session:
    """The Shardwright session of this test: ``session.call("component.function", ...)``."""
    return _run(pytestconfig).current_session()


def _run(config: pytest.Config) -> ShardedRun:
    run: Any = config.pluginmanager.get_plugin(RUN)
    return run  # type: ignore[no-any-return]
