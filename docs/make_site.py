"""The documentation site, in build/docs: `make docs`.

    python docs/make_site.py                          # everything; executes the notebooks that the cache lacks
    python docs/make_site.py --notebooks              # without notebooks: seconds
    python docs/make_site.py --notebooks 00_tour      # with one
    python docs/make_site.py --notebooks --out DIR    # somewhere else

The pages of docs/ are copied; the first page is made from README.md, one page from each notebook, one page of reference
from each room of `vpdlab`, and one holds the bundled models, alive. Zensical, which reads mkdocs.yml, turns them into
HTML; a broken link or anchor ends the build with status 1.
"""

from __future__ import annotations

import argparse
import ast
import html
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from vpdlab_widgets import LiveModel, write_page

import notebooks
from vpdlab.zoo import BUNDLED, live

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vpdlab"
TOP = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LOG.md": "log.md",
}
COMMANDS = "cli"  # its docstrings are what --help prints
PICTURE = re.compile(r'<picture>.*?<img alt="([^"]*)" src="([^"]*)-light\.png">\s*</picture>', re.DOTALL)
NOTEBOOKS = """# Notebooks

Executed on the bundled model. The widgets are live: click, hover, use the arrow keys. To change the code, open the
notebooks in JupyterLab with `make lab`.

| notebook | subject |
|---|---|"""
FRAME = """# {title}

{summary}

[Open the whole page]({name}.full.html){{ .md-button }} `notebooks/{name}.ipynb`

<iframe class="vpd-notebook" src="{name}.full.html" title="{title}" loading="lazy"></iframe>
<div class="vpd-search-only" hidden>{text}</div>
"""

LIVE = """# A live model

Both bundled models answer on this page, in your browser, without a kernel and without a request. The `reader` has never
met the made-up words; the critique says what they mean. The `apprentice` adds numbers.

Edit problem and critique, change the temperature, select a token and force another one: the answer continues there.
[What it shows](widgets.md#a-model-that-answers-in-the-page).

[Open the whole page](live.full.html){ .md-button }

<iframe class="vpd-notebook" src="live.full.html" title="A live model" loading="lazy"></iframe>
"""


def site_page(text: str) -> str:
    """A page of the repository as a page of the site.

    Links follow the pages of the repository's root to their new names, and pictures the site's own switch between light
    and dark.
    """
    text = PICTURE.sub(r"![\1](\2-light.png#only-light)\n![\1](\2-dark.png#only-dark)", text)
    for name, page in TOP.items():
        text = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({page}", text)
    return text.replace("](docs/", "](").replace("[CITATION.cff](CITATION.cff)", "`CITATION.cff`")


def notebook_page(name: str) -> str:
    """The page that frames an executed notebook. Its hidden text is the notebook's prose, for the search."""
    cells = notebooks.prose(name)
    summary = "\n\n".join(cells[0].split("\n\n")[1:2])
    text = " ".join(re.sub(r"<[^>]*>|[#*`$|]", " ", "\n".join(cells)).split())
    title = html.escape(notebooks.title(name), quote=True)
    return FRAME.format(name=name, title=title, summary=summary, text=html.escape(text))


def notebook_index(chosen: list[str]) -> str:
    """All notebooks; those of this build with a link."""
    lines = [
        f"| {f'[{name}]({name}.md)' if name in chosen else f'`{name}`'} | {notebooks.title(name)} |"
        for name in notebooks.names()
    ]
    return "\n".join([NOTEBOOKS, *lines, ""])


def live_page() -> str:
    """The bundled models, alive, as one offline page."""
    return write_page([LiveModel(**live.bundled(name), title=f"The {name}") for name in BUNDLED], title="A live model")


def rooms() -> list[str]:
    """The public packages and modules directly inside `vpdlab`, but for the commands."""
    found = [p.stem for p in PACKAGE.glob("*.py")] + [p.parent.name for p in PACKAGE.glob("*/__init__.py")]
    return sorted(name for name in found if not name.startswith("_") and name != COMMANDS)


def source(room: str) -> Path:
    """The file that holds a room's docstring."""
    package = PACKAGE / room / "__init__.py"
    return package if package.is_file() else PACKAGE / f"{room}.py"


def reference(room: str) -> str:
    """The page of a room: the docstrings and public members of all its modules."""
    inner = [path.relative_to(ROOT).with_suffix("") for path in (PACKAGE / room).rglob("*.py") if path.name[0] != "_"]
    names = [f"vpdlab.{room}", *sorted(".".join(path.parts) for path in inner)]
    first, *others = names
    return (
        "\n\n".join([f"::: {first}\n    options:\n      heading_level: 1", *(f"::: {name}" for name in others)]) + "\n"
    )


def reference_index() -> str:
    """The rooms, each with the first sentence of its docstring."""
    lines = []
    for room in rooms():
        text = ast.get_docstring(ast.parse(source(room).read_text(encoding="utf-8"))) or ""
        first = " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")
        lines.append(f"| [`vpdlab.{room}`]({room}.md) | {first} |")
    return "\n".join(
        ["# Reference\n\nPublic names, from the docstrings.\n\n| module | contents |\n|---|---|", *lines, ""]
    )


def write_source(folder: Path, chosen: list[str]) -> list[Any]:
    """Write all pages as Markdown; returns what the navigation has beyond mkdocs.yml."""
    docs = ROOT / "docs"
    for path in [*docs.glob("*.png"), *docs.glob("assets/*")]:
        (folder / path.relative_to(docs)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.relative_to(docs))
    pages = {page: ROOT / name for name, page in TOP.items()} | {path.name: path for path in docs.glob("*.md")}
    made = {page: site_page(path.read_text(encoding="utf-8")) for page, path in pages.items()}
    made |= {"live.md": LIVE, "notebooks/index.md": notebook_index(chosen), "reference/index.md": reference_index()}
    made |= {f"notebooks/{name}.md": notebook_page(name) for name in chosen}
    made |= {f"reference/{room}.md": reference(room) for room in rooms()}
    for name, text in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return [
        {"Live model": "live.md"},
        {"Notebooks": [name for name in made if name.startswith("notebooks/")]},
        {"Reference": ["reference/index.md", *({f"vpdlab.{room}": f"reference/{room}.md"} for room in rooms())]},
        {"Project": [page for page in TOP.values() if page != "index.md"]},
    ]


def build(out: Path, chosen: list[str]) -> int:
    """Build the site; returns the exit status of Zensical in its strict mode."""
    work = out.with_name(f"{out.name}-source")
    for folder in (work, out):
        if folder.exists():
            shutil.rmtree(folder)
    navigation = write_source(work / "pages", chosen)
    (work / "pages" / "live.full.html").write_text(live_page(), encoding="utf-8")
    for name in chosen:
        print(f"notebook {name}", flush=True)
        shutil.copy(notebooks.page(name), work / "pages" / "notebooks" / f"{name}.full.html")
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    config |= {"docs_dir": "pages", "site_dir": "site", "nav": [*config["nav"], *navigation]}
    for plugin in config["plugins"]:
        if isinstance(plugin, dict) and "mkdocstrings" in plugin:
            python = plugin["mkdocstrings"]["handlers"]["python"]
            python["paths"] = [str(ROOT / path) for path in python["paths"]]
            python["options"]["extensions"] = [str(ROOT / path) for path in python["options"]["extensions"]]
    file = work / "mkdocs.yml"
    file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    status = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "-f", file], check=False).returncode
    if status == 0:
        (work / "site").rename(out)  # it builds inside its own folder only
    return status


def main() -> int:
    """Parse the options, build, say where the site is."""
    parser = argparse.ArgumentParser(description="Build the documentation site.")
    parser.add_argument("--notebooks", nargs="*", choices=notebooks.names(), default=notebooks.names(), metavar="NAME")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs")
    chosen = parser.parse_args()
    status = build(chosen.out, chosen.notebooks)
    print(f"open {chosen.out / 'index.html'}" if status == 0 else "the site was not built", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
