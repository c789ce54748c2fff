"""The arena in real browsers, served by uvicorn uncut, and by the gateway as shards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol

import pytest

import shardwright
from browser import Window, Windows, barriers, chromium, open_windows

ARENA = Path(__file__).parents[2] / "examples" / "arena"
MANIFEST = tomllib.loads((ARENA / "shardwright.toml").read_text("utf-8"))
FRONTS = ("uvicorn", "gateway") if "web" in MANIFEST["components"] else ("uvicorn",)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
Record = Callable[[str, int], None]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(chromium() is None, reason="no Chromium on this machine")]


class Served(Protocol):
    """The arena at an address, that can be made to fail and come back."""

    address: str

    def break_off(self) -> None:
        """End the process that holds the connections; ``come_back`` brings it back, if it does not come by itself."""

    def come_back(self) -> None: ...


class ByUvicorn:
    """The uncut program, as its README says."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/"
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    def come_back(self) -> None:
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "arena.web:app",
            "--port",
            str(self._port),
            "--log-level",
            "warning",
        ]
        self._process = subprocess.Popen(command, cwd=ARENA, env={**os.environ, "PYTHONPATH": str(ARENA)})
        wait_for_port(self._port)

    def break_off(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None


class ByGateway:
    """The same program as shards, behind the gateway."""

    def __init__(self, node: shardwright.Node) -> None:
        (url,) = node.urls
        self.address = url + "/"
        self._node = node

    def break_off(self) -> None:
        self.kill("gateway")

    def kill(self, component: str) -> int:
        """Kill what runs of a component; how many shards that were."""
        pids = [status.pid for status in self._node.shards() if status.component == component and status.sessions]
        pids = pids or [status.pid for status in self._node.shards() if status.component == component]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    def come_back(self) -> None:
        """It does so by itself; its sockets never went away."""


def wait_for_port(port: int) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(params=FRONTS[-1:])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    """By what users of Shardwright have; what the uncut program must do as well is parametrized with both."""
    if request.param == "uvicorn":
        by_uvicorn = ByUvicorn(free_port())
        by_uvicorn.come_back()
        try:
            yield by_uvicorn
        finally:
            by_uvicorn.break_off()
    else:
        with shardwright.start(ARENA, state=tmp_path / "state") as node:
            yield ByGateway(node)


@pytest.fixture
def windows(served: Served) -> Iterator[Windows]:
    executable = chromium()
    assert executable is not None
    with open_windows(executable) as opened:
        yield opened


def enter(window: Window, name: str, world: str = "w2") -> None:
    window.until("window.arena && arena.state.link === 'open'")
    window.page.fill("#name", name)
    window.page.locator(f"#choices input[value={world}]").check(force=True)
    window.page.click("#go")
    window.until(f"arena.state.me === {name!r} && arena.players[{name!r}]")


def walk(window: Window, name: str, first: int = 0) -> None:
    """Hold one arrow key after the other until the player has gone half a cell."""
    ways = ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp")
    window.page.focus("#stage")
    x, y = window.ask(f"[arena.players[{name!r}].x, arena.players[{name!r}].y]")
    gone = f"Math.hypot(arena.players[{name!r}].x - {x}, arena.players[{name!r}].y - {y}) > 0.5"
    for way in ways[first:] + ways[:first]:
        window.page.keyboard.down(way)
        try:
            if (
                window.until(
                    f"({gone}) ? 'gone' : (globalThis.walkEnd ??= performance.now() + 1500) < performance.now()"
                )
                == "gone"
            ):
                return
        finally:
            window.page.keyboard.up(way)
            window.ask("delete globalThis.walkEnd")
    raise AssertionError(f"{name} cannot walk")


@pytest.mark.parametrize("served", FRONTS, indirect=True)
def test_four_browsers_see_each_other_move(served: Served, windows: Windows, record_exercised: Record) -> None:
    names = ["Ada", "Bo", "Cleo", "Dee"]
    opened = {name: windows.open(served.address, width=760, height=620) for name in names}
    for name, window in opened.items():
        enter(window, name)
    everybody = f"{names}.every(name => arena.players[name])"
    before = {}
    for name, window in opened.items():
        window.until(everybody)
        before[name] = window.ask("arena.players")
        assert window.until("document.querySelectorAll('#here li').length") >= 4
    for place, (name, window) in enumerate(opened.items()):
        walk(window, name, place)

    seen = 0
    for watcher, window in opened.items():
        for name in names:
            x, y = before[watcher][name]["x"], before[watcher][name]["y"]
            far = f"Math.hypot(arena.players[{name!r}].x - {x}, arena.players[{name!r}].y - {y}) > 0.4"
            window.until(far)
            # what is drawn comes to rest where the game says
            apart = f"arena.drawn[{name!r}].x - arena.players[{name!r}].x, arena.drawn[{name!r}].y - arena.players[{name!r}].y"
            window.until(f"Math.hypot({apart}) < 0.1")
            seen += name != watcher
    assert seen == 12
    record_exercised("players seen moving by other browsers", seen)

    # the same frame is the same world in every window
    frames = [
        {frame["n"]: {body[0]: body[1:3] for body in frame["bodies"]} for frame in window.ask("arena.frames")}
        for window in opened.values()
    ]
    common = set.intersection(*(set(found) for found in frames))
    assert len(common) >= 5
    for number in common:
        assert all(found[number] == frames[0][number] for found in frames)
    record_exercised("frames compared between four browsers", len(common))

    opened["Bo"].page.fill("#words", "is <b>anybody</b> near the chest?")
    opened["Bo"].page.keyboard.press("Enter")
    for window in opened.values():
        window.until("document.getElementById('chat').textContent.includes('Bo is <b>anybody</b> near the chest?')")
        assert window.complaints == []


def test_worlds_names_and_the_shop(served: Served, windows: Windows) -> None:
    ada, other = windows.open(served.address), windows.open(served.address)
    enter(ada, "Ada", "w1")
    other.until("window.arena && arena.state.link === 'open'")
    other.page.fill("#name", "Ada")
    other.page.click("#go")
    other.until("document.getElementById('name-problem').textContent.includes('Somebody else plays as Ada')")
    assert other.ask("document.activeElement.id") == "name"
    enter(other, "Bo", "w3")

    ada.page.click("#worlds button[data-world=w3]")
    for window in (ada, other):
        window.until("arena.state.world === 'w3' && arena.players.Ada && arena.players.Bo")
    assert ada.ask("document.getElementById('place').textContent") == "Harbour"
    assert ada.until("document.querySelector('#worlds button[data-world=w3] .count').textContent === '2'")

    other.page.click("#pack li[data-item=sword] button")
    other.until("arena.state.items.sword >= 1 && arena.state.score === 10 + 5 * arena.state.opened")
    ada.page.click("#leave")
    ada.until("arena.state.view === 'door'")
    other.until("!arena.players.Ada && arena.players.Bo")
    assert ada.complaints == other.complaints == []


def test_it_fits_a_phone_and_a_finger(served: Served, windows: Windows) -> None:
    for width in (390, 320):
        window = windows.open(served.address, width=width, height=844, phone=True)
        window.until("window.arena && arena.state.link === 'open'")
        assert overflow(window, width) == []
        enter(window, f"Finger{width}", "w1")
        assert overflow(window, width) == []
    name = "Finger320"
    x, y = window.ask(f"[arena.players.{name}.x, arena.players.{name}.y]")
    finger = window.page.context.new_cdp_session(window.page)
    for way in ("up", "left", "right", "down"):
        box = window.page.locator(f"#pad .{way}").bounding_box()
        assert box is not None and box["width"] >= 44 and box["height"] >= 44
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        finger.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
        window.until("document.querySelector('#pad [data-held]')")
        moved = f"Math.hypot(arena.players.{name}.x - {x}, arena.players.{name}.y - {y}) > 0.3"
        went = window.until(f"({moved}) ? 'moved' : (globalThis.end ??= performance.now() + 1200) < performance.now()")
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        window.ask("delete globalThis.end")
        if went == "moved":
            break
    assert went == "moved"
    window.until("!document.querySelector('#pad [data-held]')")
    finger.detach()


def overflow(window: Window, width: int) -> list[str]:
    """Whatever visible reaches past the right or left edge, and the page itself if it can be scrolled sideways."""
    found: list[str] = window.ask(
        """[...document.querySelectorAll('body *')].filter(element => {
            const box = element.getBoundingClientRect(), style = getComputedStyle(element);
            return box.width > 1 && style.visibility !== 'hidden' && (box.right > WIDTH + 0.5 || box.left < -0.5);
        }).map(element => `${element.tagName}#${element.id}.${element.className}`)
        .concat(document.documentElement.scrollWidth > WIDTH || innerWidth > WIDTH ? ['the page'] : [])""".replace(
            "WIDTH", str(width)
        )
    )
    return found


def test_axe_finds_no_serious_barrier(served: Served, windows: Windows, record_exercised: Record) -> None:
    looked = 0
    for width, phone in ((1280, False), (390, True)):
        window = windows.open(served.address, width=width, height=844, phone=phone)

        def look(window: Window = window) -> int:
            for scheme in SCHEMES:
                window.page.emulate_media(color_scheme=scheme)
                assert window.ask(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
                assert barriers(window) == [], scheme
            return len(SCHEMES)

        window.until("window.arena && arena.state.link === 'open'")
        looked += look()
        window.page.click("#go")
        window.until("document.getElementById('name-problem').textContent")
        looked += look()
        enter(window, f"Axe {width}", "w4")
        window.page.fill("#words", "hello")
        window.page.keyboard.press("Enter")
        window.until("document.getElementById('chat').textContent.includes('hello')")
        looked += look()
        windows.close()
    assert looked == 12
    record_exercised("states of the page that axe-core looked at", looked)


@pytest.mark.parametrize("served", FRONTS, indirect=True)
def test_a_lost_connection_is_said_and_comes_back(served: Served, windows: Windows) -> None:
    window = windows.open(served.address, width=390, height=844, phone=True)
    enter(window, "Ada", "w5")
    window.ask(
        """void (globalThis.said = [], new MutationObserver(() =>
            said.push(document.getElementById('banner-text').textContent)
        ).observe(document.getElementById('banner-text'), { childList: true, characterData: true, subtree: true }))"""
    )
    served.break_off()
    window.until("said.includes('The connection is gone.')")
    assert overflow(window, 390) == []
    served.come_back()
    window.until(
        "arena.state.entries === 2 && document.getElementById('banner').hidden",
        timeout_s=40,
    )
    window.until("arena.state.frame !== null && arena.players.Ada")
    walk(window, "Ada")


def test_keys_alone_suffice(served: Served, windows: Windows) -> None:
    window = windows.open(served.address)
    window.until("window.arena && arena.state.link === 'open'")
    page = window.page
    page.focus("#name")
    page.keyboard.type("Key")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")  # the second world
    page.keyboard.press("Enter")
    window.until("arena.state.world === 'w2' && arena.players.Key && document.activeElement.id === 'stage'")
    page.keyboard.press("l")
    window.until("/chest/.test(document.getElementById('whispers').textContent)")
    page.keyboard.press("Enter")
    assert window.ask("document.activeElement.id") == "words"
    page.keyboard.type("wasd")
    page.keyboard.press("Enter")
    window.until("document.getElementById('chat').textContent.includes('Key wasd')")
    page.keyboard.press("Escape")
    assert window.ask("document.activeElement.id") == "stage"


@pytest.mark.skipif("gateway" not in FRONTS, reason="the arena has no gateway")
@pytest.mark.parametrize("served", ["gateway"], indirect=True)
@pytest.mark.parametrize("component", ["web", "physics", "game", "chat", "auth"])
def test_the_game_goes_on_when_a_part_dies(
    served: Served, windows: Windows, component: str, record_exercised: Record
) -> None:
    assert isinstance(served, ByGateway)
    window = windows.open(served.address)
    enter(window, "Ada", "w2")
    window.page.fill("#words", "before")
    window.page.keyboard.press("Enter")
    window.until("document.getElementById('chat').textContent.includes('Ada before')")
    killed = served.kill(component)
    assert killed >= 1
    if component == "web":
        window.until("arena.state.entries === 2", timeout_s=40)
    window.until("arena.state.link === 'open'")
    last = window.ask("arena.frames.length ? arena.frames.at(-1).n : -1")
    window.until(f"arena.frames.at(-1).n !== {last} && arena.players.Ada", timeout_s=40)
    walk(window, "Ada")
    for attempt in range(10):  # a state that was lost is told once to everybody who used it
        window.page.fill("#words", f"after {attempt}")
        window.page.keyboard.press("Enter")
        shown = f"document.getElementById('chat').textContent.includes('Ada after {attempt}')"
        if window.until(f"({shown}) ? 'said' : document.getElementById('toast').hasAttribute('data-on')") == "said":
            break
        window.until(f"({shown}) || !document.getElementById('toast').hasAttribute('data-on')")
    else:
        raise AssertionError("nobody can talk any more")
    record_exercised("shards of the arena killed behind a browser", killed)
