"""What a shard has loaded before anybody calls: what its component needs, and loops of user code that are polite."""

from __future__ import annotations

from pathlib import Path

import shardwright
from guest_apps import write_application

MANIFEST = """
    [app]
    name = "loads"
    root = "."
    [components.plain]
    code = "plain"
    scope = "session"
    state = "memory"
    [components.awaits]
    code = "awaits"
    scope = "session"
    state = "memory"
"""
PLAIN = """
    import sys
    def has(name):
        return name in sys.modules
    def policy():
        import asyncio
        return type(asyncio.get_event_loop_policy()).__name__, [type(f).__name__ for f in sys.meta_path]
"""
AWAITS = """
    import sys
    def has(name):
        return name in sys.modules
    async def wait():
        return 1
"""


def test_asyncio_is_there_where_there_are_coroutines_and_comes_polite_elsewhere(tmp_path: Path) -> None:
    app = write_application(tmp_path / "app", MANIFEST, plain=PLAIN, awaits=AWAITS)
    with shardwright.start(app, state=tmp_path / "state") as node, node.session("one") as session:
        assert session.call("awaits.has", "asyncio"), "forks of one template share it"
        assert not session.call("plain.has", "asyncio") and not session.call("plain.has", "ssl")
        assert {shard.start for shard in node.shards()} == {"template"}
        policy, finders = session.call("plain.policy")
        assert policy == "_PolitePolicy"
        assert "_Finder" not in finders, "whoever waited for it is gone"
        assert session.call("awaits.wait") == 1


def test_an_application_may_have_a_module_named_asyncio(tmp_path: Path) -> None:
    own = "def run():\n    return 'its own'\n"
    plain = "def ask():\n    import asyncio\n    return asyncio.run()\n"
    manifest = '[app]\nname = "own"\nroot = "."\n[components.plain]\ncode = "plain"\n'
    app = write_application(tmp_path / "app", manifest, plain=plain, asyncio=own)
    with shardwright.start(app, state=tmp_path / "state") as node, node.session("one") as session:
        assert session.call("plain.ask") == "its own"
