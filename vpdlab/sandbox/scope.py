"""Effects of test code on its asserts: the names that it rebinds, and side effects on the candidate.

An assert can become a case only if its names have their usual meaning, and if nothing that runs before it can change
what the candidate's function returns. The functions here err on the side of "may change".
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterable

# Ways to bind a name or reach a namespace that static analysis cannot follow.
HIDDEN_WAYS = {
    "exec", "eval", "compile", "globals", "locals", "vars", "setattr", "delattr", "__import__", "__builtins__",
    "builtins", "importlib", "sys", "inspect", "gc", "patch", "monkeypatch",
}  # fmt: skip
HIDDEN_PARTS = {"__globals__", "__dict__", "__code__", "__builtins__", "__defaults__", "__kwdefaults__", "modules"}
HARMLESS = {
    "abs", "all", "any", "ascii", "bin", "bool", "bytes", "chr", "complex", "dict", "divmod", "enumerate", "filter",
    "float", "format", "frozenset", "hash", "hex", "int", "isinstance", "issubclass", "len", "list", "map", "max",
    "min", "oct", "ord", "pow", "print", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum",
    "tuple", "type", "zip",
}  # fmt: skip
MODULES = {
    "math",
    "cmath",
    "random",
    "copy",
    "string",
    "itertools",
    "functools",
    "collections",
    "operator",
    "statistics",
}
STATE = {"seed", "setstate"}  # of random: affects a candidate that draws random numbers


def rebound(body: Iterable[ast.AST]) -> set[str] | None:
    """The names that code binds anywhere, including nested functions; None if it may bind any name.

    `import math` gives math its usual meaning, so it does not count.
    """
    names: set[str] = set()
    for node in (part for statement in body for part in ast.walk(statement)):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.Name(id=name) if name in HIDDEN_WAYS:
                return None
            case ast.Attribute(attr=part) if part in HIDDEN_PARTS:
                return None
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.MatchMapping(rest=str(name)):
                names.add(name)
            case ast.Import(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases if alias.asname not in (None, alias.name)}
                if any(alias.name.split(".")[0] in HIDDEN_WAYS for alias in aliases):
                    return None
            case ast.ImportFrom(names=aliases):
                names |= {alias.asname or alias.name for alias in aliases}
                if any(alias.name == "*" or alias.name in HIDDEN_WAYS for alias in aliases):
                    return None
    return names


def inert(statement: ast.stmt, names: Collection[str], source: Iterable[ast.AST]) -> bool:
    """Whether a statement cannot change what the candidate's function returns, as far as static analysis shows.

    Args:
        names: the names of the function in the tests; calling it changes nothing.
        source: all tests, for the functions and variables that they define.
    """
    own, modules = _made(source)
    for node in ast.walk(statement):
        match node:
            case ast.Global() | ast.Nonlocal() | ast.With() | ast.AsyncWith() | ast.Await() | ast.Raise():
                return False
            case ast.Attribute(ctx=ast.Store() | ast.Del()):
                return False
            case ast.Subscript(value=value, ctx=ast.Store() | ast.Del()) if not _is_own(value, own, names):
                return False
            case ast.Call(func=ast.Name(id=name)):
                if name not in names and name not in own and (name not in HARMLESS or not hasattr(builtins, name)):
                    return False
            case ast.Call(func=ast.Attribute(value=value, attr=part)):
                if part in STATE or not (_is_own(value, own, names) or _root(value) in modules):
                    return False
            case ast.Call():
                return False
            case ast.FunctionDef(decorator_list=[_, *_]) | ast.ClassDef():
                return False
    return True


def _made(source: Iterable[ast.AST]) -> tuple[set[str], set[str]]:
    """(functions and variables that the code defines, well-known modules that it imports)."""
    own: set[str] = set()
    modules: set[str] = set()
    for node in (part for statement in source for part in ast.walk(statement)):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                own.add(name)
            case ast.Import(names=aliases):
                modules |= {alias.name for alias in aliases if alias.name in MODULES and alias.asname is None}
            case ast.ImportFrom(module=module, names=aliases) if module in MODULES:
                own |= {alias.asname or alias.name for alias in aliases if alias.name not in STATE}
    return own, modules


def _root(node: ast.expr) -> str:
    """The name at the root of a chain of attributes, items and calls; "" if the root is a literal."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def _is_own(node: ast.expr, own: Collection[str], names: Collection[str]) -> bool:
    root = _root(node)
    return (root == "" or root in own or root in HARMLESS) and root not in names
