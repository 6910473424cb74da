"""Open a page from a file in Chromium, and hold it to what every page of ours promises: no request, no error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]


# Each widget has come to life, or has said why not; then the frames in which it learns its width and draws again.
LIVES = """() => [...document.querySelectorAll('.vpd-mount[data-vpd-model]')].every((place) =>
  place.querySelector(':scope > [role=alert]') ||
    (place.children.length === 1 && place.querySelector(':scope > .vpd-view')))"""
FRAMES = """() => new Promise((done) =>
  requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))"""

_open: list[Any] = []  # playwright, and the browser that it started


def browser_of(chromium: str) -> Any:
    """The browser of all pages of a test file: starting one takes longer than most tests of a page."""
    if _open and not _open[1].is_connected():  # it crashed: that is one test's failure, not the next one's
        close_browser()
    if not _open:
        try:
            from playwright.sync_api import sync_playwright
        except ImportError:
            pytest.skip("missing: playwright (pip install playwright)")
        playwright = sync_playwright().start()
        _open.append(playwright)
        _open.append(playwright.chromium.launch(executable_path=chromium, args=FLAGS))
    return _open[1]


def close_browser() -> None:
    """End the browser. As long as there is one, asyncio has a running loop here, and papermill cannot start its own."""
    if _open:
        playwright, *browsers = _open
        _open.clear()
        for browser in browsers:
            browser.close()
        playwright.stop()


@contextmanager
def offline_page(chromium: str, path: Path, **context: Any) -> Iterator[Any]:
    """A playwright page showing `path`, its widgets drawn.

    On leaving, fails on any console error or any request that is not local.

    Every page has a context of its own: no storage, history or permission of another one.

    Args:
        chromium: the program.
        path: an HTML file.
        context: options of playwright's `new_page`, such as `color_scheme="dark"`.
    """
    errors: list[str] = []
    requests: list[str] = []
    page = browser_of(chromium).new_page(**{"viewport": {"width": 1280, "height": 900}, **context})
    try:
        page.set_default_timeout(15_000)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.resolve().as_uri())
        if context.get("java_script_enabled", True):
            page.wait_for_function(LIVES)
            page.evaluate(FRAMES)
        yield page
    finally:
        page.close()
    assert errors == [], errors
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []


def status(page: Any) -> str:
    """What the widget on the page tells a screen reader."""
    return re.sub(r"\s+", " ", page.locator("[role=status]").inner_text())
