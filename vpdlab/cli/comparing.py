"""The commands about many trainings: compare, study and forecast."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vpdlab.cli.options import (
    OF_A_RUN,
    SETTINGS,
    as_options,
    note_unread,
    parse_preset,
    parsed,
    parser,
    path,
    refuse_single,
    refuse_unwritable,
)
from vpdlab.errors import UserError
from vpdlab.run.trust import given

if TYPE_CHECKING:
    from vpdlab.compare import Cell


def compare(args: Sequence[str]) -> int:
    """run several methods and seeds on the same problems: vpdlab compare --methods vpd sdpo grpo --seeds 0 1 2"""
    arguments = parser(
        "compare",
        "Several methods and seeds on the same problems, with the same rollout seeds and budget. What is already there"
        " is not run again. Every other option of `vpdlab train` sets a field for all of them.",
    )
    arguments.add_argument("--presets", nargs="+", default=["tour-common", "tour-rare"], help="presets to start from")
    arguments.add_argument("--methods", nargs="+", default=["vpd", "sdpo", "grpo"], metavar="METHOD[:FIELD=VALUE,...]",
                           help="each may have settings of its own: vpd:e_every=1")  # fmt: skip
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--out", type=path, default=Path("runs/compare"), help="folder of the runs and the table")
    _add_common(arguments)
    chosen, rest = parsed(arguments, args)
    return _compare(chosen, as_options(rest), f"vpdlab compare {shlex.join(args)}".strip())


def _compare(chosen: argparse.Namespace, rest: Sequence[str], command: str) -> int:
    from vpdlab import compare
    from vpdlab.record import refuse_links, refuse_within

    refuse_single("compare", rest, ("preset", "method", "seed"))
    stems = [Path(preset).stem for preset in chosen.presets]
    for what, named in (("presets", stems), ("methods", chosen.methods), ("seeds", chosen.seeds)):
        if len(set(named)) < len(named):
            raise UserError(f"compare: {what} has one of the same name twice: {' '.join(map(str, named))}")
    refuse_within(chosen.out)
    refuse_links(chosen.out)
    bases = {
        Path(preset).stem: parse_preset("vpdlab compare", ["--preset", preset, *rest])[0] for preset in chosen.presets
    }
    cells = compare.plan(bases, chosen.methods, chosen.seeds, chosen.out)
    _check_common(chosen)
    if _run_all(cells, chosen):
        _show(cells, chosen, command)
    return 0


def _run_all(cells: Sequence[Cell], chosen: argparse.Namespace) -> bool:
    """Run the cells of a comparison, or only list them; whether they ran."""
    from vpdlab import compare

    jobs = chosen.jobs or compare.default_jobs(cells)
    print(f"{len(cells)} runs, {jobs} at a time, in {chosen.out}", flush=True)
    if chosen.dry_run:
        for cell in cells:
            print(f"  {cell.name}: {compare.state(cell)}")
        return False
    compare.run_all(cells, jobs, say=lambda line: print(line, flush=True))
    return True


def _show(cells: Sequence[Cell], chosen: argparse.Namespace, command: str, said: str = "", **page: str) -> None:
    """Write the page of complete runs, and print its tables; `said` is Markdown above them, `page` its other words."""
    from vpdlab.compare import standings
    from vpdlab.compare.page import write

    rows = standings.summarise(cells, chosen.level)
    written = write(cells, rows, chosen.out, command, more=said, **page)
    print("\n".join(["", *([said, ""] if said else []), standings.markdown(rows), str(written)]))
    if chosen.figure is not None:
        print(_draw(cells, chosen))


def study(args: Sequence[str]) -> int:
    """run a study, many conditions x methods x seeds, and judge its claims: vpdlab study words"""
    arguments = parser(
        "study",
        "The runs of a study file, one table a condition, and its claims confirmed, refuted or open. What is already"
        " there is not run again. Other options of `vpdlab train` set a field for all runs.",
    )
    arguments.add_argument("study", help="a bundled study (words), or a .yaml file")
    arguments.add_argument("--conditions", nargs="+", default=[], help="default: all of the file")
    arguments.add_argument("--methods", nargs="+", default=[], metavar="METHOD[:FIELD=VALUE,...]", help="default: all")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[], help="default: those of the file")
    arguments.add_argument("--out", type=path, help="folder of the runs and the tables; default: runs/study-NAME")
    _add_common(arguments)
    chosen, rest = parsed(arguments, args)
    return _study(chosen, as_options(rest), f"vpdlab study {shlex.join(args)}")


def _study(chosen: argparse.Namespace, rest: Sequence[str], command: str) -> int:
    from vpdlab.compare import claims, studies
    from vpdlab.record import refuse_links, refuse_within

    chosen.out = chosen.out or _folder(chosen.study)
    refuse_within(chosen.out)
    refuse_links(chosen.out)
    found = studies.read_study(chosen.study).chosen(chosen.conditions, chosen.methods, chosen.seeds)
    cells = found.cells(chosen.out, _fields("vpdlab study", rest))
    _check_common(chosen)
    if _run_all(cells, chosen):
        judged = claims.verdicts(found.claims, cells)
        _show(cells, chosen, command, claims.markdown(judged) if judged else "", title=found.title)
    return 0


def _folder(study: str) -> Path:
    """Where the runs of a study are, if nobody says otherwise."""
    return Path("runs") / f"study-{Path(study).stem}"


def _fields(command: str, rest: Sequence[str]) -> dict[str, Any]:
    """The fields that the options set for all runs of a study. Raises UserError for one that differs between them."""
    for name in ("preset", "method", "seed"):
        if given(rest, [name]):
            raise UserError(f"the study sets {name} for each of its runs: leave --{name} out")
    asked = parse_preset(command, rest)[0]
    return {name: getattr(asked, name) for name in asked.asked}


def _add_common(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument("--jobs", type=int, default=0, help="runs at the same time; default: by the CPU cores")
    arguments.add_argument("--level", type=float, help="held-out accuracy (0 to 1) whose rollouts are counted")
    arguments.add_argument("--dry-run", action="store_true", help="only list what would be run")
    arguments.add_argument("--figure", type=path, metavar="FILE", help="also draw a paper's figure, .pdf or .svg")
    arguments.add_argument("--figure-measures", nargs="+", default=["accuracy"], metavar="MEASURE",
                           help="its panels: accuracy (held-out), margin, kl, entropy or another metric")  # fmt: skip
    arguments.add_argument("--figure-width", default="column", help="column (3.25 in), page (6.75 in), or inches")
    arguments.add_argument("--figure-over", default="rollouts", help="its x axis: rollouts, iterations or seconds")


def _check_common(chosen: argparse.Namespace) -> None:
    """Refuse what `--jobs` and `--level` cannot be, and what `--figure` cannot draw, before anything runs. Raises
    UserError."""
    from vpdlab.compare import paper
    from vpdlab.show.plots.paper import check

    if chosen.jobs < 0:
        raise UserError(f"--jobs is {chosen.jobs}, but must be 1 or more; leave it out to go by the CPU cores")
    if chosen.level is not None and not 0 <= chosen.level <= 1:
        raise UserError(f"--level is {chosen.level}, but must be between 0 and 1")
    if chosen.figure is not None:
        refuse_unwritable(chosen.figure)
        paper.check(chosen.figure_measures, chosen.figure_over)
        check(chosen.figure, chosen.figure_width)


def _draw(cells: Sequence[Cell], chosen: argparse.Namespace) -> Path:
    """Draw the figure that `--figure` asks for."""
    from vpdlab.compare import paper
    from vpdlab.show.plots import paper_figure

    lines = paper.lines(paper.runs_of(cells), chosen.figure_measures, chosen.figure_over)
    return paper_figure(lines, chosen.figure_width).save(chosen.figure)


def forecast(args: Sequence[str]) -> int:
    """what a few batches say of how much a method will gain: vpdlab forecast --preset words-liar"""
    chosen, rest = parsed(forecast_options(), args)
    if chosen.fit and chosen.check:
        raise UserError("forecast: --fit and --check exclude each other: a fit agrees with its own runs")
    if chosen.fit and rest:
        raise UserError(f"unknown option {rest[0]!r}: forecast --fit reads the settings of the study's runs")
    return _fit(chosen) if chosen.fit else (_check if chosen.check else _forecast)(chosen, as_options(rest))


def forecast_options() -> argparse.ArgumentParser:
    """The options of `vpdlab forecast`, beside those of `vpdlab train`."""
    arguments = parser(
        "forecast",
        "Samples a few batches with the settings of `vpdlab train`, trains nothing, and forecasts the gain in held-out"
        " accuracy. The bundled fit comes from the study `words`: trust it the less, the less your run is like that.",
    )
    arguments.add_argument("--batches", type=int, default=4, help="batches to sample, at least 2; default: 4")
    arguments.add_argument("--with-fit", type=path, metavar="FILE", help="a fit of your own, as --fit writes it")
    arguments.add_argument("--fit", metavar="STUDY", help="instead: fit on the runs of this study that are complete")
    arguments.add_argument("--check", metavar="STUDY", help="instead: compare forecasts with the complete runs of this"
                           " study; other options set fields for all of them, as in `vpdlab study`")  # fmt: skip
    arguments.add_argument("--study-out", type=path, help="folder of that study; default: runs/study-NAME")
    arguments.add_argument("--write", type=path, default=Path("forecast.json"), help="the file that --fit writes")
    return arguments


def _forecast(chosen: argparse.Namespace, rest: Sequence[str]) -> int:
    from vpdlab.compare import forecasts
    from vpdlab.study.forecast import BUNDLED, read

    fits = read(chosen.with_fit or BUNDLED)
    config = parse_preset("vpdlab forecast", rest)[0]
    untrained = {"method", "method_args", "lr", "e_lr", "warmup", "weight_decay", "grad_clip"}  # it trains nothing
    note_unread("forecast", rest, set(SETTINGS) - OF_A_RUN - untrained)
    found = forecasts.signs_of(config, chosen.batches)
    print(forecasts.markdown(found, forecasts.told(found, fits)))
    return 0


def _fit(chosen: argparse.Namespace) -> int:
    from vpdlab.compare import forecasts, studies
    from vpdlab.study.forecast import read, write

    refuse_unwritable(chosen.write, ".json")
    if chosen.write.exists():
        try:
            read(chosen.write)
        except UserError as error:
            raise UserError(f"cannot write over {chosen.write}: {error}; name another file with --write") from error
    out = chosen.study_out or _folder(chosen.fit)
    cells = studies.read_study(chosen.fit).cells(out)
    done = [cell for cell, _ in forecasts.gains(cells)]
    fits = forecasts.fit_study(done, forecasts.signs_of_study(done, out, chosen.batches))
    write(fits, chosen.write)
    for method, one in fits.items():
        print(f"{method}: {one.runs} runs under {one.conditions} conditions; each left out in turn, the interval is")
        print(f"  +-{100 * one.error:.0f} points and the rank correlation of forecast and outcome {one.rank:.2f}")
    print(chosen.write)
    return 0


def _check(chosen: argparse.Namespace, rest: Sequence[str]) -> int:
    from vpdlab.compare import forecasts, studies
    from vpdlab.study.forecast import BUNDLED, read

    out = chosen.study_out or _folder(chosen.check)
    cells = studies.read_study(chosen.check).cells(out, _fields("vpdlab forecast", rest))
    done = [cell for cell, _ in forecasts.gains(cells)]
    signs = forecasts.signs_of_study(done, out, chosen.batches)
    print(forecasts.agreement(done, signs, read(chosen.with_fit or BUNDLED)))
    return 0
