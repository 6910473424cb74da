"""Values from the sandbox: exact encoding, equality by rules, linear cost."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpdlab.sandbox import Rules
from vpdlab.sandbox.inside import DEEPEST, NotPlain, encode
from vpdlab.sandbox.outputs import same_output
from vpdlab.sandbox.showing import show, show_line
from vpdlab.sandbox.values import EXACT, MOST, Unreadable, decode, digest, matches, same

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
        | st.sets(st.integers() | st.text(), max_size=4) | st.frozensets(st.integers(), max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(plain)
def test_a_value_equals_itself_after_the_journey(value):
    tree = decode(encode(value))
    assert same(tree, tree, EXACT)
    assert len(show(tree, 80)) <= 80


@settings(max_examples=100, deadline=None)
@given(plain, plain)
def test_equal_means_what_python_means_by_it_but_exactly(left, right):
    if repr(left) == repr(right):
        return
    if same(decode(encode(left)), decode(encode(right)), Rules(0.0, 0.0)):
        assert left == right or "nan" in repr(left)


@pytest.mark.parametrize(
    ("wanted", "got", "rules", "equal"),
    [
        (1, True, EXACT, False), (1, 1.0, EXACT, False), (1, 1.0, Rules(numbers=True), True),
        (1, True, Rules(numbers=True), False), ([1], (1,), EXACT, False), ([1], (1,), Rules(sequences=True), True),
        ({1, 2}, {2, 1}, EXACT, True), ({1}, frozenset({1}), EXACT, False), ({1: 2}, {1: 2.0}, EXACT, False),
        ({(1, 2): [3]}, {(1, 2): [3]}, EXACT, True), ({"a": 1, "b": 2}, {"b": 2, "a": 1}, EXACT, True),
        (float("nan"), float("nan"), EXACT, True), (float("inf"), 1e308, EXACT, False), (0.0, -0.0, EXACT, True),
        (0.1 + 0.2, 0.3, EXACT, True), (0.1 + 0.2, 0.3, Rules(0.0, 0.0), False), (1e9, 1e9 + 1, EXACT, True),
        (1.0, 1.0001, EXACT, False), (2.0, 2.05, Rules(0.0, 0.1), True), ({0.0}, {-0.0}, EXACT, True),
        (2**70, float(2**70), Rules(numbers=True), True), (10**400, 1.0, Rules(numbers=True), False),
        ("1", 1, EXACT, False), (None, False, EXACT, False), ([], None, EXACT, False), ("é", "e\u0301", EXACT, False),
        ({1: float("nan")}, {1: float("nan")}, EXACT, True), ([{1: {2}}], [{1: {3}}], EXACT, False),
        (float("nan"), 1.0, EXACT, False), (float("nan"), float("inf"), EXACT, False), ([], [1], EXACT, False),
        ({1: 2}, {3: 2}, EXACT, False), ({1: 2}, {1: 2, 3: 4}, EXACT, False), ({1}, {1, 2}, EXACT, False),
        (2 + 1j, 2 + 1.05j, Rules(0.0, 0.1), True), (2 + 1j, 2.2 + 1j, Rules(0.0, 0.1), False),
        (2 + 1j, 2 + 1.2j, Rules(0.0, 0.1), False), (b"a", "a", EXACT, False),
        (1.0, "1.0", Rules(0.0, 9.0, form="abs <"), False), (1.0, [1.0], Rules(0.0, 9.0, form="isclose"), False),
        (None, None, Rules(form="is"), True), (True, True, Rules(form="is"), True),
        (False, False, Rules(form="is"), True), (1, 1, Rules(form="is"), False),
        (1.0, 3.0, Rules(0.0, 2.0, form="abs <="), True), (1.0, 3.0, Rules(0.0, 2.0, form="abs <"), False),
        (1 + 1j, 1 + 3j, Rules(0.0, 2.0, form="abs <="), True), (1, True, Rules(0.0, 0.5, form="abs <"), True),
        (1j, 1j, Rules(0.0, 2.0, form="isclose"), False),
    ],
)  # fmt: skip
def test_rules(wanted, got, rules, equal):
    assert same(decode(encode(wanted)), decode(encode(got)), rules) is equal
    assert same(decode(encode(got)), decode(encode(wanted)), rules) is equal


@pytest.mark.parametrize(
    "line",
    ["", "q", "i", "ix", "f", "f1.8q", "s0", "sff", "l", "l-1", "l9999999999", "l2 i1", "i1 i2", "d1 i1", "N1", "c1",
     "l1 " * 200, "l1 " * 5000 + "N", "l1000000" + " N" * 1000, "b0", "Sx", "i" + "_" * 9],
)  # fmt: skip
def test_words_that_are_no_value_are_refused(line):
    with pytest.raises(Unreadable):
        decode(line)


@pytest.mark.parametrize("wrap", ["l1 {}", "t2 N {}", "d1 {} N", "d1 N {}"])
def test_the_limit_of_depth_is_exact(wrap):
    words = "N"
    for _ in range(DEEPEST):
        words = wrap.format(words)
    assert decode(words)
    with pytest.raises(Unreadable):
        decode(wrap.format(words))


@pytest.mark.parametrize("line", ["l1  N", " N", "N ", "l2 N\tN", "l1 N\n"])
def test_words_are_parted_by_one_space(line):
    with pytest.raises(Unreadable):
        decode(line)


def test_the_limits_of_length_and_count_are_exact():
    assert decode("l2 N N", 6, 3)
    for limits in ((5, 3), (6, 2)):
        with pytest.raises(Unreadable):
            decode("l2 N N", *limits)


@pytest.mark.parametrize("rules", [EXACT, Rules(form="is"), Rules(0.0, 0.0, numbers=True, form="==")])
def test_a_copy_of_the_expected_words_is_not_even_read(rules):
    assert matches("q", "q", rules)
    with pytest.raises(Unreadable):
        matches("q", "r", rules)


def test_a_value_may_be_as_large_as_the_expected_one_needs(monkeypatch):
    monkeypatch.setattr("vpdlab.sandbox.values.LONGEST", 10)
    wanted = "s" + "61" * 20
    assert not matches(wanted, "s" + "61" * 39, EXACT)
    with pytest.raises(Unreadable):
        matches(wanted, "s" + "61" * 45, EXACT)
    many = f"l{MOST}" + " N" * MOST  # one word more than is read of other values
    assert not matches(many, many[:-1] + "T", EXACT)


def test_only_plain_values_are_sent():
    class Own(int):
        pass

    deep: list = []
    for _ in range(DEEPEST):
        deep = [deep]
    for value in (Own(1), object(), deep, range(3), {"a": Own(1)}, "x" * 5_000_000, bytearray(b"x")):
        with pytest.raises(NotPlain):
            encode(value)


def test_colliding_members_take_no_time():
    collide = decode(encode({n * (2**61 - 1): 0 for n in range(1)}))
    assert collide
    line = "S100000 " + " ".join(f"i{n * (2**61 - 1):x}" for n in range(100_000))
    start = time.monotonic()
    assert same(decode(line), decode(line), EXACT)
    assert time.monotonic() - start < 10


# Members of sets and keys of dicts, as words: dicts and lists among them are no Python, but may be sent.
MEMBERS = [
    "i1", "i2", "i-1", "i0", "f0x1p-1", "f0x1.8p+0", "f0x1p-90", "f0x1p-91", "c0x1p-1;0x0p+0", "c0x1p+0;0x1p-1",
    "c0x0p+0;0x1p-1", "c0x1p-90;0x1p+0", "c0x1p-91;0x1p+0", "c0x1p+0;0x1p-90", "c0x1p+0;0x1p-91", "N", "s", "s31",
    "s69", "b", "b31", "b69", "t0", "Z0", "d0", "t1 i1", "Z1 i1", "t2 i1 i2", "t2 i2 i1", "t1 t1 i1", "Z2 i1 i2",
    "d1 i1 i2", "d1 i2 i1", "d1 i1 i1", "d2 i1 i2 i3 i4", "d2 i1 i4 i3 i2", "t3 i1 i2 i2", "t2 t1 i1 i2", "finf",
    "f-inf", "seda080", "sefbfbd",
]  # fmt: skip
PYTHON, NUMBERS, SEQUENCES = Rules(0.0, 0.0, numbers=True, form="=="), Rules(numbers=True), Rules(sequences=True)


@pytest.mark.parametrize("rules", [EXACT, NUMBERS, SEQUENCES])
def test_members_that_differ_are_told_apart(rules):
    found = [digest(decode(word), rules) for word in [*MEMBERS, "T", "F"]]
    assert len(set(found)) == len(found)
    for word in MEMBERS:
        assert same(decode(f"S1 {word}"), decode(f"S1 {word}"), rules)
        assert not same(decode(f"S1 {word}"), decode("S1 i7"), rules)


@pytest.mark.parametrize(
    ("one", "other", "equal_by"),
    [
        ("f0x0p+0", "f-0x0p+0", (EXACT, NUMBERS, SEQUENCES, PYTHON)),
        ("c0x0p+0;-0x0p+0", "c-0x0p+0;0x0p+0", (EXACT, NUMBERS, SEQUENCES, PYTHON)),
        ("c0x1p-1;-0x0p+0", "c0x1p-1;0x0p+0", (EXACT, NUMBERS, SEQUENCES, PYTHON)),
        ("Z2 i1 i2", "Z2 i2 i1", (EXACT, NUMBERS, SEQUENCES, PYTHON)),
        ("d2 i1 i2 i3 i4", "d2 i3 i4 i1 i2", (EXACT, NUMBERS, SEQUENCES, PYTHON)),
        ("fnan", "fnan", (EXACT, NUMBERS, SEQUENCES)),
        ("cnan;0x1p+0", "cnan;0x1p+0", (EXACT, NUMBERS, SEQUENCES)),
        ("i2", "f0x1p+1", (NUMBERS, PYTHON)),
        ("t1 i2", "t1 f0x1p+1", (NUMBERS, PYTHON)),
        ("i1", "T", (PYTHON,)), ("F", "i0", (PYTHON,)), ("F", "f0x0p+0", (PYTHON,)), ("T", "F", ()),
        ("i2", "c0x1p+1;0x0p+0", (PYTHON,)), ("f0x1p-1", "c0x1p-1;0x0p+0", (PYTHON,)),
        ("f0x1p-1", "c0x1p-1;0x1p+0", ()), ("i2", "c0x1p+1;0x1p+0", ()),
        ("t1 i1", "l1 i1", (SEQUENCES,)), ("t1 t1 i1", "t1 l1 i1", (SEQUENCES,)),
        ("t2 i1 i2", "l2 i2 i1", ()), ("t1 i1", "Z1 i1", ()), ("t1 i1", "S1 i1", ()),
        ("Z1 i1", "S1 i1", (PYTHON,)), ("d1 i1 i2", "l1 i1", ()), ("d1 i1 t1 i1", "d1 i1 l1 i1", (SEQUENCES,)),
        ("d1 t1 i1 i1", "d1 l1 i1 i1", (SEQUENCES,)), ("finf", "finf", (EXACT, NUMBERS, SEQUENCES, PYTHON)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rules", [EXACT, NUMBERS, SEQUENCES, PYTHON], ids=["exact", "numbers", "sequences", "python"])
def test_members_are_equal_by_the_rules(one, other, equal_by, rules):
    for left, right in ((one, other), (other, one)):
        assert (digest(decode(left), rules) == digest(decode(right), rules)) is (rules in equal_by)
        for inside in ("S2 i9 {}", "d1 {} i9", "Z1 {}", "t1 Z1 {}"):
            words = decode(inside.format(left)), decode(inside.format(right))
            assert same(*words, rules) is (rules in equal_by)


def chain(wrap, depth: int = 95) -> str:
    """A deeply nested value with as much content as fits."""
    value = encode(frozenset(range(100_000)))
    for number in range(depth):
        value = wrap(value, number)
    return value


DEEP = {
    "frozensets": lambda v, n: f"Z2 {v} i{n:x}",
    "frozensets the other way round": lambda v, n: f"Z2 i{n:x} {v}",
    "tuples in sets": lambda v, n: f"Z1 t2 {v} i{n:x}" if n < 45 else f"t2 {v} i{n:x}",
    "dicts": lambda v, n: f"d1 i1 {v}",
    "dicts keyed by tuples": lambda v, n: f"t2 {v} i{n:x}" if n < 94 else f"d1 {v} i1",
    "dicts as keys": lambda v, n: f"d1 {v} i1",
    "lists": lambda v, n: f"l1 {v}",
}
WIDE = {
    "ints": "i" + "f" * 4_000_000, "text": "s" + "61" * 2_000_000, "floats": "f0x1." + "0" * 4_000_000 + "p+0",
    "small floats": "l100000" + " f0x1p+0" * 100_000, "equal text": "S2000" + (" s" + "61" * 900) * 2000,
    "complex": "c0x1." + "0" * 2_000_000 + "p+0;0x1p+0", "empty lists": "l100000" + " l0" * 100_000,
    "sets": "S50000" + " Z0" * 50_000, "many ints": "S1000 " + " ".join("i" + "f" * 4000 for _ in range(1000)),
    "exponent": "f0x1p" + "9" * 4_000_000, "no number": "f" + "1" * 4_000_000 + "x", "counts": "l" + "9" * 4_000_000,
}  # fmt: skip


def seconds(job) -> float:
    start = time.process_time()
    with contextlib.suppress(Unreadable):
        job()
    return time.process_time() - start


@pytest.mark.parametrize("line", [*map(chain, DEEP.values()), *WIDE.values()], ids=[*DEEP, *WIDE])
@pytest.mark.parametrize("rules", [EXACT, Rules(numbers=True, form="=="), Rules(numbers=True, sequences=True)])
def test_no_value_costs_more_than_its_length(line, rules):
    """CPU time of the trainer for up to 4 MiB of words. An answer with another number of words is not decoded."""
    assert seconds(lambda: matches("i8", line, rules)) < 0.5
    assert seconds(lambda: show_line(line)) < 0.5
    other = line + "0" if line[-1] in "0123456789" else line  # possibly equal, but not a copy
    assert seconds(lambda: matches(other, line, rules)) < 5


def test_values_are_shown_as_python_writes_them():
    for value in ([1, (2,), {"a": {3}}], set(), frozenset({1}), (), {}, "a'b", b"\x00", -1.5, None, 1j):
        assert show(decode(encode(value))) == repr(value)
    assert show(decode("S3 i3 sff i-2".replace("ff", "66"))) == "{-2, 3, 'f'}"  # the same in every run
    assert show(decode(encode(1 << 100_000))) == "<an int of 100001 bits>"
    assert show(decode(encode(["x" * 1000] * 1000)), 50).endswith("…")
    for value in ([1, (2,), {"a": {3}}], set(), "a'b", {frozenset({1, 2}): [None]}, -(1 << 4000)):
        assert show_line(encode(value)) == show(decode(encode(value)))
    assert show_line(encode(1 << 100_000)) == "<an int of 100001 bits>"
    assert show_line(encode([[]] * 10_000)).startswith("[[], [], []")
    assert show_line(encode("é" * 100_000), 50) == "'" + "é" * 48 + "…"


@pytest.mark.parametrize(
    ("wanted", "got", "equal"),
    [
        ("1\n2\n", "1\n2", True), ("1 \n2", "1\n2\n\n", True), ("1", "1\n2", False), ("0.50", "0.5", True),
        ("1", "1e0", True), ("a b", "a  b", True), ("YES", "yes", False), ("1e999999999", "1", False), ("", "\n", True),
        ("nan", "nan", True), ("1X", "1", False), ("1", "1X\n", False), ("1" + "0" * 99, "1e99", True),
        ("1" + "0" * 100, "1e100", False), ("1e9" + "9" * 30, "2", False), ("2", "1e9" + "9" * 30, False),
        ("1 2", "1", False), ("x", "", False), ("sNaN", "1", False),
    ],
)  # fmt: skip
def test_outputs_are_compared_by_stated_rules(wanted, got, equal):
    assert same_output(wanted, got.encode()) is equal
