"""The documents: every link leads somewhere, every Python block runs, every command is one that vpdlab takes.

README.md, CONTRIBUTING.md, CHANGELOG.md, LOG.md and docs/*.md are checked as Markdown; tests/house/test_site.py builds
the site from them.
"""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from toy import equal, weights

from vpdlab import Run, RunConfig, cli, zoo
from vpdlab.cli import comparing, discovering, headless
from vpdlab.cli.options import fork_named
from vpdlab.compare import studies
from vpdlab.config import HINTS
from vpdlab.feedback.sources import CRITIQUE, SOURCES
from vpdlab.foreign.rows import ALIASES, FIELDS
from vpdlab.learn.methods import METHODS
from vpdlab.record import load_run
from vpdlab.study.discover import METHODS as SEARCHES
from vpdlab.tasks import environments

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "LOG")] + sorted(
    ROOT.glob("docs/*.md")
)
HISTORY = {"LOG.md", "CHANGELOG.md"}  # name what was
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "bash", "json", "text"}
SMALL = ["--steps", "1", "--group", "2", "--max_new_tokens", "8", "--eval_every", "-1"]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(path: Path, language: str) -> list[str]:
    return [text for name, text in FENCE.findall(read(path)) if name == language]


def named(paths: list[Path]) -> dict[str, list[Path]]:
    """Arguments of `parametrize`: pages under their names."""
    return {"argvalues": paths, "ids": [path.name for path in paths]}


# -- links ---------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", read(path)), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"<[^>]*>|[`*]", "", heading).lower()).replace(" ", "-")
        assert slug not in found, f"{path.name} has two headings with the anchor #{slug}"
        found.add(slug)
    return found


def links(path: Path) -> Iterator[str]:
    """The targets of all links and pictures of a page."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", read(path)))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    yield from re.findall(r'(?:src|srcset|href)="([^"]+)"', text)


def fault(path: Path, link: str) -> str:
    """What is wrong with a link; empty for a good one. Nothing is fetched."""
    parts = urllib.parse.urlsplit(link)
    if parts.scheme:
        return (
            ""
            if parts.scheme == "https" and re.fullmatch(r"([\w-]+\.)+[a-z]{2,}", parts.netloc)
            else "no https address"
        )
    target = (path.parent / parts.path).resolve() if parts.path else path
    if not target.is_relative_to(ROOT) or not target.exists():
        return "no such file"
    if parts.fragment and (target.suffix != ".md" or parts.fragment not in anchors(target)):
        return "no such heading"
    return ""


@pytest.mark.parametrize("path", **named(PAGES))
def test_every_link_leads_somewhere(path: Path) -> None:
    assert {link: reason for link in links(path) if (reason := fault(path, link))} == {}


def test_the_link_check_sees_what_is_wrong() -> None:
    page = ROOT / "README.md"
    faults = [
        fault(page, link)
        for link in ("docs/nope.md", "docs/tasks.md#nope", "#nope", "http://x.org", "https://x", "/etc")
    ]
    assert faults == [
        "no such file",
        "no such heading",
        "no such heading",
        "no https address",
        "no https address",
        "no such file",
    ]
    assert fault(page, "docs/tasks.md#a-task-of-your-own") == fault(page, "https://arxiv.org/abs/2605.15113") == ""


def test_the_front_page_links_to_every_page() -> None:
    assert {ROOT / link for link in links(ROOT / "README.md")} >= set(PAGES) - {ROOT / "README.md"}


# -- code ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", **named(PAGES))
def test_every_block_of_code_has_a_language_that_is_checked(path: Path) -> None:
    assert {language for language, _ in FENCE.findall(read(path))} <= LANGUAGES


@pytest.mark.slow
@pytest.mark.parametrize("path", **named([path for path in PAGES if blocks(path, "python")]))
def test_the_python_of_a_page_runs(path: Path, tmp_path, monkeypatch, capsys) -> None:
    """All blocks of a page one after the other, in one namespace and an empty folder, with small batches."""
    make = RunConfig.make
    small = {"prompts": 4, "group": 4, "eval_problems": 8, "eval_samples": 2}
    monkeypatch.setattr(RunConfig, "make", lambda preset="", **fields: make(preset, **small | fields))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("plotly.basedatatypes.BaseFigure.show", lambda figure: figure.to_json())
    if path.name == "tasks.md":
        (tmp_path / "prompts.jsonl").write_text(*blocks(path, "json"))
        (tmp_path / "plural.py").write_text(blocks(path, "python")[0])
    space: dict = {}
    try:
        for block in blocks(path, "python"):
            exec(compile(block, path.name, "exec"), space)
    finally:
        METHODS.pop("sure", None)
        sys.modules.pop("plural", None)
    if check := CHECKS.get(path.name):
        check(capsys.readouterr().out.splitlines(), space)


def _methods(out: list[str], space: dict) -> None:
    assert [line.split()[0] for line in out[:3]] == ["1", "2", "3"]
    assert all(float(line.split()[2]) > 0 for line in out[:3])
    assert out[3].startswith("tensor(")


def _tasks(out: list[str], space: dict) -> None:
    assert [line.split()[0] for line in out] == ["1", "2", "3"]


def _readme(out: list[str], space: dict) -> None:
    assert [line.split()[0] for line in out] == [str(step) for step in range(1, 41)]


def _iteration(out: list[str], space: dict) -> None:
    """The page's code is an iteration: a run's first step ends in the same weights, bit for bit."""
    twin = Run.open(replace(space["config"], steps=1, eval_every=-1), record=False)
    start = weights(twin)
    assert len(list(twin.steps())) == 1
    assert equal(weights(space["run"]), weights(twin)) and not equal(start, weights(twin))


def _episodes(out: list[str], space: dict) -> None:
    """An episode is shown, the page's own environment trains for two iterations, and searches end in a table."""
    roles = [turn.role for turn in space["episode"].turns]
    assert roles[:2] == ["assistant", "user"] and [line for line in out if re.fullmatch(r"\[\w+\]", line)] == [
        f"[{role}]" for role in roles
    ]
    assert 0 < len(space["own"]) < len(space["episode"].response_ids)
    rows = [line.split() for line in out if re.match(r"[12] \d", line)]
    assert [row[0] for row in rows] == ["1", "2"] and all(float(row[2]) > 0 for row in rows)
    assert any(line["turn_roles"] for step in (1, 2) for line in load_run("runs/digits").rollouts(step))
    assert [line.split("`")[1] for line in out if line.startswith("| `")] == ["best-of-k", "conversation", "sdpo"]


CHECKS = {
    "episodes.md": _episodes, "iteration.md": _iteration, "methods.md": _methods, "tasks.md": _tasks,
    "README.md": _readme,
}  # fmt: skip


def commands(path: Path) -> list[list[str]]:
    """The arguments of every vpdlab command of a page, without the launcher before it and without its comment."""
    found = []
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if "vpdlab" in words and words[0] in ("vpdlab", "accelerate", "torchrun"):
                found.append(words[words.index("vpdlab") + 1 :])
    return found


ALL_COMMANDS = [(path, words) for path in PAGES for words in commands(path)]


@pytest.mark.parametrize(("path", "words"), ALL_COMMANDS, ids=[f"{p.stem}-{' '.join(w)[:50]}" for p, w in ALL_COMMANDS])
def test_every_command_is_one_that_vpdlab_takes(path: Path, words: list[str], tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    command, rest = words[0], words[1:]
    if command == "train":
        place, fields = fork_named(cli.as_options(rest))
        config, _ = cli.parse_run("vpdlab train", fields)
        assert not place or re.fullmatch(r"runs/\w+(@\d+)?", place)
        assert config.method in METHODS
    elif command == "notebook":
        assert rest[0] in cli.names()
        cli.parse_run("vpdlab notebook", cli.as_options(headless.own_parameters(rest[0], rest[1:])[1]))
    elif command == "discover":
        chosen, fields = discovering.options().parse_known_args(rest)
        cli.parse_preset("vpdlab discover", cli.as_options(fields))
        assert set(chosen.methods) <= set(SEARCHES)
    elif command in ("compare", "study"):
        assert cli.main([*words, "--dry-run"]) == 0
    elif command == "forecast":
        chosen, fields = comparing.forecast_options().parse_known_args(rest)
        cli.parse_preset("vpdlab forecast", cli.as_options(fields))
        assert not (chosen.fit or chosen.check) or studies.read_study(chosen.fit or chosen.check).conditions
    elif command == "models":
        assert rest == ["get", *[entry["name"] for entry in zoo.catalog() if entry["name"] in rest]]
    elif command == "doctor" and rest:  # what a run needs; whether this machine has it is another matter
        assert cli.main(words) in (0, 1)
    elif rest:  # eval, export, report: their options fit, and the run is what is missing
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert rest[0] in err and "--help" not in err
    else:
        assert command in cli.COMMANDS


def test_every_model_that_a_command_names_can_be_loaded() -> None:
    """A short name, a hub's, a run's, or one that the page makes; `doctor` also takes shapes without weights."""
    given = [words for _, words in ALL_COMMANDS if "--model" in words and words[0] != "doctor"]
    models = {words[words.index("--model") + 1] for words in given}
    known = {entry["name"] for entry in zoo.catalog()} | {"MODEL", "reader2"}
    assert {name for name in models - known if not re.fullmatch(r"[A-Z]\w+/[\w.-]+|runs/.+", name)} == set()


def test_every_command_is_documented() -> None:
    assert {words[0] for words in commands(ROOT / "docs" / "commands.md")} == set(cli.COMMANDS)


@pytest.mark.parametrize("path", **named(PAGES))
def test_make_has_every_target_that_is_named(path: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", read(ROOT / "Makefile"), flags=re.MULTILINE))
    inline = set(re.findall(r"`make ([a-z]+)", read(path)))
    lines = set(re.findall(r"^make ([a-z]+)", "\n".join(blocks(path, "bash")), flags=re.MULTILINE))
    assert inline | lines <= targets


@pytest.mark.slow
def test_the_task_of_your_own_trains(tmp_path, monkeypatch, capsys) -> None:
    page = ROOT / "docs" / "tasks.md"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(*blocks(page, "json"))
    (tmp_path / "plural.py").write_text(blocks(page, "python")[0])
    (words,) = commands(page)
    assert cli.main([*words, *SMALL, "--out", "runs/a"]) == 0
    assert "own: 2 train, 1 test problems from prompts.jsonl" in capsys.readouterr().out


@pytest.mark.parametrize("path", **named([path for path in PAGES if path.name not in HISTORY]))
def test_every_path_that_is_named_exists(path: Path) -> None:
    """Paths of the repository in code spans; what `make` writes is not there yet."""
    rooms = r"(?:vpdlab|vpdlab_widgets|widgets|tests|docs|benchmarks|notebooks)/[\w./*-]*"
    found = re.findall(rf"`({rooms}|(?!build/)[\w./-]+/[\w-]+\.(?:py|js|md|ipynb))`", read(path))
    assert [name for name in found if not list(ROOT.glob(name.rstrip("/")))] == []


# -- names ---------------------------------------------------------------------------------------------------------


def test_the_page_of_methods_has_all_of_them_and_settings_that_exist() -> None:
    page = read(ROOT / "docs" / "methods.md")
    table = re.findall(r"^\| `([\w-]+)` \|", page.split("## The E-step")[0], flags=re.MULTILINE)
    assert table == list(METHODS)
    settings = set(re.findall(r"`([a-z]+_[a-z]+)`", page))
    assert settings - set(HINTS) == {"kl_teacher", "teacher_rollouts", "teacher_accuracy", "old_logp"}  # records; seen


def test_the_page_of_tasks_names_settings_and_sources_that_exist() -> None:
    page = read(ROOT / "docs" / "tasks.md")
    assert set(re.findall(r"--(\w+)", page)) <= set(HINTS)
    table = page.split("## Feedback sources")[1].split("### Critics")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)) == {*SOURCES, CRITIQUE}


def test_the_page_of_episodes_has_every_environment_with_its_options_and_settings_that_exist() -> None:
    page = read(ROOT / "docs" / "episodes.md")
    table = page.split("## Environments included")[1].split("Each works around a task")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", table, flags=re.MULTILINE)
    assert sorted(name for name, _ in rows) == environments.names()
    for name, options in rows:
        module = importlib.import_module(f"{environments.__name__}.{name}")
        build = next(kind for kind in vars(module).values() if getattr(kind, "name", None) == name)
        assert re.findall(r"`(\w+)`", options) == [p for p in inspect.signature(build).parameters if p != "task"]
    assert set(re.findall(r"--(\w+)", page)) - set(HINTS) == {"preset", "methods", "problems", "limit"}
    settings = page.split("## Settings")[1].split("## Environments included")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", settings, flags=re.MULTILINE)) <= set(HINTS)


def test_the_page_of_rollouts_has_every_column() -> None:
    table = read(ROOT / "docs" / "rollouts.md").split("| column |")[1].split("Other columns")[0]
    assert set(re.findall(r"`(\w+)`", re.sub(r"\|[^|]*\|$", "", table, flags=re.MULTILINE))) == {*FIELDS, *ALIASES}


def test_the_page_of_vllm_names_settings_that_exist() -> None:
    page = read(ROOT / "docs" / "engines.md")
    ours = "".join(re.findall(r"^(?!VLLM|  --).*$", page, flags=re.MULTILINE))  # not the server's own command
    found = set(re.findall(r"(?<!-)--(\w+)(?![\w-])", ours)) | set(re.findall(r"`(vllm_[a-z]+)`", page))
    assert found - {"preset"} <= set(HINTS)
    assert {name for name in HINTS if name.startswith("vllm_")} <= found


def test_the_page_of_settings_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "docs" / "make_settings.py", "--check"], check=False)
    assert done.returncode == 0, "run: python docs/make_settings.py"
