"""Tests as cases: `assert f(x) == literal` says what goes in and what must come out, so it need not run inside.

A test that says it in another way (a loop, a value computed with the candidate's own functions) stays a piece of code
that runs beside the candidate: a candidate that wants to can cheat it, so it is marked weak.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpdlab.sandbox.inside import WRAPS
from vpdlab.sandbox.values import EXACT, Rules

LARGEST = 10**5  # items or characters of a value that a test's arithmetic makes
PYTHON = Rules(relative=0.0, absolute=0.0, numbers=True)  # what `==` says, but for bool and subclasses
TRUE, FALSE = ast.Constant(True), ast.Constant(False)


@dataclass(frozen=True)
class Case:
    """One call and what it must return.

    Attributes:
        args, keywords: what the function is called with; plain values.
        expected: what it must return; it never enters the sandbox.
        wrap: a builtin applied to the result before it is compared ("set" in `set(f(x)) == {1}`); "" for none.
        rules: when a result counts as equal.
    """

    args: tuple[Any, ...]
    expected: Any
    keywords: Mapping[str, Any] = field(default_factory=dict)
    wrap: str = ""
    rules: Rules = EXACT


@dataclass(frozen=True)
class Inside:
    """A test that cannot be turned into a case: code that runs beside the candidate, and is weak for it."""

    code: str


class NotConstant(ValueError):
    """An expression that cannot be worked out without running the candidate."""


def read_tests(source: str, names: Collection[str]) -> list[Case | Inside]:
    """The tests in a piece of code: a case for each assert that can be one, at most one `Inside` for all others.

    Args:
        source: statements, or `def check(candidate): ...` (HumanEval).
        names: what the tests call the function.

    Raises:
        SyntaxError: for source that is not Python.
    """
    body = ast.parse(source).body
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    outside = [node for node in body if node not in checks]
    found: list[Case | Inside] = []
    left: list[ast.stmt] = []
    for node in [*outside, *(statement for check in checks for statement in check.body)]:
        if isinstance(node, ast.Assert):
            if isinstance(node.test, ast.Constant) and node.test.value:
                continue  # `assert True`
            try:
                found.append(_case(node.test, names))
                continue
            except NotConstant:
                pass
        left.append(node)
    if any(isinstance(part, ast.Assert) for node in left for part in ast.walk(node)):
        found.append(Inside("\n".join(ast.unparse(node) for node in left)))
    return found


def _case(test: ast.expr, names: Collection[str]) -> Case:
    """`f(x) == y`, `y == f(x)`, `f(x) is y`, `f(x)`, `not f(x)`, `abs(f(x) - y) < z`, `math.isclose(f(x), y, ...)`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _call(test.operand, FALSE, names, PYTHON, "bool")
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, right, kind = test.left, test.comparators[0], test.ops[0]
        if isinstance(kind, ast.Eq | ast.Is):
            try:
                return _call(left, right, names, PYTHON)
            except NotConstant:
                return _call(right, left, names, PYTHON)
        if isinstance(kind, ast.Lt | ast.LtE):
            return _near(left, constant(right), names)
        raise NotConstant(ast.unparse(test))
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "math.isclose" and len(test.args) == 2:
        given = {word.arg: constant(word.value) for word in test.keywords}
        rules = Rules(given.get("rel_tol", 1e-9), given.get("abs_tol", 0.0), numbers=True)
        return _call(test.args[0], test.args[1], names, rules)
    return _call(test, TRUE, names, PYTHON, "bool")


def _near(node: ast.expr, tolerance: Any, names: Collection[str]) -> Case:
    inner = node.args[0] if isinstance(node, ast.Call) and node.args else None
    if ast.unparse(node)[:4] != "abs(" or not isinstance(inner, ast.BinOp) or not isinstance(inner.op, ast.Sub):
        raise NotConstant(ast.unparse(node))
    rules = Rules(0.0, tolerance, numbers=True)
    try:
        return _call(inner.left, inner.right, names, rules)
    except NotConstant:
        return _call(inner.right, inner.left, names, rules)


def _call(node: ast.expr, expected: ast.expr, names: Collection[str], rules: Rules, wrap: str = "") -> Case:
    """The case that calls what `node` calls, bare or inside one builtin such as `sorted`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise NotConstant(ast.unparse(node))
    name = node.func.id
    if name in WRAPS and name not in names and len(node.args) == 1 and not node.keywords and not wrap:
        return _call(node.args[0], expected, names, rules, name)
    if name not in names or any(word.arg is None for word in node.keywords):
        raise NotConstant(ast.unparse(node))
    args = tuple(constant(argument) for argument in node.args)
    keywords = {str(word.arg): constant(word.value) for word in node.keywords}
    return Case(args, constant(expected), keywords, wrap, rules)


ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
SIGNS: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
BUILDERS: dict[str, Callable[..., Any]] = {
    "bytes": bytes, "complex": complex, "dict": dict, "float": float, "frozenset": frozenset, "int": int,
    "list": list, "range": range, "set": set, "sorted": sorted, "str": str, "tuple": tuple,
}  # fmt: skip


def constant(node: ast.expr) -> Any:
    """The plain value of an expression of literals, arithmetic and builders such as `set([1, 2])`.

    Raises:
        NotConstant: for any other expression, and for values that would be large.
    """
    try:
        value = _constant(node)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise NotConstant(ast.unparse(node)) from error
    if isinstance(value, range):
        return _built("list", [value])
    return value


def _constant(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value) if value is not Ellipsis:
            return value
        case ast.List(elts=items):
            return [_constant(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_constant(item) for item in items)
        case ast.Set(elts=items):
            return {_constant(item) for item in items}
        case ast.Dict(keys=keys, values=values):
            named = [key for key in keys if key is not None]  # None stands for "**other"
            return {_constant(key): _constant(value) for key, value in zip(named, values, strict=True)}
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in SIGNS:
            return SIGNS[type(sign)](_constant(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return _arithmetic(type(op), _constant(left), _constant(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in BUILDERS:
            return _built(name, [_constant(argument) for argument in args])
    raise NotConstant(ast.unparse(node))


def _arithmetic(op: type, left: Any, right: Any) -> Any:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if op is ast.Pow and not (numbers and abs(left) < 10**6 and abs(right) <= 1000):
        raise NotConstant("a power that may be large")
    if op is ast.Mult and not numbers:
        count, items = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(count, int) or not hasattr(items, "__len__") or count * len(items) > LARGEST:  # type: ignore[arg-type]
            raise NotConstant("a sequence that may be large")
    return ARITHMETIC[op](left, right)


def _built(name: str, args: Sequence[Any]) -> Any:
    if any(isinstance(argument, range) and len(argument) > LARGEST for argument in args):
        raise NotConstant("a range that is large")
    if name == "bytes" and args and isinstance(args[0], int):
        raise NotConstant("bytes of a number")
    return BUILDERS[name](*args)
