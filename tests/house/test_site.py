"""The documentation site: it builds in strict mode, its links hold, and it works in a browser without a network."""

from __future__ import annotations

import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import pytest
from offline_browser import offline_page

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "10_teacher_logits"


class Document(HTMLParser):
    """The addresses and the ids of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {value for name in ("id", "name") if (value := given.get(name))}
        self.addresses |= {value for name in ("href", "src") if (value := given.get(name))}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with one notebook."""
    folder = tmp_path_factory.mktemp("site") / "docs"
    command = [sys.executable, ROOT / "docs" / "make_site.py", "--notebooks", NOTEBOOK, "--out", folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def broken(path: Path, address: str, pages: dict[Path, Document]) -> bool:
    """Whether an address of a page leads to no file of the site, or to no place on its page."""
    parts = urllib.parse.urlsplit(address)
    if parts.scheme:
        return parts.scheme not in ("https", "data")
    target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
    place = urllib.parse.unquote(parts.fragment)
    return not target.exists() or bool(place and target in pages and place not in pages[target].ids)


def test_every_address_leads_to_a_file_of_the_site(site: Path) -> None:
    files = [path.resolve() for path in site.rglob("*.html") if not path.name.endswith(".full.html")]
    pages = {path: Document(path) for path in files if path.name != "404.html"}  # that one may be served at any depth
    assert [
        (path.name, one) for path, page in pages.items() for one in page.addresses if broken(path, one, pages)
    ] == []
    assert {"index.html", "settings.html", f"{NOTEBOOK}.html", "losses.html"} <= {path.name for path in pages}


@pytest.mark.parametrize(("scheme", "name"), [("light", "default"), ("dark", "slate")])
def test_the_site_works_without_a_network(site: Path, chromium: str, scheme: str, name: str) -> None:
    """From files, as `make docs` leaves them: colours, search, an executed notebook's widgets, the reference."""
    with offline_page(chromium, site / "index.html", color_scheme=scheme) as page:
        assert page.evaluate("document.body.dataset.mdColorScheme") == name
        other = {"light": "dark", "dark": "light"}[scheme]
        assert page.locator(f"img[src*='belief-{scheme}']").is_visible()
        assert not page.locator(f"img[src*='belief-{other}']").is_visible()
        page.keyboard.press("Control+k")
        page.locator("input[placeholder=Search], input[type=search]").locator("visible=true").fill("implicit reward")
        page.get_by_text(re.compile(r"^\d+ results?$")).wait_for()
        page.goto((site / "notebooks" / f"{NOTEBOOK}.html").as_uri())
        frame = page.frame_locator(".vpd-notebook")
        frame.locator(".vpd-tl-stage .vpd-tok").first.click()
        assert frame.locator(".vpd-rt").count() == frame.locator(".vpd-ci").count() == 1
        assert "log q/π" in frame.locator(".vpd-tl-figures").inner_text()
        page.goto((site / "reference" / "losses.html").as_uri())
        assert page.locator("[id='vpdlab.losses.bco_loss']").count() == 1
