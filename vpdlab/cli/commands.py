"""The commands. Slow imports are inside the functions, so that `vpdlab --help` answers at once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from vpdlab import processes
from vpdlab.cli.bringing import score, take_in
from vpdlab.cli.comparing import compare, forecast, study
from vpdlab.cli.discovering import discover
from vpdlab.cli.following import follow
from vpdlab.cli.options import (
    as_options,
    fork_named,
    note_unread,
    of_groups,
    parse_branch,
    parse_preset,
    parse_run,
    parsed,
    parser,
    path,
    refuse_unwritable,
    without_trust,
)
from vpdlab.config import HINTS
from vpdlab.errors import UserError, refuse_handed_in
from vpdlab.run.trust import TRUST, given, refuse_unasked


def train(args: Sequence[str]) -> int:
    """train a model from language feedback"""
    place, words = fork_named(as_options(args))
    fork, config = parse_branch("vpdlab train", place, words) if place else (None, parse_run("vpdlab train", words)[0])
    from vpdlab.cli.headless import EXIT_STATUS
    from vpdlab.record import load_run
    from vpdlab.run import Run
    from vpdlab.show.probes import probe_lines
    from vpdlab.show.summary import conclusion, drawn, fresh_warnings, progress_line

    run = Run.open(config) if fork is None else Run.open_branch(fork, config, config.out)
    config = run.config
    print(f"{run.task.summary}\nthe run is written to {config.folder}", flush=True)
    if config.eval_every >= 0 and not run.rows:
        count = drawn({"problems": len(run.held_out), "held_out": len(run.task.load("test"))})
        print(f"first, {config.eval_samples} responses to each of {count}", flush=True)
    seen = {warning.partition(":")[0] for row in run.rows for warning in row["warnings"]}
    for row in run.steps():
        print(progress_line(row, config.steps), flush=True)
        for warning in fresh_warnings(row, seen):
            print(warning, flush=True)
    print("\n".join([conclusion(run.evals), *probe_lines(run.evals)]))
    print(f"the student: {config.folder / 'final'}")
    return EXIT_STATUS.get(processes.by_main(lambda: load_run(config.folder).status["state"]), 1)


def notebook(args: Sequence[str]) -> int:
    """run a notebook headless: vpdlab notebook train [-p NAME VALUE]... [options of train]"""
    if not args or args[0].startswith("-"):
        print(f"usage: vpdlab notebook NAME [-p NAME VALUE]... [--FIELD VALUE]...\nnotebooks: {', '.join(names())}")
        return 0 if args and args[0] in ("-h", "--help") else 2
    from vpdlab.cli.headless import own_parameters, run_notebook, takes_settings

    own, rest = own_parameters(args[0], args[1:])
    words = as_options(rest)
    config, preset = parse_run(f"vpdlab notebook {args[0]}", words)
    if not takes_settings(args[0]):
        note_unread(f"notebook {args[0]}", words, {"out", "resume", "resume_anyway"})
    return run_notebook(args[0], preset, config, own)


def report(args: Sequence[str]) -> int:
    """one offline HTML page of a run, or of an executed notebook: vpdlab report RUN|NOTEBOOK [PAGE]"""
    arguments = parser(
        "report",
        "A run's settings, results and rollouts on one offline page; or an executed notebook as such a page. Needs"
        " neither the model nor torch.",
    )
    arguments.add_argument(
        "source", type=path, metavar="RUN|NOTEBOOK", help="a run's folder, or an executed .ipynb file"
    )
    arguments.add_argument("page", type=path, nargs="?", help="the file to write; default: in RUN, or NOTEBOOK.html")
    chosen, rest = parsed(arguments, args)
    if rest:
        raise UserError(f"unknown option {rest[0]!r}; see vpdlab report --help")
    source: Path = chosen.source
    if chosen.page is not None:
        refuse_unwritable(chosen.page, ".html", ".htm")
    if source.suffix == ".ipynb":
        from vpdlab.show.page import notebook_to_page

        page = notebook_to_page(source, chosen.page or source.with_suffix(".html"))
    elif source.is_dir():
        from vpdlab.cli import headless

        page = headless.report(source, chosen.page)
    else:
        raise UserError(f"{source} is neither a run's folder nor an executed notebook (.ipynb)")
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
    return 0


def evaluate(args: Sequence[str]) -> int:
    """held-out numbers of a student: vpdlab eval RUN|CHECKPOINT|MODEL [--checkpoint N] [--json] [options of train]"""
    arguments = parser(
        "eval",
        "avg@k, pass@k and maj@k, with 95 % intervals over problems, on the task's held-out problems. The task is that"
        " of the run; for any other model, what the options of `vpdlab train` (--preset, --task, --eval-problems, ...)"
        " say; they also change a run's own settings. Recorded settings that run code or send something are asked for"
        f" again, or {TRUST} obeys them.",
    )
    arguments.add_argument("student", help="a run's folder, its final/, one of its checkpoints, or any model")
    arguments.add_argument("--checkpoint", type=int, metavar="N", help="the student of that step, for a run's folder")
    arguments.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    chosen, rest = parsed(arguments, args)
    from vpdlab.run.export import alone, evaluate, find_student
    from vpdlab.show.summary import eval_lines

    student = find_student(chosen.student, chosen.checkpoint)
    words, trusted = without_trust(as_options(rest))
    config, preset = parse_preset("vpdlab eval", words, base=student.config)
    if preset and student.config is not None:
        raise UserError("a run has its own settings: leave --preset out")
    note_unread("eval", words, _read_by_evaluation())
    if student.config is not None:
        refuse_handed_in("task", student.config.task)  # no other task's problems are this run's
    if student.config is not None and not trusted:
        refuse_unasked(alone(student, config), student.place, given(words, HINTS))
    row = evaluate(student, config) | {"step": student.step}
    if chosen.json:
        print(json.dumps({"student": student.place, "task": config.task, **row}))
    else:
        print("\n".join([f"{student.words} on {config.task}", *eval_lines(row)]))
    return 0


def _read_by_evaluation() -> set[str]:
    """Settings that an evaluation of a student alone reads, and those that its weights must agree with."""
    what = {"preset", "task", "data", "task_args", "model", "lora_rank", "adapter_rank", "teacher", "seed", "templates"}
    groups = of_groups("rollouts", "episodes", "engine", "evaluation")
    return (what | groups) - {"prompts", "group", "eval_every", "eval_teacher", "checkpointing", "shard"}


def export(args: Sequence[str]) -> int:
    """write a student, or an adapter, as an ordinary folder: vpdlab export RUN OUT [--checkpoint N] [--adapter ROLE]"""
    arguments = parser("export", "A plain Hugging Face folder, adapters merged; or an ordinary PEFT adapter folder.")
    arguments.add_argument("run", help="a run's folder, its final/, or one of its checkpoints")
    arguments.add_argument("out", type=path, help="the folder to write; it must not exist, or be empty")
    arguments.add_argument("--checkpoint", type=int, metavar="N", help="the student of that step; default: the newest")
    arguments.add_argument("--adapter", choices=["student", "teacher"], default="", help="that one's LoRA adapter")
    chosen, rest = parsed(arguments, args)
    if rest:
        raise UserError(f"unknown option {rest[0]!r}; see vpdlab export --help")
    from vpdlab.run.export import export, find_student, newest_checkpoint

    step = chosen.checkpoint
    if chosen.adapter and step is None:
        step = newest_checkpoint(chosen.run)
    student = find_student(chosen.run, step)
    export(student, chosen.out, chosen.adapter)
    print(f"{student.words} -> {chosen.out}")
    return 0


def lab(args: Sequence[str]) -> int:
    """open JupyterLab on the notebooks, in this folder"""
    from vpdlab.cli.lab import open_lab

    return open_lab(args)


def models(args: Sequence[str]) -> int:
    """list models, or get one: vpdlab models [get NAME]"""
    arguments = parser("models", "Models by short names.")
    arguments.add_argument("action", nargs="?", choices=["list", "get"], default="list")
    arguments.add_argument("name", nargs="?", help="for get")
    chosen, rest = parsed(arguments, args)
    if rest or (chosen.name and chosen.action == "list"):
        raise UserError(f"unknown argument {(rest or [chosen.name])[0]!r}; see vpdlab models --help")
    from vpdlab import zoo

    if chosen.action == "get":
        if not chosen.name:
            raise UserError("name the model to get: vpdlab models get smollm2-135m")
        print(zoo.get(chosen.name))
        return 0
    for entry in zoo.catalog():
        size = f"{entry['parameters'] / 1e6:.1f} M" if entry["parameters"] else "?"
        here = "here" if entry["present"] else f"get it: vpdlab models get {entry['name']}"
        print(f"{entry['name']:14}  {size:>8}  {entry['licence']:10}  {entry['what']} ({here})")
    print("also: any hub name (Qwen/Qwen3-1.7B) or the path of a model's folder")
    return 0


def doctor(args: Sequence[str]) -> int:
    """list what is installed, what is missing and how to get it; with options of train, what memory a run needs"""
    if args and args[0] not in ("-h", "--help"):
        from vpdlab.cli.fitting import memory_lines

        config, _ = parse_preset("vpdlab doctor", as_options(args))
        lines, fits = memory_lines(config)
        print("\n".join(lines))
        return 0 if fits else 1
    argparse.ArgumentParser(
        prog="vpdlab doctor",
        usage="vpdlab doctor [--model NAME] [--preset NAME] [options of train]",
        description="What is installed and what is missing; with any option of train, the memory that such a run needs"
        " on this device, item by item, and what to set where it does not fit.",
    ).parse_args(args)
    from vpdlab.cli.doctor import examine, render

    checks = examine()
    print(render(checks))
    return 1 if any(check.state == "problem" for check in checks) else 0


def names() -> list[str]:
    """The notebooks that `vpdlab notebook` can run."""
    from vpdlab.cli.headless import notebooks

    return sorted(path.stem for path in notebooks().glob("*.ipynb"))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "compare": compare,
    "study": study,
    "forecast": forecast,
    "discover": discover,
    "notebook": notebook,
    "eval": evaluate,
    "follow": follow,
    "score": score,
    "import": take_in,
    "export": export,
    "report": report,
    "lab": lab,
    "models": models,
    "doctor": doctor,
}
