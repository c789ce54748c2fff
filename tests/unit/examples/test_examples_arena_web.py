"""The arena's page and conversations, called as a server calls them."""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import pytest

SECRET = "a secret of one's own"
PATIENCE_S = 20.0


class Browser:
    """The other end of one WebSocket. ``deaf``: it never takes what it is sent, as one whose network has stalled."""

    def __init__(self, app: Any, *, deaf: bool = False) -> None:
        self.heard: list[dict[str, Any]] = []
        self.closed: int | None = None
        self._deaf = deaf
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._news = asyncio.Condition()
        self._said.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "path": "/play",
            "raw_path": b"/play",
            "root_path": "",
        }
        scope |= {"query_string": b"", "headers": [], "scheme": "ws", "subprotocols": [], "extensions": {}}
        self._task = asyncio.create_task(app(scope, self._said.get, self._take))

    async def _take(self, event: dict[str, Any]) -> None:
        if event["type"] == "websocket.send":
            if self._deaf:
                await asyncio.Event().wait()
            self.heard.append(json.loads(event["text"]))
        elif event["type"] == "websocket.close":
            self.closed = event["code"]
        async with self._news:
            self._news.notify_all()

    def say(self, message: Any) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        self._said.put_nowait({"type": "websocket.receive", "text": text})

    async def until(self, found: Callable[[], Any]) -> Any:
        """Wait until this is true of what was heard."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(found)
        return found()

    async def hear(self, kind: str, count: int = 1, **members: Any) -> dict[str, Any]:
        """The ``count``-th message of that kind with these members."""
        fitting = lambda: [m for m in self.heard if m["t"] == kind and members.items() <= m.items()]  # noqa: E731
        await self.until(lambda: len(fitting()) >= count)
        return fitting()[count - 1]

    async def enter(self, name: str, world: str = "w1", secret: str = SECRET) -> dict[str, Any]:
        self.say({"t": "enter", "name": name, "world": world, "secret": secret})
        return await self.hear("in", you=name, world=world)

    def where(self, player: str) -> tuple[float, float] | None:
        """Where the last frame shows the player."""
        frames = [m for m in self.heard if m["t"] == "frame"]
        return next(((x, y) for name, x, y, *_ in frames[-1]["b"] if name == player), None) if frames else None

    async def go(self) -> None:
        """Close the connection, and wait until the application is done with it."""
        self._said.put_nowait({"type": "websocket.disconnect", "code": 1001})
        async with asyncio.timeout(PATIENCE_S):
            await self._task


@asynccontextmanager
async def opened(web: ModuleType, count: int = 1) -> AsyncIterator[list[Browser]]:
    browsers = [Browser(web.app) for _ in range(count)]
    try:
        for browser in browsers:
            await browser.hear("hello")
        yield browsers
    finally:
        for browser in browsers:
            await browser.go()
        await web.crowd.close()


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(scene())  # type: ignore[arg-type]


@pytest.fixture
def web(arena: ModuleType) -> ModuleType:
    return importlib.import_module("arena.web")


# -- the page


async def _get(app: Any, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []
    asked: list[bool] = []

    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.Event().wait()  # the client stays
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path}
    scope |= {"raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": [], "scheme": "http"}
    await app(scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(event.get("body", b"") for event in sent[1:])


def test_the_page_comes_with_its_files_and_runs_none_of_others(web: ModuleType) -> None:
    async def scene() -> None:
        status, headers, body = await _get(web.app, "/")
        assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "default-src 'none'" in headers["content-security-policy"] and b"//" not in body.replace(b"-->", b"")
        for name in ("main.js", "link.js", "look.js", "motion.js", "scene.js", "wheel.js", "arena.css", "arena.svg"):
            status, headers, body = await _get(web.app, f"/assets/{name}")
            assert status == 200 and body and headers["x-content-type-options"] == "nosniff", name
        for path in ("/nothing", "/assets/nothing.js", "/assets/../web/__init__.py", "/assets/%2e%2e/game.py"):
            assert (await _get(web.app, path))[0] == 404, path
        assert (await _get(web.app, "/", "POST"))[0] == 405

    run(scene)


# -- playing


def test_players_see_each_other_steer(web: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web, 2) as (ada, bo):
            assert (await ada.enter("Ada"))["opened"] == []
            await bo.enter("Bo")
            start = await bo.until(lambda: bo.where("Ada"))
            for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1)):
                ada.say({"t": "steer", "dx": dx, "dy": dy})
                count = sum(m["t"] == "frame" for m in bo.heard)
                await bo.hear("frame", count + 12)
                here = bo.where("Ada")
                assert here is not None
                if abs(here[0] - start[0]) + abs(here[1] - start[1]) > 0.5:
                    break
            else:
                raise AssertionError("Ada cannot move")
            ada.say({"t": "leave"})
            assert (await ada.hear("out"))["score"] >= 20
            await bo.until(lambda: bo.where("Ada") is None)

    run(scene)


def test_one_who_does_not_listen_delays_nobody(web: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web) as (ada,):
            deaf = [Browser(web.app, deaf=True) for _ in range(5)]
            for number, browser in enumerate(deaf):
                browser.say({"t": "enter", "name": f"Deaf {number}", "world": "w1", "secret": SECRET})
            await ada.enter("Ada")
            await ada.until(lambda: all(ada.where(f"Deaf {number}") for number in range(5)))
            before = sum(m["t"] == "frame" for m in ada.heard)
            await ada.hear("frame", before + 10)
            for browser in deaf:
                await browser.go()

    run(scene)


def test_the_newest_frame_replaces_one_that_waits_and_lines_do_not(web: ModuleType) -> None:
    outbox = importlib.import_module("arena.web._outbox")

    async def scene() -> None:
        box = outbox.Outbox()
        for number in range(1000):
            box.frame(f"frame {number}")
        box.line("one")
        box.line("two")
        assert [await box.next() for _ in range(3)] == ["one", "two", "frame 999"]
        for _ in range(outbox.MOST_LINES + 1):
            box.line("more")
        assert await box.next() is None

    run(scene)


def test_talk_reaches_those_who_are_there_and_those_who_come_later(web: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web, 3) as (ada, bo, cleo):
            await ada.enter("Ada")
            await bo.enter("Bo", "w2")
            ada.say({"t": "say", "text": " hello "})
            await ada.until(lambda: any(m["t"] == "chat" and [1, "Ada", "hello"] in m["lines"] for m in ada.heard))
            bo.say({"t": "travel", "world": "w1"})
            assert (await bo.hear("in", world="w1"))["lines"] == [[1, "Ada", "hello"]]
            assert (await cleo.enter("Cleo"))["lines"] == [[1, "Ada", "hello"]]
            await cleo.until(lambda: any(m["t"] == "counts" and m["worlds"]["w1"] == 3 for m in cleo.heard))
            for _ in range(8):
                ada.say({"t": "say", "text": "again"})
            assert "Not so fast" in (await ada.hear("no", why="chat"))["text"]

    run(scene)


def test_a_name_is_its_secrets_and_moves_with_it(web: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web, 3) as (first, thief, second):
            await first.enter("Ada")
            thief.say({"t": "enter", "name": "Ada", "world": "w1", "secret": "somebody else's"})
            await thief.hear("no", why="name")
            await second.enter("Ada")
            await first.until(lambda: first.closed == 4001)
            await second.until(lambda: second.where("Ada"))
            assert web.crowd.counts()["w1"] == 1

    run(scene)


def test_one_who_comes_back_has_kept_its_place_and_score(web: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web, 2) as (ada, bo):
            await bo.enter("Bo")
            await ada.enter("Ada")
            await bo.until(lambda: bo.where("Ada"))
            ada.say({"t": "buy", "item": "rope"})
            score = (await ada.until(lambda: [m for m in ada.heard if m["t"] == "you" and m["items"].get("rope")]))[0][
                "score"
            ]
            await ada.go()
            there = bo.where("Ada")
            again = Browser(web.app)
            assert (await again.enter("Ada"))["at"] == pytest.approx(there, abs=0.2)
            assert (await again.hear("you"))["score"] == score
            await again.go()

    run(scene)


def test_the_parts_behind_may_begin_anew(web: ModuleType, arena: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web) as (ada,):
            await ada.enter("Ada")
            await ada.until(lambda: ada.where("Ada"))
            arena.physics._worlds.clear()
            arena.game._seats.clear()
            arena.auth._accounts.clear()
            await ada.hear("frame", 1 + sum(m["t"] == "frame" for m in ada.heard))
            await ada.until(lambda: ada.where("Ada"))
            ada.say({"t": "buy", "item": "apple"})
            await ada.until(lambda: [m for m in ada.heard if m["t"] == "you" and m["items"].get("apple")])

    run(scene)


# -- what it refuses


@pytest.mark.parametrize(
    "text",
    [
        "", "nonsense", "[]", "1", "null", '"enter"', "{}", '{"t": 1}', '{"t": []}', '{"t": "fly"}', "[" * 3000,
        '{"t": "enter"}', '{"t": "enter", "name": "", "world": "w1", "secret": "12345678"}',
        '{"t": "enter", "name": "a\\u0007b", "world": "w1", "secret": "12345678"}',
        '{"t": "enter", "name": "a very much too long name", "world": "w1", "secret": "12345678"}',
        '{"t": "enter", "name": "a", "world": "w99", "secret": "12345678"}',
        '{"t": "enter", "name": "a", "world": ["w1"], "secret": "12345678"}',
        '{"t": "enter", "name": "a", "world": "w1", "secret": "short"}',
        '{"t": "steer", "dx": 1, "dy": 0}', '{"t": "say", "text": "hello"}', '{"t": "leave"}',
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_and_ends_nothing(web: ModuleType, text: str) -> None:
    async def scene() -> None:
        async with opened(web) as (browser,):
            browser.say(text)
            assert (await browser.hear("no"))["text"]
            browser.say({"t": "ping", "at": 7})
            await browser.hear("pong", at=7)

    run(scene)


@pytest.mark.parametrize(
    "text",
    [
        '{"t": "steer", "dx": NaN, "dy": 0}', '{"t": "steer", "dx": 1e999, "dy": 0}', '{"t": "steer", "dx": "1", "dy": 0}',
        '{"t": "steer", "dx": true, "dy": 0}', '{"t": "steer"}', '{"t": "say", "text": "   "}', '{"t": "say", "text": 5}',
        '{"t": "buy", "item": "moon"}', '{"t": "buy", "item": {}}', '{"t": "travel", "world": "w0"}',
        '{"t": "enter", "name": "Bo", "world": "w1", "secret": "12345678"}',
    ],
)  # fmt: skip
def test_a_player_is_refused_what_cannot_be(web: ModuleType, text: str) -> None:
    async def scene() -> None:
        async with opened(web) as (browser,):
            await browser.enter("Ada")
            browser.say(text)
            await browser.hear("no")
            await browser.hear("frame", 1 + sum(m["t"] == "frame" for m in browser.heard))

    run(scene)


def test_nobody_steers_faster_than_the_others(web: ModuleType) -> None:
    async def scene() -> None:
        async with opened(web) as (browser,):
            await browser.enter("Ada")
            browser.say({"t": "steer", "dx": 1e300, "dy": 1e300})
            browser.say({"t": "ping", "at": 1})
            await browser.hear("pong")
            dx, dy = web.crowd._seats["Ada"].wheel
            assert dx**2 + dy**2 == pytest.approx(1.0)

    run(scene)


@pytest.mark.parametrize(("texts", "code"), [(["x" * 5000], 1009), (['{"t": "ping", "at": 1}'] * 400, 4008)])
def test_too_long_and_too_many_ends_the_conversation(web: ModuleType, texts: list[str], code: int) -> None:
    async def scene() -> None:
        async with opened(web) as (browser,):
            for text in texts:
                browser.say(text)
            await browser.until(lambda: browser.closed == code)

    run(scene)
