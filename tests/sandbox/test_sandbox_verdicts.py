"""Verdicts agree with Python's: asserts as cases, outputs, and tests that are not cases."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vpdlab.errors import UserError
from vpdlab.sandbox import Case, Inside, Rules, describe, judge_function, judge_stdin, read_tests
from vpdlab.sandbox.inside import WRAPS, NotPlain, encode
from vpdlab.sandbox.outputs import same_output
from vpdlab.sandbox.values import EXACT, Unreadable, decode, matches, same
from vpdlab.tasks.common.code_sources import JSON_RULES, mbpp

try:
    describe()
    MISSING = ""
except UserError as refusal:
    MISSING = f"missing: {refusal}"
walled = pytest.mark.skipif(bool(MISSING), reason=MISSING)
NAN, INF = float("nan"), float("inf")


def literal(value: Any) -> str:
    """An expression with this value; repr is not one for NaN and infinities."""
    match value:
        case float() if not math.isfinite(value):
            return f"float('{value}')"
        case complex():
            return f"complex({literal(value.real)}, {literal(value.imag)})"
        case list():
            return f"[{', '.join(map(literal, value))}]"
        case tuple():
            return f"({', '.join(map(literal, value))}{',' * (len(value) == 1)})"
        case set() | frozenset():
            return f"{type(value).__name__}([{', '.join(map(literal, value))}])"
        case dict():
            return "{" + ", ".join(f"{literal(key)}: {literal(item)}" for key, item in value.items()) + "}"
    return repr(value)


def we_say(source: str, value: Any) -> bool:
    """Our verdict on an assert about a function that returns `value`, without a sandbox."""
    (case,) = read_tests(source, {"f"})
    assert isinstance(case, Case), source
    try:
        return matches(encode(case.expected), encode(WRAPS[case.wrap](value)), case.rules)
    except (ArithmeticError, NotPlain, TypeError, ValueError):  # inside, the call would have raised
        return False


def agree(source: str, value: Any) -> None:
    space: dict[str, Any] = {"f": lambda x: value, "math": math}
    try:
        exec(source, space)
        right = True
    except (ArithmeticError, AssertionError, TypeError, ValueError):
        right = False
    assert we_say(source, value) is right, (source, value)


edges = st.sampled_from(
    [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**64, 10**400, True, False, 0.0, -0.0, 1.0, 0.1, 0.3, 0.1 + 0.2,
     2.0**53, 2.0**70, 2**70, 1e308, 5e-324, 1e16, 10**16 + 1, INF, -INF, NAN, 1j, 1 + 0j, 0j, 1e-9, 1 + 1e-9]
)  # fmt: skip
numbers = (
    edges | st.integers(-3, 3) | st.floats() | st.integers() | st.complex_numbers(allow_nan=False, max_magnitude=9)
)
atoms = numbers | st.none() | st.sampled_from(["", "a", "1", b"a", "é"])
keys = st.recursive(atoms, lambda inner: st.tuples(inner) | st.frozensets(inner, max_size=2), max_leaves=3)
plain = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner) | st.tuples(inner, inner) | st.sets(keys, max_size=3)
        | st.frozensets(keys, max_size=2) | st.dictionaries(keys, inner, max_size=2)
    ),
    max_leaves=5,
)  # fmt: skip


def cousin(draw: Any, value: Any) -> Any:
    """A value equal or similar to this one: other types for the same numbers, one item changed."""
    turn = draw(st.integers(0, 5))
    match value:
        case bool():
            return [value, int(value), float(value), not value, complex(value), value][turn]
        case int() if abs(value) < 2**1000:
            return [value, float(value), value + 1, value == 1, math.nextafter(float(value), INF), complex(value)][turn]
        case float():
            whole = int(value) if math.isfinite(value) else value
            return [value, -value, whole, math.nextafter(value, INF), complex(value), value + 1e-10][turn]
        case list() | tuple():
            inner = [cousin(draw, item) for item in value]
            return [inner, tuple(inner), type(value)(inner), inner[1:], inner[::-1], value][turn]
        case set() | frozenset():
            inner = [cousin(draw, item) if not isinstance(item, frozenset | tuple) else item for item in value]
            return [value, frozenset(value), set(value), set(inner), list(value), type(value)(inner)][turn]
        case dict():
            return [value, {key: cousin(draw, item) for key, item in value.items()}][turn % 2]
    return value


@st.composite
def pairs(draw: Any, values: Any = plain) -> tuple[Any, Any]:
    value = draw(values)
    return value, draw(values) if draw(st.booleans()) else cousin(draw, value)


@settings(max_examples=400, deadline=None)
@given(pairs(), st.sampled_from(["f(1) == {}", "{} == f(1)"]))
@example((float(2**53), 2**53 + 1), "f(1) == {}")
@example((NAN, NAN), "f(1) == {}")
@example(({NAN}, {NAN}), "f(1) == {}")
@example(([1, (NAN,)], [1, (NAN,)]), "{} == f(1)")
@example((True, 1), "f(1) == {}")
@example(({1: {True}}, {1.0: frozenset({1})}), "f(1) == {}")
@example((1 + 0j, True), "f(1) == {}")
def test_equality_is_pythons(pair, form):
    value, expected = pair
    agree("assert " + form.format(literal(expected)), value)


@settings(max_examples=60, deadline=None)
@given(plain | st.booleans() | st.none(), st.sampled_from(["None", "True", "False"]))
@example(1, "True")
@example(0.0, "False")
@example("N", "None")
def test_identity_with_the_three_singletons_is_pythons(value, expected):
    agree(f"assert f(1) is {expected}", value)
    agree(f"assert {expected} is f(1)", value)


@settings(max_examples=400, deadline=None)
@given(pairs(numbers), numbers.filter(lambda z: not isinstance(z, complex)) | st.sampled_from([0, 0.1, 1, 1e-6, 2**53]),
       st.sampled_from(["abs(f(1) - {}) {} {}", "abs({} - f(1)) {} {}"]), st.sampled_from(["<", "<="]))  # fmt: skip
@example((3, 2), 1, "abs(f(1) - {}) {} {}", "<")
@example((1.5, 1.0), 0.5, "abs({} - f(1)) {} {}", "<")
@example((1.5, 1.0), 0.5, "abs({} - f(1)) {} {}", "<=")
@example((2**53 + 1, 2**53), 1, "abs(f(1) - {}) {} {}", "<")
@example((10**400, 1.0), 1, "abs(f(1) - {}) {} {}", "<")
@example((INF, INF), 1, "abs(f(1) - {}) {} {}", "<")
@example((NAN, 1.0), NAN, "abs(f(1) - {}) {} {}", "<=")
def test_distances_are_pythons(pair, tolerance, form, comparison):
    value, expected = pair
    agree("assert " + form.format(literal(expected), comparison, literal(tolerance)), value)


TOLERANCES = ["", ", rel_tol=0.1", ", abs_tol=0.5", ", rel_tol=1e-9, abs_tol=1", ", rel_tol=-1",
              ", abs_tol=float('nan')", ", rel_tol=0", ", rel_tol=1", ", rel_tol=0.0", ", rel_tol=True"]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(pairs(numbers), st.sampled_from(TOLERANCES), st.booleans())
@example((100.0, 90.0), ", rel_tol=0.1", False)
@example((90.0, 100.0), ", rel_tol=0.1", False)
@example((90.0, 99.9), ", rel_tol=0.1", True)
@example((10**400, 10**400), "", False)
@example((True, 1), "", False)
def test_closeness_is_pythons(pair, tolerance, swapped):
    value, expected = pair
    sides = ("f(1)", literal(expected))
    source = f"assert math.isclose({', '.join(sides[::-1] if swapped else sides)}{tolerance})"
    agree(source, value)


@settings(max_examples=200, deadline=None)
@given(plain, plain, st.sampled_from(["set", "sorted", "len", "list", "tuple", "sum", "bool"]))
@example([1, 2.0, True], [True, 1, 2], "sorted")
@example([NAN], {NAN}, "set")
@example({"a": 1}, ["a"], "list")
def test_a_builtin_around_the_call_is_pythons(value, expected, wrap):
    agree(f"assert {wrap}(f(1)) == {literal(expected)}", value)
    agree("assert f(1)", value)
    agree("assert not f(1)", value)


def test_other_words_around_a_value_are_pythons():
    for value, expected in (("1", "str(1)"), ([1], "list((1,))"), (1.0, "int('1')"), (b"a", "bytes([97])")):
        agree(f"assert f(1) == {expected}", value)
    agree("assert str(f(1)) == '[1, 2.0]'", [1, 2.0])
    agree("assert str(f(1)) == '1'", True)


@pytest.mark.parametrize(
    "test",
    ["f(1) is 5", "f(1) is [1]", "f(1) is 'a'", "f(1) is not None", "f(1) != 2", "f(1) in (1, 2)", "2 in f(1)",
     "f(1) < 3", "f(1) <= 3", "f(1) > 3", "1 < f(1) < 3", "abs(f(1) - 'a') < 1", "abs(f(1) - 1) < 'a'",
     "f(1) == range(3)", "f(range(3)) == 1", "f(1) == [range(3)]", "abs(f(1) + 1) < 2", "abs(f(1), 1) < 2",
     "math.isclose(f(1), 'a')",
     "math.isclose(f(1), 1, 0.1)", "math.isclose(f(1), 1, tol=3)", "math.isclose(f(1), 1, **{})", "(f(1) == 1, 'a')",
     "f(1) == list({'a', 'b'})", "f(1) == str({'a', 'b'})", "f(1) == tuple(frozenset('ab'))",
     "f(1) == '%999999999d' % 3",
     "f(1) == pytest.approx(1)", "f(1) == f(2)", "(y := f(1)) == 1",
     "f(1) == 1 or True", "all(f(n) for n in (1, 2))"],
)  # fmt: skip
def test_what_a_case_cannot_say_stays_code(test):
    (found,) = read_tests(f"assert {test}", {"f"})
    assert isinstance(found, Inside)


# ---------------------------------------------------------------- tests that are more than an assert

SOURCES = {
    # the name means something else
    "lambda": "f = lambda x: 8\nassert f(7) == 8",
    "def": "def f(x): return 8\nassert f(7) == 8",
    "later": "assert f(7) == 9\nf = abs\nassert f(-3) == 3",
    "twice": "assert f(7) == 9\nf = lambda x, g=f: g(g(x))\nassert f(7) == 11",
    "for": "for f in (abs, len): pass\nassert f([7]) == 1",
    "with": "import contextlib\nwith contextlib.nullcontext(len) as f: pass\nassert f([7]) == 1",
    "import": "from math import floor as f\nassert f(7.5) == 7",
    "module": "import math as f\nassert f(7) == 8",
    "class": "class f:\n    def __new__(cls, x): return 8\nassert f(7) == 8",
    "except": "try: raise ValueError\nexcept ValueError as f: pass\nassert f(7) == 8",
    "walrus": "assert (f := len)\nassert f([7]) == 1",
    "unpacked": "(a, (f, *b)) = 1, (len, 2)\nassert f([7]) == 1",
    "deleted": "del f\nassert f(7) == 9",
    "global": "def g():\n    global f\n    f = len\ng()\nassert f([7]) == 1",
    "globals": "globals()['f'] = len\nassert f([7]) == 1",
    "exec": "exec('f = len')\nassert f([7]) == 1",
    "match": "match len:\n    case f: pass\nassert f([7]) == 1",
    "star": "from builtins import *\nassert f(7) == 9",
    "modules": "import sys\nsys.modules[f.__module__] = 3\nassert f(7) == 9",
    "code": "f.__code__ = (lambda x: 8).__code__\nassert f(7) == 8",
    "defaults": "f.__defaults__ = (5,)\nassert f() == 7",
    # a builtin means something else
    "sorted": "def sorted(x): return 3\nassert sorted(f([7])) == 3",
    "abs": "abs = lambda x: 0\nassert abs(f(7) - 100) < 1",
    "set": "set = list\nassert f([1]) == set([1, 2])",
    "float": "float = int\nassert f(7) == float('9')",
    "isclose": "class math:\n    isclose = lambda *a, **k: True\nassert math.isclose(f(7), 100)",
    "patched math": "math.isclose = lambda *a, **k: True\nassert math.isclose(f(7), 100)",
    # preceded by a side effect
    "attribute": "f.step = 10\nassert f(7) == 17",
    "state": "import random\nrandom.seed(3)\nassert f('random') == random.Random(3).random()",
    "input": "import io, sys\nsys.stdin = io.StringIO('5')\nassert f('input') == '5'",
    "environment": "import os\nos.environ['STEP'] = '5'\nassert f('environment') == '5'",
    "unknown call": "setup_it()\nassert f(7) == 9",
    "method": "f.add(5)\nassert f(7) == 14",
    # no assert at all
    "raise": "if f(7) != 8: raise ValueError",
    "call": "f('fail')",
    "good call": "f(7)",
    "in a test": "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(7), 8)\n"
    "assert unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromTestCase(T)).wasSuccessful()",
    # check, as HumanEval has it
    "check": "def check(candidate):\n    assert candidate(7) == 9",
    "bad check": "def check(candidate):\n    assert candidate(7) == 8",
    "check that returns": "def check(candidate):\n    if candidate(7) == 9: return\n    assert candidate(7) == 8",
    "check with a name": "def check(g):\n    assert g(7) == 9\n    for n in (1, 2): assert g(n) == n + 2",
    "check with variables": "def check(candidate):\n    limit = 0\n    n = 7\n    assert candidate(n) == 9",
    "check that shadows": "def check(candidate):\n    len = 3\n    n = 7\n    assert candidate(n) == 9\n"
    "    assert candidate('len') == 1",
    "check that rebinds": "def check(candidate):\n    candidate = len\n    assert candidate([7]) == 1",
    "check that is called": "def check(candidate):\n    n = 7\n    assert candidate(n) == 9\ncheck(f)",
    "check of another": "def check(candidate):\n    assert candidate([7]) == 1\ncheck(len)",
    "nonlocal": "def check(candidate):\n    n = 0\n    def g():\n        nonlocal n\n        n = 7\n"
    "    g()\n    assert candidate(n) == 9",
}  # fmt: skip
CANDIDATE = """
import os, random
limit = 99
def f(x=0, y=2):
    if x == 'random': return random.random()
    if x == 'input': return input()
    if x == 'environment': return os.environ.get('STEP')
    if x == 'len': return len([1])
    if x == 'fail': raise ValueError
    if isinstance(x, list): return x
    return x + getattr(f, 'step', y) if x < limit else None
f.add = lambda n: setattr(f, 'step', n + 2)
"""


@walled
@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_tests_that_prepare_something_mean_what_python_takes_them_for(source):
    called = "" if "check(f)" in source or "check(len)" in source or "def check" not in source else "\ncheck(f)"
    tests = [
        Inside(f"candidate = f\n{test.code}") if isinstance(test, Inside) else test
        for test in read_tests(source, {"f", "candidate"})
    ]
    assert tests
    verdict = judge_function(CANDIDATE, "f", tests, setup="import math")
    # Python's own result comes from another process of the sandbox, because some of these change the interpreter.
    truth = judge_function(CANDIDATE, "f", [Inside(f"{source}{called}")], setup="import math")
    assert verdict.passed is truth.passed, (tests, verdict.feedback, truth.feedback)


def test_harmless_preparations_cost_no_case():
    source = (
        "METADATA = {'a': 1}\nimport math, random\ndef check(candidate):\n    '''doc'''\n    n = [1, 2]\n"
        "    n.append(3)\n    random.shuffle(n)\n    for x in range(3):\n        n[x] = x\n"
        "    assert candidate(n) == n\n"
        "    assert candidate(3) == 4\n    def g(x): return x + 1\n    assert candidate(1) == g(1)\n"
        "    print(candidate(2), math.sqrt(2))\n    assert candidate(4) == 5\n"
    )
    found = read_tests(source, {"candidate"})
    assert [type(test) for test in found] == [Case, Case, Inside]
    assert [test.args for test in found[:2]] == [(3,), (4,)]  # type: ignore[union-attr]


MBPP = {"task_id": 1, "text": "Add.", "code": "def f(x): return x + 2", "test_setup_code": ""}


def test_what_one_test_prepares_holds_for_those_after_it():
    tests = ["assert f(1) == 3", "f = lambda x: 8\nassert f(7) == 8", "assert f(2) == 8"]
    item = mbpp(MBPP | {"test_list": tests}, "row", 2)
    assert [type(test) for test in item.visible] == [Case, Inside]
    (last,) = item.hidden()
    assert isinstance(last, Inside) and last.code == "f = lambda x: 8\nassert f(2) == 8"


@walled
def test_what_the_tests_make_with_the_codes_own_classes_is_made_after_the_code():
    code = "class Node:\n    def __init__(self, x): self.x = math.floor(x)\ndef f(node): return node.x"
    row = MBPP | {
        "code": code,
        "test_setup_code": "import math\nroot = Node(7.5)",
        "test_list": ["assert f(root) == 7"],
    }
    item = mbpp(row, "row", 1)
    assert (item.setup, [type(test) for test in item.visible]) == ("import math", [Inside])
    assert judge_function(code, "f", item.visible, setup=item.setup).passed


def test_only_visible_tests_stand_in_the_prompt():
    tests = ["assert f(1) == 3; assert f(2) == 4", "assert True", "assert f(5) == 7"]
    item = mbpp(MBPP | {"test_list": tests}, "row", 2)
    assert "f(2) == 4" in item.prompt and "f(5)" not in item.prompt
    assert (len(item.visible), len(item.hidden())) == (2, 1)


# ---------------------------------------------------------------- values by explicit rules


def test_an_int_and_a_float_are_equal_only_where_they_are_the_same_number():
    for rules in (JSON_RULES, Rules(numbers=True), Rules(0.5, 0.5, numbers=True)):
        for wanted, got, equal in (
            (2**53 + 1, float(2**53), False), (2**53, float(2**53), True), (10**16 + 1, 1e16, False), (1, 1.0, True),
            (1, 1.0 + 1e-12, False), ([2**63 - 1], [2.0**63], False), (10**400, INF, False), (True, 1.0, False),
            ({2**53 + 1}, {float(2**53)}, False), ({2**53: 1}, {float(2**53): 1.0}, True), (0, -0.0, True),
        ):  # fmt: skip
            for left, right in ((wanted, got), (got, wanted)):
                assert same(decode(encode(left)), decode(encode(right)), rules) is equal, (left, right)
    assert same(decode(encode(0.5)), decode(encode(0.5 + 1e-10)), JSON_RULES)
    assert same(decode(encode(NAN)), decode(encode(NAN)), EXACT)


OTHER_TYPES = [
    "Counter('aab')", "OrderedDict(a=2, b=1)", "defaultdict(list, a=2, b=1)", "ChainMap(dict(a=2, b=1))", "Decimal(2)",
    "Decimal('0.1')", "Decimal('0.5')", "Decimal('nan')", "Decimal('1e400')", "Fraction(1, 2)", "Fraction(1, 3)",
    "Fraction(4, 2)", "bytearray(b'a')", "dict(a=2, b=1).keys()", "dict(a=2).items()", "dict(a=2).values()",
    "OrderedDict(a=2, b=1).keys()", "dict(a=[]).items()", "Point(1, 2)", "[Point(1, Decimal(2))]", "Colour.RED",
    "deque([1, 2])", "range(2)", "UserList([1, 2])", "UserDict(a=2, b=1)", "UserString('a')", "Own(2)", "Text('a')",
    "(x for x in [1, 2])", "array('i', [1, 2])", "memoryview(b'z')", "object()", "len", "Odd(2)", "Flag.A",
    "mappingproxy(dict(a=2, b=1))",
]  # fmt: skip
LITERALS = ["{'a': 2, 'b': 1}", "2", "0.1", "0.5", "1/3", "b'a'", "{'a', 'b'}", "{('a', 2)}", "(1, 2)", "[(1, 2)]", "1",
            "[1, 2]", "[0, 1]", "'a'", "10**400", "2.0", "True", "float('nan')", "2+0j", "[2]"]  # fmt: skip
TYPES = """
from array import array
from collections import *
from decimal import Decimal
from enum import IntEnum, IntFlag
from fractions import Fraction
from types import MappingProxyType as mappingproxy
Point = namedtuple('Point', 'x y')
class Colour(IntEnum): RED = 1
class Flag(IntFlag): A = 2
class Own(int): pass
class Text(str):
    def encode(self, *a): return b'zz'
class Odd(int):
    def __eq__(self, other): return int(self) == other and self is not other
    __hash__ = int.__hash__
def f(text): return eval(text)
"""
# Python's result cannot be reproduced: these could be equal to anything, or contain indistinguishable values.
REFUSED = {"UserList", "UserDict", "UserString", "ChainMap", "Odd", "mappingproxy", "memoryview"}


@walled
@pytest.mark.parametrize("value", OTHER_TYPES)
def test_other_types_count_as_the_plain_values_that_they_are_equal_to(value):
    sources = [f"assert f({value!r}) == {expected}" for expected in LITERALS]
    ours = judge_function(TYPES, "f", [read_tests(source, {"f"})[0] for source in sources]).results
    asked = "def same(x, y):\n    try: return bool(x == y)\n    except (ArithmeticError, TypeError): return False\n"
    asked += f"def g(x): return [same(f(x), y) for y in ({', '.join(LITERALS)},)]\nassert g({value!r}) == "
    got = [result.status == "passed" for result in ours]
    told = judge_function(TYPES, "f", [Inside(asked + repr(got))])
    if value.split("(")[0] in REFUSED:
        assert not any(got)
    else:
        assert told.passed, (got, told.feedback)


@walled
def test_a_type_with_a_comparison_of_its_own_is_not_believed():
    lies = "class E(BASE):\n    def __eq__(self, other): return True\n    def __len__(self): return 1\n"
    lies += "    def __hash__(self): return 1\n    def __iter__(self): return iter('a')\n"
    lies += "    def items(self): return [('a', 1)]\n    def __format__(self, way): return '1'\n"
    for base, made, expected in (
        ("int", "E(2)", "1"), ("dict", "E(b=2)", "{'a': 1}"), ("list", "E([2])", "['a']"), ("object", "E()", "1"),
        ("Counter", "E(b=2)", "{'a': 1}"), ("Decimal", "E(2)", "1"), ("str", "E('x')", "'a'"),
        ("set", "E('x')", "{'a'}"),
    ):  # fmt: skip
        for module in ("solution", "collections", "decimal", "numpy"):
            named = f"from collections import Counter\nfrom decimal import Decimal\n{lies.replace('BASE', base)}"
            code = f"{named}E.__module__ = {module!r}\ndef f(x): return {made}"
            tests = read_tests(f"assert f(1) == {expected}", {"f"})
            assert isinstance(tests[0], Case)
            assert not judge_function(code, "f", tests).passed, (base, module)


@walled
def test_a_large_right_value_passes_and_a_large_wrong_one_is_told_in_few_words():
    many = list(range(700_000))  # more than 4 MiB of words
    code = "def f(n): return list(range(n))"
    assert judge_function(code, "f", [((700_000,), many)] * 3).passed  # more than 16 MiB in all
    bad = judge_function(code, "f", [((10**6,), many)])
    assert not bad.passed and len(bad.feedback) < 1000
    assert "[0, 1, 2" in judge_function(code, "f", [((600_000,), many)]).feedback


@pytest.mark.parametrize("line", ["i1_0", "i١", "i 1", "i+1", "i0x1", "l١ i1", "l+1 i1", "l1_0", "l 1", "d0 N"])
def test_numbers_of_the_channel_are_written_in_one_way(line):
    with pytest.raises(Unreadable):
        decode(line)


# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize(
    ("wanted", "got", "equal"),
    [
        ("12", "١٢", False), ("12", "1_2", False), ("12", "１２", False), ("12", "०12", False), ("1e5", "1e٥", False),
        ("1.5", "1.5_0", False), ("0.5", ".5", True), ("5", "5.", True), ("5", "+5", True), ("-0", "0", True),
        ("1E2", "100", True), ("1 2", "1\u00a02", False), ("1", "\u20071", False), ("a", "a\u3000", False),
        ("1\x1c2", "1 2", False), ("nan", "NaN", False), ("inf", "Infinity", False), ("1,000", "1000", False),
        ("1 2", "1.0\t2e0 ", True), ("x 1", "x 1.0", True), ("0x10", "16", False), ("--1", "-1", False),
        ("1" + "0" * 90, "1e90", True), ("", "\x1f", False), ("1\r\n2\r\n", "1\n2", True), ("1", "1\n\n \n", True),
        ("9007199254740993", "9007199254740992.0", False), ("1e400", "1e401", False),
    ],
)  # fmt: skip
def test_numbers_of_an_output_are_those_of_ascii(wanted, got, equal):
    assert same_output(wanted, got.encode()) is equal
    assert same_output(got, wanted.encode()) is equal


def test_bytes_that_are_no_text_are_never_right():
    assert not same_output("\ufffd", b"\xff")
    assert not same_output("\udcff", b"\xff")
    assert same_output("\ufffd", "\ufffd".encode())


@walled
def test_a_right_output_may_be_long_and_memory_stays_bounded():
    long = "\n".join(map(str, range(500_000)))  # more than 3 MiB
    assert judge_stdin("for n in range(500_000): print(n)", [("", long)]).passed
    wrong = judge_stdin("for n in range(500_001): print(n)", [("", long)])
    assert not wrong.passed and len(wrong.feedback) < 3000
    assert not judge_stdin("import os\nfor _ in range(50): os.write(1, b'x' * 2**20)", [("", "x")]).passed
    padded = "print('1.50' + ' ' * 9)\n" * 3
    assert judge_stdin(padded, [("", "1.5\n" * 3)]).passed
