"""Markup that must stay text, planted into every text of a run, and a browser that tells whether it did."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offline_browser import offline_page

from vpdlab.config import HINTS, RunConfig
from vpdlab.errors import UserError

ELSEWHERE = "planted.invalid"
# Each ends what might be open, and tries to run, to leave, to ask, to link or to dress. All hold the word "plant", so
# that whatever came of one can be found.
PIECES = (
    '<script>window.planted="script"</script>',
    '</script></style></textarea></title><script>window.planted="end"</script>',
    '"><svg class="plant" onload="window.planted=\'svg\'">',
    '\'><img class="plant" src=x onerror="window.planted=\'img\'">',
    f'<a class="plant" href="https://{ELSEWHERE}/plant">link</a>',
    '<a class="plant" href="javascript:window.planted=\'href\'">link</a>',
    f'<meta class="plant" http-equiv="refresh" content="0;url=https://{ELSEWHERE}/">',
    f'<base class="plant" href="https://{ELSEWHERE}/">',
    f'<iframe class="plant" srcdoc="<script>parent.planted=1</script>"></iframe><object data="//{ELSEWHERE}"></object>',
    f'<form class="plant" action="https://{ELSEWHERE}"><input name=plant autofocus onfocus="window.planted=1"></form>',
    '<style class="plant">main{display:none}</style><b class="plant">bold</b><plant-x>tag</plant-x>',
    '<div id="vpd-widgets" class="plant">{"modules":["window.planted=1"]}</div><div id="vpd-figures">[]</div>',
    '<span class=plant style="position:fixed;inset:0;background:url(https://planted.invalid/c)">x</span>',
    f"[link](https://{ELSEWHERE}/plant) ![image](https://{ELSEWHERE}/plant.png) [js](javascript:window.planted=1)",
    "`</code><img src=x onerror=window.planted=1>` | cell | **strong plant**\n\n# heading plant\n",
    "$$\\href{javascript:window.planted=1}{x}$$ \\(\\href{https://planted.invalid}{x}\\) $\\unicode{x}$",
    "\x1b[31mred\x1b[0m \x1b]0;plant\x07 \u202eplant\u2066 %{y} %{customdata} {{ plant }} {plant} %s",
    "<sup>plant</sup><br><i>plant</i><span style='color:red'>plant</span>&lt;b&gt;plant",
)
TEXT = " ".join(PIECES)
NAME = 'a<img class=plant src=x onerror=planted=1> $$\\href{x}{y}$$ "><svg class=plant onload=planted=1> `*b*`&lt;'


def plant(folder: Path) -> None:
    """Put TEXT into every text that a recorded run holds: files of JSON, lines of JSON and rollouts."""
    path = folder / "config.json"
    path.write_text(json.dumps({**_settings(json.loads(path.read_text())), TEXT: TEXT}))
    for name in ("environment.json", "status.json"):
        path = folder / name
        path.write_text(json.dumps({**_planted(json.loads(path.read_text()), name), TEXT: TEXT}))
    for name in ("metrics.jsonl", "eval.jsonl"):
        path = folder / name
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            row |= {TEXT: 1.0, f"{TEXT} too": TEXT, "notes": TEXT}
            if "warnings" in row:
                row["warnings"] = [f"{TEXT}: {TEXT}", f"named: {TEXT}"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in (folder / "rollouts").glob("*.parquet"):
        table = pq.read_table(path)
        rows = [_planted(row, "rollouts") for row in table.to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Settings with TEXT in each that may be any text."""
    found = dict(config)
    for name in (name for name in HINTS if name in config):
        tried = {**found, name: _planted(config[name], name)}
        try:
            RunConfig.make(**{known: tried[known] for known in HINTS if known in tried})
        except UserError:
            continue  # one of a few words, or a number
        found = tried
    assert sum(TEXT in str(value) for value in found.values()) >= 2
    return found


# What the notebooks choose by, or count with; everything else that is text may be anything.
_KEPT = {"state", "source", "version"}


def _planted(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return {key: item if key in _KEPT else _planted(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_planted(item, where) for item in value]
    return f"{value} {TEXT}" if isinstance(value, str) else value


FOUND = """(theirs) => {
  const bad = [];
  const tell = (what, node) => bad.push(`${what}: ${(node.outerHTML ?? "").slice(0, 200)}`);
  if (window.planted !== undefined) bad.push(`a script ran: ${window.planted}`);
  const all = "meta[http-equiv=refresh], base, iframe, object, embed, form, main style, main link, svg .plant";
  for (const node of document.querySelectorAll(all)) tell("an element", node);
  for (const node of document.querySelectorAll("*"))
    for (const { name, value } of node.attributes)
      if (name.startsWith("on") || (/^(href|xlink:href|formaction)$/.test(name) && /^\\s*javascript:/i.test(value)))
        tell(`an attribute ${name}`, node);
      else if (name === "style" && /position: *fixed|url\\(["']?[^"'#]/i.test(value)) tell("a style", node);
      else if (/^(src|action|data|srcset|poster)$/.test(name) && !/^(data|blob):/.test(value)) tell(name, node);
  if (theirs) return bad; // a link or a bold word that the notebook's author wrote
  for (const node of document.querySelectorAll(".plant, plant-x, [href*=planted], a [href]")) tell("an element", node);
  for (const node of document.querySelectorAll("b, strong, h1, i, em, sup, tspan[style*=bold], tspan[style*=italic]"))
    if (node.textContent.includes("plant") && !node.textContent.includes("<")) tell("dressed", node);
  return bad;
}"""


@contextmanager
def opened(chromium: str, path: Path, theirs: bool = False) -> Iterator[Any]:
    """The page in a browser; on leaving, fails where anything came of what was planted.

    Args:
        theirs: the notebook is its author's own writing, where harmless tags may be tags.
    """
    with offline_page(chromium, path) as page:
        address, seen = page.url, []
        page.on("framenavigated", lambda frame: seen.append(frame.url.partition("#")[0]))
        page.on("popup", lambda other: seen.append(other.url))
        yield page
        page.wait_for_timeout(300)  # time for a refresh
        # A selection becomes the fragment of the address, in numbers alone; that is no navigation.
        assert re.fullmatch(
            r"(#(step=\d+&rollout=\d+|followed=\d+&step=\d+)(&token=\d+)?)?", page.url.removeprefix(address)
        )
        assert {*seen} <= {address}
        found = page.evaluate(FOUND, theirs)
        assert found == [], found
        if not theirs:
            assert "<script>window.planted" in page.evaluate("document.body.textContent")


def hover_everything(page: Any) -> int:
    """Hover the first points of every trace of every figure, and hold that no label has links; counts the labels."""
    page.locator(".js-plotly-plot .main-svg").first.wait_for(state="attached")  # plotly.js is unpacked first
    return page.evaluate(
        """async () => {
          let count = 0;
          const pause = () => new Promise((done) => setTimeout(done, 60));
          for (const place of document.querySelectorAll(".js-plotly-plot")) {
            for (const [curveNumber] of place.data.entries()) {
              try { Plotly.Fx.hover(place, [{ curveNumber, pointNumber: 0 }]); } catch { continue; }
              await pause();
              for (const layer of place.querySelectorAll(".hoverlayer")) {
                count += layer.querySelectorAll("text").length;
                if (layer.querySelector("a, [*|href]")) throw new Error("a link in a hover label");
              }
            }
          }
          return count;
        }"""
    )
