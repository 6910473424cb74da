"""Evaluate constant expressions in test code to plain values, within bounds."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

LARGEST = 10**5  # items or characters of a value that an expression in a test may produce


class NotConstant(ValueError):
    """An expression that cannot be evaluated without running the candidate."""


@dataclass(frozen=True)
class Names:
    """The meaning of names in the tests: names of the judged function, and names that the tests rebind."""

    function: frozenset[str]
    lost: frozenset[str] | None  # None: any

    def builtin(self, name: str) -> bool:
        """Whether a name still refers to Python's builtin or module."""
        return name not in self.function and self.lost is not None and name not in self.lost

    def candidate(self, name: str) -> bool:
        """Whether a name refers to the judged function."""
        return name in self.function and self.lost is not None and name not in self.lost


ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
}  # fmt: skip
SIGNS: dict[type, Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
BUILDERS: dict[str, Callable[..., Any]] = {
    "bytes": bytes, "complex": complex, "dict": dict, "float": float, "frozenset": frozenset, "int": int,
    "list": list, "range": range, "set": set, "sorted": sorted, "str": str, "tuple": tuple,
}  # fmt: skip


PLAIN_NAMES = Names(frozenset(), frozenset())


def constant(node: ast.expr, names: Names = PLAIN_NAMES) -> Any:
    """The plain value of an expression of literals, arithmetic and builders such as `set([1, 2])`.

    Raises:
        NotConstant: for any other expression, and for large values.
    """
    try:
        value = _constant(node, names)
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise NotConstant(ast.unparse(node)) from error
    if isinstance(value, range):  # not equal to a list, and cannot be sent
        raise NotConstant(ast.unparse(node))
    return value


def _constant(node: ast.expr, names: Names) -> Any:
    match node:
        case ast.Constant(value=value) if value is not Ellipsis:
            return value
        case ast.List(elts=items):
            return [_constant(item, names) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_constant(item, names) for item in items)
        case ast.Set(elts=items):
            return {_constant(item, names) for item in items}
        case ast.Dict(keys=keys, values=values):
            named = [key for key in keys if key is not None]  # None stands for "**other"
            return {_constant(key, names): _constant(value, names) for key, value in zip(named, values, strict=True)}
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in SIGNS:
            return SIGNS[type(sign)](_constant(operand, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC:
            return _arithmetic(type(op), _constant(left, names), _constant(right, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in BUILDERS and names.builtin(name):
            return _built(name, [_constant(argument, names) for argument in args])
    raise NotConstant(ast.unparse(node))


def _arithmetic(op: type, left: Any, right: Any) -> Any:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if op is ast.Pow and not (numbers and abs(left) < 10**6 and abs(right) <= 1000):
        raise NotConstant("a power that may be large")
    if op is ast.Mult and not numbers:
        count, items = (left, right) if isinstance(left, int) else (right, left)
        if not isinstance(count, int) or not hasattr(items, "__len__") or count * len(items) > LARGEST:  # type: ignore[arg-type]
            raise NotConstant("a sequence that may be large")
    if op is ast.Mod and not numbers:
        raise NotConstant("a text that may be large")
    return ARITHMETIC[op](left, right)


def _built(name: str, args: Sequence[Any]) -> Any:
    if any(isinstance(argument, range) and len(argument) > LARGEST for argument in args):
        raise NotConstant("a range that is large")
    if name == "bytes" and args and isinstance(args[0], int):
        raise NotConstant("bytes of a number")
    if any(isinstance(argument, set | frozenset) for argument in args) and name not in ("set", "frozenset", "sorted"):
        raise NotConstant("an order that differs between two runs")
    if name == "str" and any(not isinstance(argument, int | float | str | None) for argument in args):
        raise NotConstant("a text that may differ between two runs")
    return BUILDERS[name](*args)
