"""Run a notebook from top to bottom without a browser, and leave an offline page of it."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vpdlab_widgets.base import visible

from vpdlab.config import RunConfig
from vpdlab.errors import RunFailed, UserError
from vpdlab.record import load_run, mark_stopped, prepare, refuse_links

EXIT_STATUS = {"complete": 0, "stopped": 130}  # how a run ended -> status of the command; anything else is 1


def notebooks() -> Path:
    """The folder of the notebooks: beside the package in a checkout, inside it when installed from a wheel."""
    here = Path(__file__).resolve().parent
    beside = here.parent / "notebooks"
    return beside if beside.is_dir() else here / "_notebooks"


def run_notebook(name: str, preset: str, config: RunConfig) -> int:
    """Execute a parameterised notebook with the config's fields; writes NAME.ipynb and NAME.html in the run's folder.

    The status comes from the run's own status.json: what a notebook's cells report is not to be trusted after an
    interrupt.

    Raises:
        UserError: for an unknown notebook, a folder that holds a run already, or bad input found in the notebook.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from vpdlab.page import notebook_to_page
    from vpdlab.run.resume import locked

    source = notebooks() / f"{name}.ipynb"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in notebooks().glob("*.ipynb")))
        raise UserError(f"unknown notebook {name!r}: choose one of {known}")
    folder = config.folder
    if not config.resumes:
        prepare(folder)
    else:
        refuse_links(folder)
    if config.resumes and (folder / "config.json").exists():
        with locked(folder):  # nobody writes it, so what its status says of a process is past
            mark_stopped(folder)
    executed = folder / f"{name}.ipynb"
    print(f"{source.name} runs; the executed copy grows in {executed}", flush=True)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, not one of the same name elsewhere
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters without a default in the notebook
    error = None
    try:
        with _stopping_gently(folder):
            papermill.execute_notebook(
                source,
                executed,
                parameters=_parameters(preset, config) if _takes_parameters(source) else {},
                kernel_name="python3",
                progress_bar=False,
                stdout_file=_Terminal(sys.stdout),  # what the cells print, as it comes
            )
    except PapermillExecutionError as raised:
        error = raised
    page = folder / f"{name}.html"
    notebook_to_page(executed, page)
    print(f"the executed notebook: {executed}\nthe page, to open offline: {page}")
    if error is not None:
        if error.ename == "UserError":
            raise UserError(error.evalue)
        print(f"the notebook failed in cell {error.exec_count}: {error.ename}: {visible(error.evalue)}")
        return 1
    if not (folder / "config.json").exists():
        return 0  # a walk-through leaves no run
    return EXIT_STATUS.get(load_run(folder).status["state"], 1)


def report(folder: Path, page: Path | None = None) -> Path:
    """Execute report.ipynb on a run's folder and write it as one offline page; needs neither torch nor the model.

    Args:
        folder: of the run; it may still be running.
        page: the HTML file to write; None: report.html in the run's folder.

    Returns:
        The page's path.

    Raises:
        UserError: where there is no run, or one without an iteration, or the page cannot be written.
        RunFailed: where the notebook fails.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    from vpdlab.page import notebook_to_page

    record = load_run(folder)
    if page is None:
        refuse_links(folder)
    if not record.rows:
        raise UserError(f"{folder} holds a run without an iteration yet: there is nothing to report")
    record.check()
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    with tempfile.TemporaryDirectory() as place:
        executed = Path(place) / "report.ipynb"
        source = notebooks() / "report.ipynb"
        try:
            papermill.execute_notebook(
                source, executed, {"folder": str(folder)}, kernel_name="python3", progress_bar=False
            )
        except PapermillExecutionError as error:
            kind = UserError if error.ename == "UserError" else RunFailed
            raise kind(f"{folder} cannot be reported: {' '.join(error.evalue.split())}") from error
        return notebook_to_page(executed, page or folder / "report.html", title=f"{folder.resolve().name}: report")


class _Terminal:
    """A terminal for text that is not trusted: colours and the cursor's moves of progress bars, nothing else."""

    _HARMLESS = re.compile(r"(\x1b\[[\d;]*m|\x1b\[\d*[AK]|\r)")

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        parts = self._HARMLESS.split(text)  # every second one is harmless
        self._out.write("".join(part if number % 2 else visible(part) for number, part in enumerate(parts)))
        return len(text)

    def flush(self) -> None:
        self._out.flush()


@contextmanager
def _stopping_gently(folder: Path) -> Iterator[None]:
    """Hand the first interrupt on to the run in the kernel, which finishes its step, saves, and lets the notebook go on
    to its end. A second one stops everything; the status then says so, since the kernel no longer can."""
    before, asked = signal.getsignal(signal.SIGINT), []

    def handle(number: int, frame: object) -> None:
        status = load_run(folder).status if (folder / "config.json").exists() else None
        if asked or status is None or status["state"] != "running":
            raise KeyboardInterrupt
        asked.append(True)
        os.kill(status["pid"], signal.SIGINT)

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if (folder / "config.json").exists():
            mark_stopped(folder)


def _takes_parameters(source: Path) -> bool:
    """Whether a cell is tagged `parameters`; papermill would put them before everything where none is."""
    import nbformat

    cells = nbformat.read(source, as_version=4).cells
    return any("parameters" in cell.metadata.get("tags", []) for cell in cells)


def _parameters(preset: str, config: RunConfig) -> dict[str, Any]:
    """Only what differs from the preset: the injected cell stays readable."""
    base = RunConfig.make(preset).to_dict()
    changed = {name: value for name, value in config.to_dict().items() if value != base[name]}
    return {"preset": preset, **changed, "out": str(config.folder)}
