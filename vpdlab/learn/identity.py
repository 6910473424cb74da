"""The identity of a run's inputs, as checksums: problems with all their data, judges, and parts passed from Python.

Settings only name such inputs; the checksums show whether their content has changed. They are recorded, compared on
resume, and keep a run from being scored against another task.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vpdlab.learn.m_step import Method
from vpdlab.model import sharding
from vpdlab.model.policy import STUDENT, Policy
from vpdlab.sampling import Sampler
from vpdlab.tasks import Task
from vpdlab.tasks.environments import Environment, Opened


def method_identity(method: Method) -> dict[str, Any]:
    """A method that was handed in: the source of its functions and its plain settings."""
    parts = [method.loss, method.e_step, method.measure, method.prepare]
    sources = [source_of(part) if part is not None else "" for part in parts]
    plain_settings = [method.views, plain(method.needs), plain(method.options)]
    if method.samples != STUDENT or method.joint:  # left out elsewhere, so that older runs keep their sum
        plain_settings += [method.samples, method.joint]
    return {"name": method.name, "sum": digest([sources, plain_settings])}


def sampler_identity(sampler: Sampler) -> dict[str, Any]:
    """A sampler that was handed in: its class and the source of its `generate`."""
    return {"class": _class_name(sampler), "sum": digest([source_of(sampler.generate)])}


def environment_identity(environment: Environment) -> dict[str, Any]:
    """An environment that was handed in: its class, the source of its functions and its plain settings."""
    sources = [source_of(environment.start), source_of(environment.step)]
    settings = {name: value for name, value in vars(environment).items() if isinstance(value, str | int | float)}
    return {"class": _class_name(environment), "sum": digest([sources, plain(settings)])}


def policy_identity(policy: Policy) -> dict[str, Any]:
    """A policy that was handed in: its architecture and a sum of all its weights as they are now."""
    return {"class": _class_name(policy.model), "sum": weights_sum(policy.model.named_parameters())}


def weights_sum(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """sha256 of tensors and their names; whole, however they are sharded."""
    content = hashlib.sha256()
    for name, tensor in weights:
        content.update(name.encode())
        content.update(sharding.whole(tensor.detach()).cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def describe_task(task: Task, handed_in: bool) -> dict[str, Any]:
    """A task's identity in plain values, for environment.json."""
    problems = problems_sum(task)  # as the student reads them
    task = task.task if isinstance(task, Opened) else task
    return {
        "name": task.name,
        "class": _class_name(task),
        "handed_in": handed_in,
        "problems": problems,
        "judge": judge_sum(task, handed_in),
    }


def problems_sum(task: Task) -> str:
    """sha256 of every problem of both splits, its data for the judge included."""
    problems = [problem for split in ("train", "test") for problem in task.load(split)]
    return digest([[p.id, p.system, p.prompt, p.answer, plain(p.data), *p.history] for p in problems])


def judge_sum(task: Task, handed_in: bool) -> str:
    """sha256 of what judges responses: its source, that of the modules beside it which it has imported, and the plain
    settings of a task that was handed in. "" for a task of vpdlab itself, which the version identifies.

    Data files that a judge reads are not included.
    """
    judge = getattr(task, "judge", None) or (task.verify if handed_in else None)
    if judge is None:
        return ""
    modules = sorted(getattr(task, "judge_modules", {}).items())
    files = [(name, getattr(module, "__file__", None)) for name, module in modules]
    beside = [[name, Path(file).read_bytes().hex()] for name, file in files if file and Path(file).is_file()]
    settings = getattr(task, "__dict__", {}) if handed_in else {}
    return digest([source_of(judge), beside, {key: value for key, value in settings.items() if _is_setting(value)}])


def _is_setting(value: Any) -> bool:
    """A number, a string or a short list of them; larger values are a task's problems or its own state."""
    if isinstance(value, list | tuple):
        return len(value) < 100 and all(_is_setting(item) for item in value)
    return value is None or isinstance(value, str | int | float)


def source_of(function: Callable[..., Any]) -> str:
    """The file that defines a function; for one typed in a notebook, its own text; otherwise its compiled form. Of a
    partial also its arguments."""
    bare = inspect.unwrap(function)
    if isinstance(bare, functools.partial):
        return json.dumps([source_of(bare.func), plain(bare.args), plain(bare.keywords)])
    try:
        file = inspect.getsourcefile(bare)
        if file is not None and Path(file).is_file():
            return Path(file).read_bytes().hex()
        return inspect.getsource(bare)
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):  # or its file's name belongs to another text
        code = getattr(bare, "__code__", None)
        return (
            repr((code.co_code, code.co_names))
            if code is not None
            else f"{type(bare).__module__}.{type(bare).__name__}"
        )


def plain(value: Any) -> Any:
    """A value as JSON has it, the same each time: sets in an order, objects by their fields or their type."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    if isinstance(value, Sequence):
        return value.hex() if isinstance(value, bytes | bytearray) else [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=repr)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return _class_name(value)


def digest(value: Any) -> str:
    """sha256 of a plain value as JSON."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True).encode()).hexdigest()
