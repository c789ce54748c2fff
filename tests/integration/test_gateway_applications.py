"""Applications however they are written: what a route serves is one, and its shard finds out how it wants to be called."""

from __future__ import annotations

import textwrap
import urllib.request
from collections.abc import Callable
from pathlib import Path

import shardwright

APPLICATIONS = {
    "coroutine": """
        async def served(s, r, d):
            await d({"type": "http.response.start", "status": 200, "headers": []})
            await d({"type": "http.response.body", "body": b"coroutine"})
    """,
    "instance": """
        class Framework:
            async def __call__(self, scope, receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"instance"})

        served = Framework()
    """,
    "double": """
        def served(scope):
            async def instance(receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"double"})
            return instance
    """,
    "double_class": """
        class served:
            def __init__(self, scope):
                self.scope = scope

            async def __call__(self, receive, send):
                self.answered = True
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"double_class"})
    """,
    "endpoint": """
        class served:
            def __init__(self, scope, receive, send):
                self.send = send

            def __await__(self):
                return self.answer().__await__()

            async def answer(self):
                self.answered = True
                await self.send({"type": "http.response.start", "status": 200, "headers": []})
                await self.send({"type": "http.response.body", "body": b"endpoint"})
    """,
    "wsgi": """
        def served(env, start):
            start("200 OK", [("content-type", "text/plain")])
            return [b"wsgi"]
    """,
    "wsgi_class": """
        class served:
            def __init__(self, environ, start_response):
                self.start = start_response

            def __iter__(self):
                self.begun = True
                self.start("200 OK", [("content-type", "text/plain")])
                yield b"wsgi_class"
    """,
}


def test_every_shape_of_application_is_served(tmp_path: Path, record_exercised: Callable[[str, int], None]) -> None:
    lines = ["[app]", 'name = "shapes"', "[gateway]", 'bind = "127.0.0.1:0"']
    for name, text in APPLICATIONS.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        lines += [f"[components.{name}]", f'code = "{name}:served"']
        lines += ["[[routes]]", f'path = "/{name}"', f'app = "{name}"']
    (tmp_path / "shardwright.toml").write_text("\n".join(lines))
    assert [item.message for item in shardwright.plan(tmp_path).refusals] == []
    with shardwright.start(tmp_path) as node:
        for name in APPLICATIONS:
            with urllib.request.urlopen(f"{node.urls[0]}/{name}", timeout=20) as answer:
                assert (answer.status, answer.read()) == (200, name.encode())
    record_exercised("shapes of applications served", len(APPLICATIONS))
