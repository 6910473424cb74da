"""Run a notebook from top to bottom without a browser, and write it as an offline page."""

from __future__ import annotations

import ast
import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vpdlab_widgets.base import visible

from vpdlab.config import HINTS, RunConfig
from vpdlab.errors import RunFailed, UserError, notice
from vpdlab.record import load_run, mark_stopped, prepare, refuse_links
from vpdlab.run.interrupt import on_interrupt
from vpdlab.show.opening import missing

EXIT_STATUS = {"complete": 0, "stopped": 130}  # final state of a run -> exit status; 1 for any other


def notebooks() -> Path:
    """Folder of the notebooks: beside the package in a checkout, inside it when installed from a wheel."""
    here = Path(__file__).resolve().parents[1]
    beside = here.parent / "notebooks"
    return beside if beside.is_dir() else here / "_notebooks"


def run_notebook(name: str, preset: str, config: RunConfig, own: Mapping[str, str] | None = None) -> int:
    """Execute a parameterised notebook with the config's fields; writes NAME.ipynb and NAME.html in the run's folder.

    `own` are values of parameters that only this notebook has (`own_parameters`).

    The exit status comes from the run's status.json: after an interrupt the output of a notebook's cells is not
    reliable.

    Raises:
        UserError: the notebook is unknown, the folder already contains a run, or the notebook found invalid input.
    """
    source = _find(name)
    folder = config.folder
    _make_ready(folder, config.resumes)
    executed, page = folder / f"{name}.ipynb", folder / f"{name}.html"
    print(f"running {source.name}; the executed copy grows in {executed}", flush=True)
    parameters = (_parameters(preset, config) if takes_settings(name) else {}) | dict(own or {})
    with _stopping_gently(folder):
        error = _execute(source, executed, parameters, stdout_file=_Terminal(sys.stdout))  # cells' output as it comes
    _write_page(executed, page)
    print(f"executed notebook: {executed}\noffline page: {page}")
    if error is not None:
        if error.ename == "UserError":
            raise UserError(error.evalue)
        print(f"the notebook failed in cell {error.exec_count}: {error.ename}: {visible(error.evalue)}")
        return 1
    if not (folder / "config.json").exists():
        return 0  # a walk-through that records no run
    return EXIT_STATUS.get(load_run(folder).status["state"], 1)


def report(folder: Path, page: Path | None = None) -> Path:
    """Execute report.ipynb on a run's folder and write it as one offline page; needs neither torch nor the model.

    Args:
        folder: of the run, which may still be running.
        page: the HTML file to write; None: report.html in the run's folder.

    Returns:
        The page's path.

    Raises:
        UserError: there is no run, the run has no iteration yet, or the page cannot be written.
        RunFailed: the notebook failed.
    """
    record = load_run(folder)
    if page is None:
        refuse_links(folder)
    if not record.rows:
        raise UserError(f"{folder} contains a run without an iteration yet: there is nothing to report")
    record.check()
    for line in missing(record):
        notice(line)
    with tempfile.TemporaryDirectory() as temporary:
        executed = Path(temporary) / "report.ipynb"
        error = _execute(_find("report"), executed, {"folder": str(folder)})
        if error is not None:
            kind = UserError if error.ename == "UserError" else RunFailed
            raise kind(f"{folder} cannot be reported: {' '.join(error.evalue.split())}") from error
        return _write_page(executed, page or folder / "report.html", f"{folder.resolve().name}: report")


def _find(name: str) -> Path:
    source = notebooks() / f"{name}.ipynb"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in notebooks().glob("*.ipynb")))
        raise UserError(f"unknown notebook {name!r}: choose one of {known}")
    return source


def _make_ready(folder: Path, resumes: bool) -> None:
    """Create the folder of a new run; correct the status of a resumed one whose process ended without writing it."""
    from vpdlab.run.resume import locked

    if not resumes:
        prepare(folder)
        return
    refuse_links(folder)
    if (folder / "config.json").exists():
        with locked(folder):  # no process is writing it, so a status of "running" is outdated
            mark_stopped(folder)


def _execute(source: Path, executed: Path, parameters: Mapping[str, Any], **options: Any) -> Any:
    """Run a notebook with papermill. Returns the PapermillExecutionError of the cell that failed, or None."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # this environment's kernel, not one of the same name elsewhere
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters without a default in the notebook
    try:
        papermill.execute_notebook(
            source,
            executed,
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # or it warns that it listens on this machine
            **options,
        )
    except PapermillExecutionError as error:
        return error
    return None


def _write_page(executed: Path, page: Path, title: str | None = None) -> Path:
    from vpdlab.show.page import notebook_to_page

    return notebook_to_page(executed, page, title)


class _Terminal:
    """A terminal for untrusted text: passes on colours and cursor moves of progress bars, no other control codes."""

    _HARMLESS = re.compile(r"(\x1b\[[\d;]*m|\x1b\[\d*[AK]|\r)")

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        parts = self._HARMLESS.split(text)  # every second part is a harmless sequence
        self._out.write("".join(part if number % 2 else visible(part) for number, part in enumerate(parts)))
        return len(text)

    def flush(self) -> None:
        self._out.flush()


@contextmanager
def _stopping_gently(folder: Path) -> Iterator[None]:
    """Forward the first interrupt to the run in the kernel, which finishes its step, saves, and lets the notebook
    continue to its end. A second one stops everything; then the status is set here, since the kernel cannot do it."""
    asked = []

    def handle() -> None:
        status = load_run(folder).status if (folder / "config.json").exists() else None
        if asked or status is None or status["state"] != "running":
            raise KeyboardInterrupt
        asked.append(True)
        os.kill(status["pid"], signal.SIGINT)

    try:
        with on_interrupt(handle):
            yield
    finally:
        if (folder / "config.json").exists():
            mark_stopped(folder)


def own_parameters(name: str, args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """A notebook's arguments `-p NAME VALUE` for parameters that are no settings, such as `folder` of a report; and
    the arguments without them.

    Raises:
        UserError: the notebook is unknown.
    """
    names, own, rest, words = _parameter_names(_find(name)) - set(HINTS) - {"preset"}, {}, [], list(args)
    while words:
        word = words.pop(0)
        if word == "-p" and len(words) > 1 and words[0] in names:
            parameter = words.pop(0)
            own[parameter] = words.pop(0)
        else:
            rest.append(word)
    return own, rest


def takes_settings(name: str) -> bool:
    """Whether a notebook's parameters are the settings of a run. Raises UserError for an unknown notebook."""
    return "preset" in _parameter_names(_find(name))


def _parameter_names(source: Path) -> set[str]:
    """The names in the cell tagged `parameters`; without one papermill would insert them before everything else."""
    import nbformat

    cells = nbformat.read(source, as_version=4).cells
    mine = [ast.parse(cell.source) for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    stored = [node for tree in mine for node in ast.walk(tree) if isinstance(node, ast.Name)]
    return {node.id for node in stored if isinstance(node.ctx, ast.Store)}


def _parameters(preset: str, config: RunConfig) -> dict[str, Any]:
    """Only the fields that differ from the preset, so that the injected cell stays readable."""
    base = RunConfig.make(preset).to_dict()
    changed = {name: value for name, value in config.to_dict().items() if value != base[name]}
    return {"preset": preset, **changed, "out": str(config.folder)}
