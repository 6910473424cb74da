"""The training notebook in real JupyterLab, in a headless browser: it runs, the timeline lives, nothing leaves."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from offline_browser import FLAGS

from vpdlab import headless
from vpdlab.record import load_run

pytestmark = pytest.mark.slow
SCREENSHOTS = Path("build/screenshots")
IDLE = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"


@pytest.fixture
def lab(tmp_path) -> Iterator[tuple[str, Path]]:
    """A JupyterLab of its own on a folder with a small training notebook: (address, folder)."""
    notebook = nbformat.read(headless.notebooks() / "train.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source += "\nsteps, out, prompts, group, eval_problems = 12, 'runs/lab', 4, 4, 16\ne_every, eval_every = 3, 4"
    nbformat.write(notebook, tmp_path / "train.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    private = {f"JUPYTER_{kind}_DIR": str(tmp_path / ".jupyter" / kind.lower()) for kind in ("CONFIG", "RUNTIME")}
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    env = os.environ | private | {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / ".ws")}
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}")
        yield f"http://127.0.0.1:{port}/lab/tree/train.ipynb?token={token}", tmp_path
    finally:
        server.terminate()
        server.wait(timeout=20)


def wait_for(address: str, seconds: float = 60) -> None:
    """Until the server answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.3)


def test_the_training_notebook_lives_in_jupyterlab(lab, chromium):
    from playwright.sync_api import sync_playwright

    address, folder = lab
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1600})
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("request", lambda r: None if is_local(r.url) else problems.append(f"request to {r.url}"))
        page.goto(address)
        page.wait_for_function(IDLE, timeout=90_000)
        page.wait_for_timeout(1500)  # the widget manager shakes hands with the kernel after it became idle
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait_for_selector("svg[data-panel]", timeout=90_000)
        wait_until_complete(folder / "runs" / "lab")
        page.wait_for_function(IDLE, timeout=60_000)
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
        stage = page.locator(".vpd-emt-stage")
        stage.scroll_into_view_if_needed()
        stage.focus()
        page.keyboard.press("Home")
        assert "iteration 1" in " ".join(
            page.locator(".vpd-emt-stage ~ [role=status], [role=status]").all_inner_texts()
        )
        page.screenshot(path=str(SCREENSHOTS / "lab-train-light.png"))
        page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        page.wait_for_timeout(1500)
        page.screenshot(path=str(SCREENSHOTS / "lab-train-dark.png"))
        browser.close()
    assert load_run(folder / "runs" / "lab").status["state"] == "complete"
    assert [text for text in problems if "favicon" not in text] == []


def is_local(url: str) -> bool:
    return url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "blob:", "data:"))


def wait_until_complete(run: Path, seconds: float = 150) -> None:
    """Until the run says how it ended."""
    end = time.monotonic() + seconds
    while not (run / "status.json").exists() or load_run(run).status["state"] == "running":
        assert time.monotonic() < end, "the run did not end"
        time.sleep(0.5)
