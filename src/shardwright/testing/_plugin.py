"""The pytest plugin: ``pytest --shardwright`` runs a project's own tests against its sharded form.

pytest loads this module in every run of an environment that has Shardwright; without the flag it does nothing, and
imports nothing else. ``docs/testing.md`` says what a sharded run is, and what differs in it.
"""

from __future__ import annotations

import pytest

SESSION_SCOPES = ("function", "module", "session")


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    _leave_unwritten(pluginmanager)
    group = parser.getgroup("shardwright", "tests against the sharded form of the application")
    group.addoption("--shardwright", action="store_true", help="start a node, and test the application's shards")
    group.addoption(
        "--shardwright-manifest", metavar="PATH", help="the manifest (default: shardwright.toml, found upwards)"
    )
    group.addoption("--shardwright-profile", metavar="NAME", help="overlay shardwright.NAME.toml")
    group.addoption("--shardwright-inproc", action="store_true", help="all shards in this process, without walls")
    group.addoption(
        "--shardwright-session", choices=SESSION_SCOPES, default="function", metavar="SCOPE",
        help="a Shardwright session for each: function (default), module, or session",
    )  # fmt: skip
    group.addoption(
        "--shardwright-fresh", action="store_true", help="replace stateful shards that a test has used when it ends"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before any conftest is imported, for that may import the application."""
    if getattr(early_config.known_args_namespace, "shardwright", False):
        from shardwright.testing._plugin_run import begin

        begin(early_config)


def _leave_unwritten(manager: pytest.PytestPluginManager) -> None:
    """Of all modules of Shardwright, only those for tests have their asserts rewritten.

    pytest takes the whole distribution of a plugin for one. To read and write anew each module that a run imports takes
    time; and where a thread of ours imports one while another makes syntax trees, CPython up to 3.11.7 may fail
    (``shardwright._syntax``). What pytest does not say how to undo is undone where it is as we know it.
    """
    hook = getattr(manager, "rewrite_hook", None)
    marked, known = getattr(hook, "_must_rewrite", None), getattr(hook, "_marked_for_rewrite_cache", None)
    if isinstance(marked, set) and isinstance(known, dict) and "shardwright" in marked:
        marked.discard("shardwright")
        marked.add("shardwright.testing")
        known.clear()
