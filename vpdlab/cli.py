"""The command line. Heavy imports stand inside the functions: `vpdlab --help` answers at once.

Exit status: 0 done; 1 the run or the command failed; 2 the input was wrong (one line says how); 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from vpdlab import net, processes
from vpdlab.config import HINTS, RunConfig, presets, read_preset
from vpdlab.errors import RunFailed, UserError
from vpdlab.paths import user_path
from vpdlab.tasks import HANDED_IN, make_task
from vpdlab.trust import TRUST, given, refuse_unasked


def train(args: Sequence[str]) -> int:
    """train a model from language feedback"""
    config, _ = parse_run("vpdlab train", as_options(args))
    from vpdlab.headless import EXIT_STATUS
    from vpdlab.loop import Run
    from vpdlab.record import load_run
    from vpdlab.summary import conclusion, drawn, fresh_warnings, progress_line

    run = Run.open(config)
    print(f"{run.task.summary}\nthe run is written to {config.folder}", flush=True)
    if config.eval_every >= 0 and not run.rows:
        count = drawn({"problems": len(run.held_out), "held_out": len(run.task.load("test"))})
        print(f"first, {config.eval_samples} responses to each of {count}", flush=True)
    seen = {warning.partition(":")[0] for row in run.rows for warning in row["warnings"]}
    for row in run.steps():
        print(progress_line(row, config.steps), flush=True)
        for warning in fresh_warnings(row, seen):
            print(warning, flush=True)
    print(f"{conclusion(run.evals)}\nthe student: {config.folder / 'final'}")
    return EXIT_STATUS.get(processes.by_main(lambda: load_run(config.folder).status["state"]), 1)


def compare(args: Sequence[str]) -> int:
    """run several methods and seeds on the same problems: vpdlab compare --methods vpd sdpo grpo --seeds 0 1 2"""
    parser = _parser(
        "compare",
        "Several methods and seeds on the same problems, with the same rollout seeds and budget. What is already there"
        " is not run again. Every other option of `vpdlab train` sets a field for all of them.",
    )
    parser.add_argument("--presets", nargs="+", default=["tour-common", "tour-rare"], help="what they start from")
    parser.add_argument("--methods", nargs="+", default=["vpd", "sdpo", "grpo"], metavar="METHOD[:FIELD=VALUE,...]",
                        help="each may have settings of its own: vpd:e_every=1")  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=_path, default=Path("runs/compare"), help="folder of the runs and the table")
    parser.add_argument("--jobs", type=int, default=0, help="runs at once; default: what the cores bear")
    parser.add_argument("--level", type=float, help="held-out accuracy (0 to 1) whose rollouts are counted")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be run")
    chosen, rest = _parsed(parser, args)
    return _compare(chosen, as_options(rest), f"vpdlab compare {shlex.join(args)}".strip())


def _compare(chosen: argparse.Namespace, rest: Sequence[str], command: str) -> int:
    from vpdlab import compare, standings
    from vpdlab.record import refuse_links

    for name in ("--preset", "--method", "--seed"):
        if any(word == name or word.startswith(f"{name}=") for word in rest):
            raise UserError(f"compare takes {name}s, with one or several values, not {name}")
    stems = [Path(preset).stem for preset in chosen.presets]
    for what, named in (("presets", stems), ("methods", chosen.methods), ("seeds", chosen.seeds)):
        if len(set(named)) < len(named):
            raise UserError(f"compare: {what} has one of the same name twice: {' '.join(map(str, named))}")
    refuse_links(chosen.out)
    bases = {
        Path(preset).stem: parse_preset("vpdlab compare", ["--preset", preset, *rest])[0] for preset in chosen.presets
    }
    cells = compare.plan(bases, chosen.methods, chosen.seeds, chosen.out)
    jobs = chosen.jobs or compare.default_jobs(cells)
    print(f"{len(cells)} runs, {jobs} at a time, in {chosen.out}", flush=True)
    if chosen.dry_run:
        for cell in cells:
            print(f"  {cell.name}: {compare.state(cell)}")
        return 0
    compare.run_all(cells, jobs, say=lambda line: print(line, flush=True))
    rows = standings.summarise(cells, chosen.level)
    page = standings.write(cells, rows, chosen.out, command)
    print(f"\n{standings.markdown(rows)}\n{page}")
    return 0


def notebook(args: Sequence[str]) -> int:
    """run a notebook headless: vpdlab notebook train [-p NAME VALUE]... [options of train]"""
    if not args or args[0].startswith("-"):
        print(f"usage: vpdlab notebook NAME [-p NAME VALUE]... [--FIELD VALUE]...\nnotebooks: {', '.join(names())}")
        return 0 if args and args[0] in ("-h", "--help") else 2
    from vpdlab.headless import run_notebook

    config, preset = parse_run(f"vpdlab notebook {args[0]}", as_options(args[1:]))
    return run_notebook(args[0], preset, config)


def report(args: Sequence[str]) -> int:
    """one offline HTML page of a run, or of an executed notebook: vpdlab report RUN|NOTEBOOK [PAGE]"""
    parser = _parser(
        "report",
        "What a run was, what came of it and why, on one page that needs no network; or an executed notebook as such a"
        " page. Needs neither the model nor torch.",
    )
    parser.add_argument("source", type=_path, metavar="RUN|NOTEBOOK", help="a run's folder, or an executed .ipynb file")
    parser.add_argument("page", type=_path, nargs="?", help="the file to write; default: in RUN, or NOTEBOOK.html")
    chosen, rest = _parsed(parser, args)
    if rest:
        raise UserError(f"unknown option {rest[0]!r}; see vpdlab report --help")
    source: Path = chosen.source
    if source.suffix == ".ipynb":
        from vpdlab.page import notebook_to_page

        page = notebook_to_page(source, chosen.page or source.with_suffix(".html"))
    elif source.is_dir():
        from vpdlab import headless

        page = headless.report(source, chosen.page)
    else:
        raise UserError(f"{source} is neither a run's folder nor an executed notebook (.ipynb)")
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB)")
    return 0


def evaluate(args: Sequence[str]) -> int:
    """held-out numbers of a student: vpdlab eval RUN|CHECKPOINT|MODEL [--checkpoint N] [--json] [options of train]"""
    parser = _parser(
        "eval",
        "avg@k, pass@k and maj@k, with 95 % intervals over problems, on the task's held-out problems. The task is that"
        " of the run; for any other model, what the options of `vpdlab train` (--preset, --task, --eval-problems, ...)"
        " say; they also change a run's own settings. Recorded settings that run code or send something are asked for"
        f" again, or {TRUST} obeys them.",
    )
    parser.add_argument("student", help="a run's folder, its final/, one of its checkpoints, or any model")
    parser.add_argument("--checkpoint", type=int, metavar="N", help="the student of that step, for a run's folder")
    parser.add_argument("--json", action="store_true", help="print one line of JSON and nothing else")
    chosen, rest = _parsed(parser, args)
    from vpdlab.export import alone, evaluate, find_student
    from vpdlab.summary import eval_lines

    student = find_student(chosen.student, chosen.checkpoint)
    words, trusted = without_trust(as_options(rest))
    config, preset = parse_preset("vpdlab eval", words, base=student.config)
    if preset and student.config is not None:
        raise UserError("a run has its own settings: leave --preset out")
    if student.config is not None and student.config.task.startswith(HANDED_IN):
        make_task(student.config.task)  # refuses: no other task's problems are this run's
    if student.config is not None and not trusted:
        refuse_unasked(alone(student, config), student.place, given(words, HINTS))
    row = evaluate(student, config) | {"step": student.step}
    if chosen.json:
        print(json.dumps({"student": student.place, "task": config.task, **row}))
    else:
        print("\n".join([f"{student.words} on {config.task}", *eval_lines(row)]))
    return 0


def export(args: Sequence[str]) -> int:
    """write a student, or an adapter, as an ordinary folder: vpdlab export RUN OUT [--checkpoint N] [--adapter ROLE]"""
    parser = _parser("export", "A plain Hugging Face folder, adapters merged; or an ordinary PEFT adapter folder.")
    parser.add_argument("run", help="a run's folder, its final/, or one of its checkpoints")
    parser.add_argument("out", type=_path, help="the folder to write; it must not exist, or be empty")
    parser.add_argument("--checkpoint", type=int, metavar="N", help="the student of that step; default: the newest")
    parser.add_argument("--adapter", choices=["student", "teacher"], default="", help="that one's LoRA adapter")
    chosen, rest = _parsed(parser, args)
    if rest:
        raise UserError(f"unknown option {rest[0]!r}; see vpdlab export --help")
    from vpdlab.export import export, find_student, newest_checkpoint

    step = chosen.checkpoint
    if chosen.adapter and step is None:
        step = newest_checkpoint(chosen.run)
    student = find_student(chosen.run, step)
    export(student, chosen.out, chosen.adapter)
    print(f"{student.words} -> {chosen.out}")
    return 0


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"vpdlab {name}", description=description, allow_abbrev=False, exit_on_error=False
    )


def _path(text: str) -> Path:
    """A path as people write it: a shell expands ~ only at the beginning of a word."""
    return user_path("the path", text)


def _parsed(parser: argparse.ArgumentParser, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What a command takes itself, and the rest. Raises UserError, in one line, for what does not fit."""
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            return parser.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see {parser.prog} --help") from error
    except SystemExit as error:
        if error.code:
            raise UserError(f"{words.getvalue().strip().splitlines()[-1]}; see {parser.prog} --help") from None
        raise


def lab(args: Sequence[str]) -> int:
    """open JupyterLab on the notebooks"""
    from vpdlab.headless import notebooks

    # The kernel of this environment wins over one of the same name elsewhere.
    env = os.environ | {"JUPYTER_PREFER_ENV_PATH": "1"}
    command = [sys.executable, "-m", "jupyterlab", "--notebook-dir", str(notebooks()), *args]
    return subprocess.call(command, env=env)


def models(args: Sequence[str]) -> int:
    """list models, or get one: vpdlab models [get NAME]"""
    parser = argparse.ArgumentParser(prog="vpdlab models", description="Models by short names.")
    parser.add_argument("action", nargs="?", choices=["list", "get"], default="list")
    parser.add_argument("name", nargs="?", help="for get")
    chosen = parser.parse_args(args)
    from vpdlab import models

    if chosen.action == "get":
        if not chosen.name:
            raise UserError("name the model to get: vpdlab models get smollm2-135m")
        print(models.get(chosen.name))
        return 0
    for entry in models.catalog():
        size = f"{entry['parameters'] / 1e6:.1f} M" if entry["parameters"] else "?"
        here = "here" if entry["present"] else f"get it: vpdlab models get {entry['name']}"
        print(f"{entry['name']:14}  {size:>8}  {entry['licence']:10}  {entry['what']} ({here})")
    print("also: any hub name (Qwen/Qwen3-1.7B) or the path of a model's folder")
    return 0


def doctor(args: Sequence[str]) -> int:
    """say what is installed, what is missing and how to get it"""
    argparse.ArgumentParser(prog="vpdlab doctor", description="What is here, what is missing.").parse_args(args)
    from vpdlab.doctor import examine, render

    checks = examine()
    print(render(checks))
    return 1 if any(check.state == "problem" for check in checks) else 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "compare": compare,
    "notebook": notebook,
    "eval": evaluate,
    "export": export,
    "report": report,
    "lab": lab,
    "models": models,
    "doctor": doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    for stream in (sys.stdout, sys.stderr):  # a name or a text that the terminal cannot show ends no command
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with processes.quiet():
            status = _main(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter's own last flush has a place
        return 1
    return status


def _main(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print("usage: vpdlab COMMAND ...\n")
        for name, command in COMMANDS.items():
            print(f"  {name:10}{command.__doc__}")
        print("\nvpdlab COMMAND --help says more.")
        return 0 if args else 2
    if args[0] == "--version":
        from vpdlab import __version__

        print(f"vpdlab {__version__}")
        return 0
    try:
        for word in args:
            if "\0" in word:
                raise UserError(f"the argument {word!r} holds a NUL character")
        if args[0] not in COMMANDS:
            raise UserError(f"unknown command {args[0]!r}: choose one of {', '.join(COMMANDS)}")
        if args[0] != "train" and processes.launched() > 1:
            raise UserError(f"vpdlab {args[0]} is for one process: call it without a launcher")
        status = COMMANDS[args[0]](args[1:])
        processes.leave()
        return status
    except BrokenPipeError:
        raise
    except OSError as error:  # a name that is too long, a folder that may not be read: it says which
        if error.filename is None and error.errno != errno.ENOSPC:
            raise
        what = error.filename or "the output cannot be written"
        print(f"vpdlab: {net.printable(f'{what}: {error.strerror}')}", file=sys.stderr)
        return 1
    except (UserError, RunFailed) as error:
        if processes.speaks(error):
            # A message may quote a data set or a server: one line, and nothing that steers the terminal.
            print(f"vpdlab: {processes.words()}{net.printable(str(error), 4000)}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except KeyboardInterrupt:
        print("vpdlab: interrupted", file=sys.stderr)
        return 130


def parse_run(program: str, args: Sequence[str]) -> tuple[RunConfig, str]:
    """`parse_preset`; where a run is resumed and no preset is named, on top of the run's own settings."""
    args, trusted = without_trust(args)
    config, preset = parse_preset(program, args)
    if not config.resumes or preset:
        return config, preset
    folder = config.folder
    recorded = recorded_config(folder)
    config, preset = parse_preset(program, args, base=recorded or RunConfig())
    config = replace(config, out=str(folder))  # the run is where it was found, whatever its record says
    if recorded is not None and not trusted:
        refuse_unasked(config, str(config.folder), given(args, HINTS))
    return config, preset


def without_trust(args: Sequence[str]) -> tuple[list[str], bool]:
    """A command's words without `--trust`, and whether it stood among them."""
    return [word for word in args if word != TRUST], TRUST in args


def recorded_config(folder: Path) -> RunConfig | None:
    """The settings of the run in a folder; None where there is none. Raises UserError where they cannot be read."""
    from vpdlab.record import LINES, load_run

    if (folder / "config.json").is_file():
        return load_run(folder).settings()
    if any((folder / name).exists() for name in (*LINES, "config.json")):
        raise UserError(f"{folder / 'config.json'} is missing: name the preset that the run began with, or begin anew")
    return None


def parse_preset(program: str, args: Sequence[str], base: RunConfig | None = None) -> tuple[RunConfig, str]:
    """The RunConfig that the options say, on top of `--preset` or of `base`, and the preset's name.

    Raises:
        UserError: with one line, for options that do not fit.
    """
    import tyro

    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--preset", default="")
    try:
        known, rest = first.parse_known_args(args)
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; the presets are {', '.join(presets())}, or a YAML file") from error
    base = base or RunConfig(**(read_preset(known.preset) if known.preset else {}))
    words = io.StringIO()
    try:
        with contextlib.redirect_stderr(words):
            text = (
                f"--preset NAME sets many at once: {', '.join(presets())}, or a YAML file. With --resume a run's own"
                f" settings hold; those that run code or send something are asked for again, or {TRUST} obeys them."
            )
            return tyro.cli(RunConfig, prog=program, description=text, args=rest, default=base), known.preset
    except SystemExit as error:
        if error.code:
            raise UserError(one_line(words.getvalue())) from None
        raise


def one_line(box: str) -> str:
    """What a framed message states, and the option it suggests, as one line.

    The parts of the message are parted by rules. In a frame the title stands in the upper edge; where standard output
    cannot show frames it is a part of its own.
    """
    lines = [line.strip("│╭╮╰╯ ") for line in box.splitlines()]
    text = "\n".join("\0" if re.fullmatch(r"─ .* ─+|[─-]+", line) else line for line in lines)
    parts = [" ".join(part.split()) for part in text.split("\0") if part.strip()]
    said = parts[0 if "╭" in box else 1]
    near = re.search(r"Perhaps you meant:\s+(--[\w-]+)", text)
    return f"{said}{f' (did you mean {near[1]}?)' if near else ''}; see --help"


def as_options(args: Sequence[str]) -> list[str]:
    """`-p NAME VALUE`, papermill's form, as `--NAME VALUE`. Raises UserError for a name that is no setting."""
    options, rest = [], list(args)
    while rest:
        word = rest.pop(0)
        if word != "-p":
            options.append(word)
            continue
        if len(rest) < 2:
            raise UserError("-p takes a name and a value: -p steps 60")
        name, value = rest.pop(0), rest.pop(0)
        if name not in HINTS and name != "preset":
            raise UserError(f"there is no setting {name!r}; `vpdlab train --help` lists them")
        if HINTS.get(name) is bool and value.lower() in ("true", "false"):
            options.append(f"--{name}" if value.lower() == "true" else f"--no-{name}")
        else:
            options += [f"--{name}", value]
    return options


def names() -> list[str]:
    """The notebooks that `vpdlab notebook` can run."""
    from vpdlab.headless import notebooks

    return sorted(path.stem for path in notebooks().glob("*.ipynb"))


if __name__ == "__main__":
    sys.exit(main())
