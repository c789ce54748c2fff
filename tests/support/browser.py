"""A real browser for tests: headless Chromium of the machine, driven by playwright; axe-core looks for barriers.

Pages are asked by ``evaluate`` alone, which goes by the browser's debugging port: a page's content security policy stays
in force, and whatever it refuses shows in ``Window.complaints``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Error, Page, sync_playwright

__all__ = ["Barrier", "Window", "Windows", "barriers", "chromium", "open_windows"]

# The policy of a page may forbid code made from text at run time, so the condition is written in here.
_WAIT = """([name, timeout_ms]) => new Promise((done, failed) => {
    const end = performance.now() + timeout_ms;
    (function again() {
        let value = null, wrong = "";
        try { value = (CONDITION); } catch (error) { wrong = `: ${error}`; }
        if (value) done(value);
        else if (performance.now() > end) failed(new Error(`not within ${timeout_ms} ms: ${name}${wrong}`));
        else setTimeout(again, 20);
    })();
})"""


_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def chromium() -> str | None:
    """The browser of this machine, or None. The one without windows of its own comes first: it takes less of the machine."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


@dataclass(slots=True)
class Window:
    """One page in a context of its own: cookies and storage are shared with no other."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def until(self, condition: str, *, timeout_s: float = 20.0) -> Any:
        """Wait until the JavaScript expression is true in the page; its value. Raises playwright's Error."""
        return self.page.evaluate(_WAIT.replace("CONDITION", condition), [condition, timeout_s * 1000])

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.page.evaluate(f"() => ({expression})")


class Windows:
    """Windows of one browser."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def open(
        self, address: str, *, width: int = 1280, height: int = 800, dark: bool = False, phone: bool = False
    ) -> Window:
        """A fresh window at the address. ``phone`` has a touch screen and the layout of a mobile browser."""
        context = self._browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            has_touch=phone,
            is_mobile=phone,
            locale="en-GB",
        )
        self._contexts.append(context)
        context.set_default_timeout(20_000)
        window = Window(context.new_page())
        window.page.on("pageerror", lambda error: window.complaints.append(str(error)))
        window.page.on("console", lambda message: _note(window, message))
        window.page.goto(address)
        return window

    def close(self) -> None:
        """Close every window."""
        while self._contexts:
            self._contexts.pop().close()


def _note(window: Window, message: ConsoleMessage) -> None:
    if message.type in ("error", "warning"):
        window.complaints.append(message.text)


@contextmanager
def open_windows(executable: str) -> Iterator[Windows]:
    """A browser, until the end of the block. Raises playwright's Error where it does not start."""
    arguments: Sequence[str] = (
        "--no-sandbox",  # tests run as root, in containers that permit no user namespaces
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(arguments))
        windows = Windows(browser)
        try:
            yield windows
        finally:
            try:
                windows.close()
            except Error:  # the browser is gone: nothing is left to be closed
                pass
            browser.close()


@dataclass(frozen=True, slots=True)
class Barrier:
    """What keeps somebody from using the page, as axe-core names it."""

    rule: str
    impact: str
    help: str
    where: tuple[str, ...]


def barriers(window: Window, *, at_least: Sequence[str] = ("serious", "critical")) -> list[Barrier]:
    """What axe-core finds in the page, of these impacts."""
    source = files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    window.page.evaluate(source)
    found = window.page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    return [
        Barrier(
            violation["id"],
            violation["impact"],
            violation["help"],
            tuple(f"{node['target']} {node['failureSummary']}" for node in violation["nodes"]),
        )
        for violation in found["violations"]
        if violation["impact"] in at_least
    ]
