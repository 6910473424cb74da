"""Convert tests to cases: `assert f(x) == literal` states input and expected value, so it need not run inside.

Any other test (a loop, a value computed with the candidate's own functions) remains code that runs beside the
candidate. A candidate can cheat such a test, so it is marked weak.
"""

from __future__ import annotations

import ast
import marshal
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpdlab.sandbox.constants import Names, NotConstant, constant
from vpdlab.sandbox.inside import WRAPS, NotPlain, encode
from vpdlab.sandbox.scope import inert, rebound
from vpdlab.sandbox.values import EXACT, Rules

PYTHON = Rules(0.0, 0.0, numbers=True, form="==")
SAME = Rules(0.0, 0.0, numbers=True, form="is")
TRUE, FALSE = ast.Constant(True), ast.Constant(False)
NUMBERS = (int, float, complex)


@dataclass(frozen=True)
class Case:
    """One call and its expected value.

    Attributes:
        args, keywords: the arguments of the call; plain values.
        expected: the expected return value; it never enters the sandbox.
        wrap: a builtin applied to the result before the comparison ("set" in `set(f(x)) == {1}`); "" for none.
        rules: when a result counts as equal.
    """

    args: tuple[Any, ...]
    expected: Any
    keywords: Mapping[str, Any] = field(default_factory=dict)
    wrap: str = ""
    rules: Rules = EXACT


@dataclass(frozen=True)
class Inside:
    """A test that cannot be converted to a case: code that runs beside the candidate, and is therefore weak."""

    code: str


def read_tests(source: str, names: Collection[str], before: str = "") -> list[Case | Inside]:
    """The tests in source code: a case for each assert that can be one, and at most one `Inside` for all others.

    An assert becomes a case only if its meaning does not depend on the rest of the code: none of its names is rebound,
    and no statement before it can change what the function returns (`scope`). The verdict of a case is what Python
    would decide for the assert.

    Args:
        source: statements, or `def check(candidate): ...` (HumanEval).
        names: the names of the function in the tests.
        before: tests that run earlier in the same namespace; what they set up is set up here too.

    Raises:
        SyntaxError: for source that is not Python.
    """
    first, body = ast.parse(before).body, ast.parse(source).body
    check = _check(body, names)
    inner = check.body if check else []
    outside = [node for node in body if node is not check and not _calls_check(node, names, check)]
    function = frozenset(names) | ({check.args.args[0].arg} if check else frozenset())
    everything = [*first, *outside, *inner]
    lost = rebound(everything)
    known = Names(function, None if lost is None else frozenset(lost))
    touched = not all(inert(node, function, everything) for node in first)
    tests: list[Case | Inside] = []
    kept: tuple[list[ast.stmt], list[ast.stmt]] = ([], [])  # statements that remain, outside and inside of check
    for part, node in [*((0, node) for node in outside), *((1, node) for node in inner)]:
        case = _read(node, known, touched) if isinstance(node, ast.Assert) else None
        if case is not None:
            tests += case
        else:
            kept[part].append(node)
            touched = touched or not inert(node, function, everything)
    if any(_tests(node, function) for node in (*kept[0], *kept[1])):
        prepared = [node for node in first if not isinstance(node, ast.Assert)]
        tests.append(Inside(_code([*prepared, *kept[0]], check, kept[1], names)))
    return tests


def _read(node: ast.Assert, names: Names, touched: bool) -> list[Case | Inside] | None:
    """The case of an assert, [] for one that always holds; None for one that must run inside."""
    if isinstance(node.test, ast.Constant) and node.test.value:
        return []  # `assert True`
    if touched:
        return None
    try:
        case = _case(node.test, names)
        encode((case.args, case.expected, dict(case.keywords)), longest=1 << 40)
        marshal.dumps((case.args, dict(case.keywords)), 2)
    except (NotConstant, NotPlain, ValueError):
        return None
    return [case]


def _check(body: Sequence[ast.stmt], names: Collection[str]) -> ast.FunctionDef | None:
    """`def check(candidate)`, if the code only defines and calls it."""
    found = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    if len(found) != 1 or len(found[0].args.args) != 1 or found[0].decorator_list:
        return None
    uses = [node for part in body for node in ast.walk(part) if isinstance(node, ast.Name) and node.id == "check"]
    calls = [node for node in body if _calls_check(node, names, found[0])]
    own = [node for part in found[0].body for node in _level(part)]
    if len(uses) != len(calls) or any(isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) for node in own):
        return None
    return found[0]


def _level(node: ast.AST) -> list[ast.AST]:
    """A node and its descendants, without the bodies of nested functions and classes."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return [node]
    return [node, *(part for child in ast.iter_child_nodes(node) for part in _level(child))]


def _calls_check(node: ast.stmt, names: Collection[str], check: ast.FunctionDef | None) -> bool:
    """Whether a statement is `check(f)`."""
    match node:
        case ast.Expr(value=ast.Call(func=ast.Name(id="check"), args=[ast.Name(id=name)], keywords=[])):
            return check is not None and name in names
    return False


def _tests(node: ast.stmt, function: Collection[str]) -> bool:
    """Whether a statement can fail because of the function."""
    return any(
        isinstance(part, ast.Assert | ast.Raise)
        or (isinstance(part, ast.Name) and part.id in function and isinstance(part.ctx, ast.Load))
        for part in ast.walk(node)
    )


def _code(outside: list[ast.stmt], check: ast.FunctionDef | None, inner: list[ast.stmt], names: Collection[str]) -> str:
    """The remaining tests as code. `check` stays a function, so that its variables are not visible to the candidate."""
    lines = [ast.unparse(node) for node in outside]
    called = "candidate" if "candidate" in names else min(names)
    if check is not None and inner:
        rest = ast.FunctionDef("check", check.args, inner, [], None)
        lines += [ast.unparse(ast.fix_missing_locations(rest)), f"check({called})"]
    elif any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in outside) and not any(
        isinstance(node, ast.Expr) and "check(" in ast.unparse(node) for node in outside
    ):
        lines.append(f"check({called})")
    return "\n".join(lines)


def _case(test: ast.expr, names: Names) -> Case:
    """`f(x) == y`, `y == f(x)`, `f(x) is None`, `f(x)`, `not f(x)`, `abs(f(x) - y) < z`, `math.isclose(f(x), y)`."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _call(test.operand, FALSE, names, PYTHON, "bool")
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compared(test.left, test.ops[0], test.comparators[0], names)
    if isinstance(test, ast.Call) and ast.unparse(test.func) == "math.isclose" and names.builtin("math"):
        return _is_close(test, names)
    return _call(test, TRUE, names, PYTHON, "bool")


def _compared(left: ast.expr, kind: ast.cmpop, right: ast.expr, names: Names) -> Case:
    if isinstance(kind, ast.Lt | ast.LtE):
        return _near(left, "abs <" if isinstance(kind, ast.Lt) else "abs <=", constant(right, names), names)
    if not isinstance(kind, ast.Eq | ast.Is):
        raise NotConstant("another comparison")
    case = _either(left, right, names, PYTHON if isinstance(kind, ast.Eq) else SAME)
    # Whether two other equal values are identical depends on the interpreter.
    if isinstance(kind, ast.Is) and not (case.expected is None or case.expected is True or case.expected is False):
        raise NotConstant("the identity of a value")
    return case


def _either(left: ast.expr, right: ast.expr, names: Names, rules: Rules) -> Case:
    """The case of a comparison, either side of which calls the function."""
    try:
        return _call(left, right, names, rules)
    except NotConstant:
        return _call(right, left, names, rules)


def _is_close(test: ast.Call, names: Names) -> Case:
    given = {word.arg: constant(word.value, names) for word in test.keywords}
    if len(test.args) != 2 or not set(given) <= {"rel_tol", "abs_tol"}:
        raise NotConstant(ast.unparse(test))
    rules = Rules(given.get("rel_tol", 1e-9), given.get("abs_tol", 0.0), numbers=True, form="isclose")
    return _numbers(_either(test.args[0], test.args[1], names, rules))


def _near(node: ast.expr, form: Any, tolerance: Any, names: Names) -> Case:
    match node:
        case ast.Call(func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)], keywords=[]) if (
            names.builtin("abs")
        ):
            return _numbers(_either(left, right, names, Rules(0.0, tolerance, numbers=True, form=form)))
    raise NotConstant(ast.unparse(node))


def _numbers(case: Case) -> Case:
    """The case, if its expected value and tolerances are numbers; raises NotConstant otherwise."""
    if not isinstance(case.expected, NUMBERS) or not all(
        isinstance(value, int | float) for value in (case.rules.relative, case.rules.absolute)
    ):
        raise NotConstant("near something that is no number")
    return case


def _call(node: ast.expr, expected: ast.expr, names: Names, rules: Rules, wrap: str = "") -> Case:
    """The case of a call of the function, bare or wrapped in one builtin such as `sorted`."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise NotConstant(ast.unparse(node))
    name = node.func.id
    if name in WRAPS and names.builtin(name) and len(node.args) == 1 and not node.keywords and not wrap:
        return _call(node.args[0], expected, names, rules, name)
    if not names.candidate(name) or any(word.arg is None for word in node.keywords):
        raise NotConstant(ast.unparse(node))
    args = tuple(constant(argument, names) for argument in node.args)
    keywords = {str(word.arg): constant(word.value, names) for word in node.keywords}
    return Case(args, constant(expected, names), keywords, wrap, rules)
