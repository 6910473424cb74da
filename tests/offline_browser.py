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


@contextmanager
def offline_page(chromium: str, path: Path, **context: Any) -> Iterator[Any]:
    """A playwright page showing `path`; on leaving, fails on any console error or any request that is not local.

    Args:
        chromium: the program.
        path: an HTML file.
        context: options of playwright's `new_page`, such as `color_scheme="dark"`.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("missing: playwright (pip install playwright)")
    errors: list[str] = []
    requests: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **context})
            page.set_default_timeout(15_000)
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("request", lambda request: requests.append(request.url))
            page.goto(path.resolve().as_uri())
            yield page
        finally:
            browser.close()
    assert errors == [], errors
    assert [url for url in requests if not url.startswith(("file:", "blob:", "data:"))] == []


def status(page: Any) -> str:
    """What the widget on the page tells a screen reader."""
    return re.sub(r"\s+", " ", page.locator("[role=status]").inner_text())
