"""The pictures of the widgets in README.md and docs, made again from runs recorded here and now:

    python docs/pictures.py                # docs/{belief,lens,influence,timeline,history}-{light,dark}.png
    python docs/pictures.py --only belief
    python docs/pictures.py --out /tmp/x   # somewhere else

Needs Chromium; about five minutes. Belief is of three runs of `words-liar` (seeds 20 to 22): their mean and range. The
lens and the influence are of one iteration of `tour-rare` on the bundled model, as in notebook 10, the timeline is of
sixty iterations of `tour-common`, the history of eighty of `words-liar`, as in notebook 20; seeds are fixed, and the
numbers in them are those of the machine that made them.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright
from vpdlab_widgets import CritiqueInfluence, EMTimeline, LensHistory, TokenLens
from vpdlab_widgets.base import LabWidget

from vpdlab import Run, RunConfig, load_run
from vpdlab.show import plots, widget_data
from vpdlab.study.influence import critique_influence, swapped

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
WIDTH = 960  # pixels of the page; a README shows about 830 of them
LIMIT = 150_000  # bytes of a picture


def widgets(folder: Path) -> dict[str, LabWidget]:
    """A short run, and the widgets on a response with one wrong digit, at the token where it went wrong."""
    config = RunConfig.make(
        "tour-rare", steps=1, prompts=12, lr=1e-9, e_every=0, record_tokens=96, eval_every=-1, out=str(folder / "run")
    )
    run = Run.open(config)
    for row in run.steps():
        print(f"recorded: {row['success_rate']:.0%} right, KL {row['kl']:.3f} nats per token")
    records = load_run(config.folder).rollouts(1)
    shown = max(records, key=lesson)
    group = [record for record in records if record["problem_id"] == shown["problem_id"]]
    lens = TokenLens(widget_data.lens_records(group, beta=config.beta), index=group.index(shown), title="TokenLens")
    lens.selected = wrong_token(shown)
    others = {"another problem's critique": swapped(shown, records) or ""}
    found = critique_influence(run.learner.policy, run.learner.teacher, run.render, shown, others=others)
    return {"lens": lens, "influence": CritiqueInfluence(found, title="CritiqueInfluence", token=lens.selected)}


def timeline(folder: Path) -> EMTimeline:
    """A whole run, as it looks when it has ended."""
    run = Run.open(RunConfig.make("tour-common", steps=60, out=str(folder)))
    for _ in run.steps():
        pass
    record = load_run(folder)
    points = widget_data.eval_points(record.eval_rows)
    return EMTimeline(record.rows, evals=points, title="tour-common", state=record.status["state"])


def history(folder: Path) -> LensHistory:
    """A lie through a run: the same response with the same critique, halfway to the end."""
    run = Run.open(RunConfig.make("words-liar", steps=80, eval_every=-1, record_tokens=0, follow=8, out=str(folder)))
    for _ in run.steps():
        pass
    found = widget_data.histories([load_run(folder)])
    lies = [i for i, one in enumerate(found["records"]) if one["step"] == 40 and "Bob" in (one["critique"] or "")]
    return LensHistory(**found, index=lies[0], selected=1, title="The same lie, read again and again")


def wrong_token(record: Mapping[str, Any]) -> int | None:
    """The place of the one wrong digit; None where not exactly one is wrong."""
    answer, said = record["answer"], [(i, token) for i, token in enumerate(record["tokens"]) if token.strip().isdigit()]
    if len(said) != len(answer):
        return None
    wrong = [i for (i, token), digit in zip(said, answer, strict=True) if token.strip() != digit]
    return wrong[0] if len(wrong) == 1 else None


def lesson(record: Mapping[str, Any]) -> float:
    """How much likelier the teacher finds the right digit there than the student does, as probabilities."""
    place = wrong_token(record)
    if place is None:
        return -1.0
    said = [i for i, token in enumerate(record["tokens"]) if token.strip().isdigit()]
    digit = record["answer"][said.index(place)]
    p = {side: dict(zip(record[f"{side}_top"][place], record[f"{side}_top_logp"][place], strict=True))
         for side in ("student", "teacher")}  # fmt: skip
    return math.exp(p["teacher"].get(digit, -99)) - math.exp(p["student"].get(digit, -99))


class Figure:
    """A figure of plotly on a page of its own, as `photograph` takes it."""

    def __init__(self, figure: Any) -> None:
        self._figure = figure

    def to_html(self, path: Path) -> None:
        """Write the page."""
        inside = self._figure.to_html(full_html=False, include_plotlyjs=True, config={"displayModeBar": False})
        style = ":root { color-scheme: light dark } body { background: light-dark(#fff, #111) } .vpd { width: 860px }"
        path.write_text(
            f'<meta charset="utf-8"><style>{style}</style><div class="vpd">{inside}</div>', encoding="utf-8"
        )


def belief() -> Figure:
    """Belief in an honest and in a lying critic over VPD's iterations."""
    runs = []
    for seed in (20, 21, 22):
        run = Run.open(RunConfig.make("words-liar", seed=seed, eval_every=10, record_tokens=0), record=False)
        for _ in run.steps():
            pass
        runs.append(run)
        print(f"words-liar, seed {seed}: {run.evals[-1]['probes']}")
    names = {"Ada": "Ada (tells the truth)", "Bob": "Bob (lies)"}
    title = "Does the teacher do what it is told about words that it has never met?"
    return Figure(plots.belief_figure(runs, names=names, title=title, rollouts=128))


def photograph(browser: Any, widget: LabWidget | Figure, name: str, out: Path) -> None:
    """One widget in both themes, cut to its own edges with a little room."""
    with tempfile.TemporaryDirectory() as place:
        page_file = Path(place) / "page.html"
        widget.to_html(page_file)
        for theme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDTH, "height": 1200}, device_scale_factor=2, color_scheme=theme
            )
            page.goto(page_file.as_uri())
            page.wait_for_selector(".vpd")
            page.wait_for_timeout(500)
            box = page.locator(".vpd").first.bounding_box()  # a widget may hold others
            edge = 14
            clip = {"x": box["x"] - edge, "y": box["y"] - edge, "width": box["width"] + 2 * edge,
                    "height": box["height"] + 2 * edge}  # fmt: skip
            target = out / f"{name}-{theme}.png"
            page.screenshot(path=str(target), clip=clip, full_page=True)
            page.close()
            shrink(target)
            print(f"{target}: {target.stat().st_size / 1000:.0f} kB")


def shrink(path: Path) -> None:
    """Where a picture is too large, a palette that keeps rare colours (pillow is in the development environment)."""
    if path.stat().st_size > LIMIT:
        from PIL import Image

        with Image.open(path) as image:
            small = image.convert("RGB").quantize(
                256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE, kmeans=1
            )
        small.save(path, optimize=True)
    if path.stat().st_size > LIMIT:
        raise SystemExit(f"{path} has {path.stat().st_size} bytes, more than {LIMIT}")


def main() -> None:
    """Make them all."""
    parser = argparse.ArgumentParser(description="Make the README's pictures again.")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", choices=["belief", "lens", "influence", "timeline", "history"])
    given = parser.parse_args()
    out = given.out
    out.mkdir(parents=True, exist_ok=True)
    program = shutil.which("chromium") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        made: dict[str, LabWidget | Figure] = {}
        if given.only in (None, "belief"):
            made["belief"] = belief()
        if given.only in (None, "lens", "influence"):
            made |= widgets(Path(place))
        if given.only in (None, "timeline"):
            made["timeline"] = timeline(Path(place) / "whole")
        if given.only in (None, "history"):
            made["history"] = history(Path(place) / "followed")
        made = {name: one for name, one in made.items() if given.only in (None, name)}
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        for name, widget in made.items():
            photograph(browser, widget, name, out)
        browser.close()


if __name__ == "__main__":
    main()
