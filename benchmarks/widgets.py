"""Time of TokenLens from the page's start to its first paint, and from a click to the response.

    python benchmarks/widgets.py                      # 1k, 5k and 20k tokens, five times each
    python benchmarks/widgets.py --tokens 100000 --repeat 3
    python benchmarks/widgets.py --lab                # in JupyterLab, with a kernel

In plain Chromium on offline pages, without a kernel: `python` is the time to create the widget's data, `script` that of
the module's `render`, `paint` from the start of `render` to the frame that shows it, `move` and `click` from a key or a
click to the frame with both distributions, `colour` to recolour every token; the page's size is in MiB. In JupyterLab:
`cell to paint` from running the cell that creates the widget to the frame with all tokens, `click to Python and back`
until a title that Python sets on the click is shown. Medians in milliseconds.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import nbformat
from playwright.sync_api import Page, sync_playwright
from vpdlab_widgets import TokenLens

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from lab_server import jupyterlab
from offline_browser import FLAGS

WORDS = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "with", "be", "not", "this"]
COLUMNS = ("python", "script", "paint", "move", "click", "colour")

# Renders the page's widget again, with timing.
RENDER = """async () => {
  const { modules, data: buffers, models } = JSON.parse(document.getElementById('vpd-widgets').textContent);
  const url = URL.createObjectURL(new Blob([modules[0]], { type: 'text/javascript' }));
  const { default: widget } = await import(url);
  const entry = Object.values(models)[0];
  const state = structuredClone(entry.state);
  for (const { path, data } of entry.buffers) {
    const parent = path.slice(0, -1).reduce((node, key) => node[key], state);
    parent[path.at(-1)] = new DataView(Uint8Array.from(atob(buffers[data]), (c) => c.charCodeAt(0)).buffer);
  }
  const listeners = {};
  const model = {
    get: (key) => state[key], set: (key, value) => { state[key] = value; listeners[`change:${key}`]?.(); },
    on: (name, call) => { listeners[name] = call; }, off() {}, save_changes() {}, send() {},
  };
  document.querySelector('main').replaceChildren();
  const el = document.createElement('div');
  document.querySelector('main').append(el);
  const painted = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  await painted();
  const clock = async (act) => {
    const start = performance.now();
    act();
    await painted();
    return performance.now() - start;
  };
  const times = {};
  let start = performance.now();
  widget.render({ model, el });
  times.script = performance.now() - start;
  await painted();
  times.paint = performance.now() - start;
  const stage = el.querySelector('.vpd-tl-stage');
  const key = (name) => () => stage.dispatchEvent(new KeyboardEvent('keydown', { key: name }));
  times.move = await clock(key('ArrowRight'));
  times.click = await clock(() => stage.querySelectorAll('.vpd-tok')[7].click());
  times.colour = await clock(key('c'));
  return times;
}"""


def record(tokens: int, seed: int = 0, top: int = 10) -> dict:
    """A response of random words with plausible numbers."""
    rng = random.Random(seed)
    words = ["\n" if i % 80 == 79 else " " + rng.choice(WORDS) for i in range(tokens)]
    student = [-rng.expovariate(2) for _ in words]
    teacher = [min(-1e-4, value + rng.gauss(0, 0.4)) for value in student]
    lists = [[word, *(" " + rng.choice(WORDS) for _ in range(top - 1))] for word in words]
    logps = [[math.log(0.6 / 2**place) for place in range(top)]] * tokens
    return {
        "prompt": "Write.", "text": "".join(words), "success": True, "beta": 0.1, "tokens": words,
        "student_logp": student, "teacher_logp": teacher, "kl": [rng.expovariate(9) for _ in words],
        "student_entropy": [rng.random() for _ in words], "teacher_entropy": [rng.random() for _ in words],
        "student_top": lists, "student_top_logp": logps, "teacher_top": lists, "teacher_top_logp": logps,
    }  # fmt: skip


def measure(page: Page, tokens: int, folder: Path, repeat: int) -> dict[str, float]:
    """Medians of `repeat` renders of one page."""
    data = record(tokens)
    started = time.perf_counter()
    lens = TokenLens(data)
    made = 1000 * (time.perf_counter() - started)
    path = folder / f"{tokens}.html"
    lens.to_html(path)
    page.goto(path.as_uri())
    page.wait_for_selector(".vpd-tl-stage")
    runs = [page.evaluate(RENDER) for _ in range(repeat)]
    medians = {name: statistics.median(run[name] for run in runs) for name in COLUMNS[1:]}
    return {"python": made, **medians, "size": path.stat().st_size / 2**20}


# Runs the second cell repeatedly; each time clicks, and waits for Python's response.
LAB = """async ({ tokens, repeat }) => {
  const notebook = jupyterapp.shell.currentWidget;
  // Resolves after the first frame that shows it: what a frame's callback finds is painted in that very frame.
  const until = (ready) => new Promise((done) => {
    const look = () => (ready() ? setTimeout(done) : requestAnimationFrame(look));
    requestAnimationFrame(look);
  });
  const found = { paint: [], click: [] };
  for (let i = 0; i < repeat; i++) {
    await jupyterapp.commands.execute('notebook:clear-all-cell-outputs');
    await until(() => !document.querySelector('.vpd-tl'));
    notebook.content.activeCellIndex = 1;
    let start = performance.now();
    jupyterapp.commands.execute('notebook:run-cell');
    await until(() => document.querySelectorAll('.vpd-tl-stage .vpd-tok').length === tokens);
    found.paint.push(performance.now() - start);
    await new Promise((done) => setTimeout(done, 500));
    const place = 7 + i;
    start = performance.now();
    document.querySelectorAll('.vpd-tl-stage .vpd-tok')[place].click();
    await until(() => document.querySelector('.vpd-title').textContent === `token ${place}`);
    found.click.push(performance.now() - start);
  }
  return found;
}"""
IMPORTS = "import sys; sys.path.insert(0, FOLDER); from vpdlab_widgets import TokenLens; from widgets import record"
CELL = """lens = TokenLens(data)
lens.observe(lambda change: setattr(lens, "title", f"token {change.new}"), "selected")
lens"""


def measure_lab(page: Page, address: str, tokens: int, folder: Path, repeat: int) -> dict[str, float]:
    """Medians of `repeat` runs of a cell that creates a widget."""
    cells = [f"{IMPORTS.replace('FOLDER', repr(str(Path(__file__).parent)))}; data = record({tokens})", CELL]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / f"{tokens}.ipynb")
    page.goto(address.format(f"{tokens}.ipynb"))
    idle = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
    page.wait_for_function(idle)
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector(".vpd-tl-stage .vpd-tok")
    found = page.evaluate(LAB, {"tokens": tokens, "repeat": repeat})
    return {name: statistics.median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1_000, 5_000, 20_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--lab", action="store_true", help="in JupyterLab instead of plain Chromium")
    args = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    heads = ["cell to paint", "click to Python and back"] if args.lab else [*COLUMNS, "MiB"]
    print(f"| tokens | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        address = ""
        if args.lab:
            lab = stack.enter_context(jupyterlab(folder))
            address = f"{lab.address}/lab/tree/{{}}?reset&token={lab.token}"
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        stack.callback(browser.close)
        for tokens in args.tokens:
            # A new page: one with unsaved work would block navigation.
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            if args.lab:
                found = measure_lab(page, address, tokens, folder, args.repeat)
            else:
                found = measure(page, tokens, folder, args.repeat)
            cells = [f"{value:.2f}" if key == "size" else f"{value:.0f}" for key, value in found.items()]
            print(f"| {tokens} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
