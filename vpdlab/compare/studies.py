"""Studies: many conditions, methods and seeds, and the claims that they test, as one YAML file.

title: Do words help?
seeds: [20, 21, 22]
methods: [vpd, sdpo, "vpd:beta=0.1"]
conditions:
  liar 50 %:
    preset: words-liar
    task_args: ["seed={seed}"]     # over the preset's; {seed} is the run's
    settings: {noise_shuffle: 0.5}
    methods: [sdpo, grpo]          # instead of the study's
claims:
  - claim: The E-step helps where half of the critiques are lies.
    better: [liar 50 %, vpd]
    worse: [liar 50 %, sdpo]
    by: 20                         # points; default 0
  - claim: Opposite words leave nothing.
    run: [opposite, sdpo]
    below: 15                      # percent
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vpdlab.compare.runs import Cell, apart, plan, refuse_planned
from vpdlab.config import RunConfig, read_options
from vpdlab.config.yaml_files import read_yaml
from vpdlab.errors import UserError
from vpdlab.paths import user_path

STUDIES = Path(__file__).parent / "studies"


@dataclass(frozen=True)
class Condition:
    """One world of a study.

    Attributes:
        name: as in tables.
        preset: what its settings start from.
        task_args: options of the task over the preset's, as NAME=VALUE; "{seed}" is the run's seed.
        settings: fields of RunConfig over the preset's.
        methods: labels as in `vpdlab compare`: "vpd:beta=0.1".
    """

    name: str
    preset: str
    task_args: tuple[str, ...]
    settings: Mapping[str, Any]
    methods: tuple[str, ...]

    def config(self, seed: int, more: Mapping[str, Any]) -> RunConfig:
        """The settings that all of its methods share. Raises UserError for one that does not fit."""
        try:
            base = RunConfig.make(self.preset, **self.settings)
        except UserError as error:
            raise UserError(f"condition {self.name}: {error}") from error
        own = read_options([option.replace("{seed}", str(seed)) for option in self.task_args])
        options = read_options(base.task_args) | own
        return base.but(task_args=tuple(f"{name}={value}" for name, value in options.items()), **more)


@dataclass(frozen=True)
class Claim:
    """A sentence that a study confirms, refutes or leaves open.

    Attributes:
        claim: the sentence.
        better, worse: (condition, method) of the two runs that it compares, and `by`: the least difference in
            percentage points. Or else
        run, below: a run and the percentage that its final accuracy stays under. Or else
        run, trusts: a run and two voices: its teacher believes the first more than the second in the end, by `by`
            percentage points or more (the task's probes "belief/VOICE").
    """

    claim: str
    better: tuple[str, str] | None = None
    worse: tuple[str, str] | None = None
    by: float = 0.0
    run: tuple[str, str] | None = None
    below: float | None = None
    trusts: tuple[str, str] | None = None

    @property
    def runs(self) -> tuple[tuple[str, str], ...]:
        """The runs that it speaks of."""
        return tuple(one for one in (self.better, self.worse, self.run) if one is not None)


@dataclass(frozen=True)
class Study:
    """A study file, read.

    Attributes:
        title: heading of its page.
        seeds: of each method in each condition.
        conditions: in the order of the file.
        claims: what it tests.
    """

    title: str
    seeds: tuple[int, ...]
    conditions: tuple[Condition, ...]
    claims: tuple[Claim, ...]

    def chosen(self, conditions: Sequence[str], methods: Sequence[str], seeds: Sequence[int]) -> Study:
        """Part of the study; an empty choice means all. Raises UserError for a name that it does not have."""
        known = {condition.name: condition for condition in self.conditions}
        for name in conditions:
            if name not in known:
                raise UserError(f"study: there is no condition {name!r}: choose from {', '.join(known)}")
        kept = [known[name] for name in _each_once("conditions", conditions)] if conditions else list(self.conditions)
        labels = {label for condition in kept for label in condition.methods}
        for label in methods:
            if label not in labels:
                raise UserError(f"study: no condition runs {label!r}: choose from {', '.join(sorted(labels))}")
        if methods:
            kept = [replace(c, methods=tuple(label for label in c.methods if label in methods)) for c in kept]
        own = _each_once("seeds", seeds) if seeds else self.seeds
        return replace(self, conditions=tuple(c for c in kept if c.methods), seeds=own)

    def cells(self, out: Path, more: Mapping[str, Any] | None = None) -> list[Cell]:
        """The runs, ordered by seed, so that an interrupted study has complete seeds.

        Args:
            out: folder of the study.
            more: fields of RunConfig for all runs.
        """
        return apart([
            cell
            for seed in self.seeds
            for condition in self.conditions
            for cell in plan({condition.name: condition.config(seed, more or {})}, condition.methods, [seed], out)
        ])  # fmt: skip


def names() -> list[str]:
    """Names of the bundled studies."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def read_study(name: str) -> Study:
    """A bundled study or a YAML file.

    Raises:
        UserError: where there is no such study, or a part of the file does not fit; names the part.
    """
    path = user_path("study", name) if name.endswith((".yaml", ".yml")) else STUDIES / f"{name}.yaml"
    if not path.is_file():
        raise UserError(f"unknown study {name!r}: choose one of {', '.join(names())}, or name a .yaml file")
    return _study(Part(str(path), read_yaml(path)))


@dataclass(frozen=True)
class Part:
    """A value of a study file, and where it stands, for messages."""

    where: str
    value: Any

    def fields(self, known: Sequence[str], needed: Sequence[str] = ()) -> dict[str, Part]:
        """Its entries by name. Raises UserError for what is missing, unknown or no mapping."""
        if not isinstance(self.value, dict):
            raise UserError(f"{self.where}: expected lines of NAME: VALUE")
        for name in self.value:
            if name not in known:
                raise UserError(f"{self.where} has {name!r}, but may have {', '.join(known)}")
        for name in needed:
            if name not in self.value:
                raise UserError(f"{self.where} has no {name!r}")
        return {name: Part(f"{self.where}: {name}", value) for name, value in self.value.items()}

    def list_of(self, kind: type, what: str) -> tuple[Any, ...]:
        """A list whose items are of `kind`. Raises UserError otherwise."""
        if not isinstance(self.value, list) or not all(type(item) is kind for item in self.value):
            raise UserError(f"{self.where} is {self.value!r}, but must be a list of {what}")
        return tuple(self.value)


def _study(whole: Part) -> Study:
    parts = whole.fields(("title", "seeds", "methods", "conditions", "claims"), ("title", "seeds", "conditions"))
    usual = parts["methods"].list_of(str, "methods") if "methods" in parts else ()
    seeds, worlds = parts["seeds"].list_of(int, "whole numbers"), parts["conditions"]
    if not isinstance(worlds.value, dict):
        raise UserError(f"{worlds.where}: expected lines of NAME: CONDITION")
    conditions = tuple(_condition(str(n), Part(f"{worlds.where}: {n}", v), usual) for n, v in worlds.value.items())
    claims = parts.get("claims")
    listed = claims.list_of(dict, "claims") if claims else ()
    runs = {(condition.name, label) for condition in conditions for label in condition.methods}
    if not conditions:
        raise UserError(f"{worlds.where}: there is none")
    return Study(
        str(parts["title"].value), _each_once("seeds", seeds), conditions,
        tuple(_claim(Part(f"{whole.where}: claim {n}", value), runs) for n, value in enumerate(listed, start=1)),
    )  # fmt: skip


def _condition(name: str, part: Part, usual: tuple[str, ...]) -> Condition:
    parts = part.fields(("preset", "task_args", "settings", "methods"), ("preset",))
    methods = parts["methods"].list_of(str, "methods") if "methods" in parts else usual
    options = parts["task_args"].list_of(str, "NAME=VALUE") if "task_args" in parts else ()
    for option in options:
        if "=" not in option:
            raise UserError(f"{parts['task_args'].where}: {option!r} is no NAME=VALUE")
    settings = parts["settings"].value if "settings" in parts else {}
    if not isinstance(settings, dict):
        raise UserError(f"{parts['settings'].where}: expected lines of FIELD: VALUE")
    refuse_planned(part.where, settings)
    if not methods:
        raise UserError(f"{part.where} has no methods, and the study names none for all")
    return Condition(name, str(parts["preset"].value), options, settings, _each_once("methods", methods))


def _each_once(what: str, values: Sequence[Any]) -> tuple[Any, ...]:
    """The values, of which two would be one run. Raises UserError for none, or for one that is named twice."""
    if not values or len(set(values)) < len(values):
        raise UserError(f"study: {what} is {' '.join(map(str, values)) or 'empty'}: name one or more, each once")
    return tuple(values)


def _claim(part: Part, runs: set[tuple[str, str]]) -> Claim:
    parts = part.fields(("claim", "better", "worse", "by", "run", "below", "trusts"), ("claim",))
    named = {name: parts[name].list_of(str, "two names") for name in ("better", "worse", "run") if name in parts}
    for name, run in named.items():
        if run not in runs:
            raise UserError(f"{part.where}: {name} is {list(run)}, but the study has no such condition and method")
    if {*parts} - {"claim", "by"} not in ({"better", "worse"}, {"run", "below"}, {"run", "trusts"}):
        raise UserError(f"{part.where}: name better and worse, or run and below, or run and trusts")
    if "trusts" in parts:
        named["trusts"] = parts["trusts"].list_of(str, "two voices")
        if len(named["trusts"]) != 2:
            raise UserError(f"{parts['trusts'].where} is {parts['trusts'].value!r}, but must be a list of two voices")
    for first, second in (named.get("trusts", ("", None)), (named.get("better", ""), named.get("worse"))):
        if first == second:
            raise UserError(f"{part.where} compares {first!r} with itself")
    numbers = {name: parts[name].value for name in ("by", "below") if name in parts}
    for name, number in numbers.items():
        if type(number) not in (int, float) or not -100 <= number <= 100:
            raise UserError(f"{part.where}: {name} is {number!r}, but must be a number of points from -100 to 100")
    return Claim(str(parts["claim"].value), **named, **numbers)
