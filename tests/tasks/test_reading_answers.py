"""Final answers as data sets and models write them: what is equal earns the reward, and nothing else does."""

from __future__ import annotations

import time

import pytest

from vpdlab.tasks.common.math_forms import same
from vpdlab.tasks.common.math_notation import tidy, unreadable
from vpdlab.tasks.math import Judge, Math
from vpdlab.types import Problem, Rollout

pytest.importorskip("math_verify", reason="missing: math-verify (pip install math-verify)")

# expected answer: (answers that are equal, answers that are not)
CASES = {
    # numbers, however they are written
    "1,234,567": (["1234567", "1,234,567", "1 234 567", "1{,}234{,}567", "1\\,234\\,567"], ["1", "234567", "1.234567"]),
    "1 000": (["1000", "1,000", "1\\,000", "1'000", "10^3"], ["1", "0", "1001"]),
    "1\u202f000\u00a0000": (["1000000", "10^6"], ["1"]),
    "1'000": (["1000"], ["1"]),
    "3 1/2": (["7/2", "3.5", "3\\frac{1}{2}", "3 \\frac12", "3½", "\\frac{7}{2}"], ["31/2", "3/2", "2", "15.5"]),
    "-2 1/3": (["-7/3", "-2\\frac13"], ["-5/3", "7/3"]),
    "1.5e3": (["1500", "1.5\\times 10^3", "1.5E3", "1.5 x 10^3", "1.5·10^{3}", "1,500"], ["1.5", "3", "1.5e4"]),
    "1e-3": (["0.001", "10^{-3}", "\\frac{1}{1000}"], ["0", "-3", "0.01"]),
    "+5": (["5", "+5", "5.0"], ["-5"]),
    "−5": (["-5", "–5", "-5.0"], ["5"]),
    "½": (["1/2", "0.5", "\\frac12"], ["12", "2"]),
    "x²": (["x^2", "x^{2}", "x\\cdot x"], ["x2", "2x", "x"]),
    "３": (["3", "٣"], ["30"]),
    "5.": (["5", "5.0"], ["0.5"]),
    ".5": (["0.5", "1/2"], ["5"]),
    "007": (["7"], ["0"]),
    "0.0000001": (["1e-7", "10^{-7}"], ["0.0000002", "0", "1e-8"]),
    "0": (["0.0", "-0"], ["0.0000001", "1"]),
    "1/3": (["0.333333", "\\frac{2}{6}"], ["0.3333", "0.33", "3"]),
    "5 million": (["5000000", "5,000,000", "5\\times10^6", "5\\text{ million}"], ["5", "5 billion"]),
    "50%": (["50\\%", "0.5", "50", "50 percent"], ["5", "0.05"]),
    "101_2": (["101_{2}", "101", "(101)_2"], ["101_3", "110_2"]),
    # times, dates, ratios
    "12:30": (["12:30", "12:30 p.m.", "12{:}30", "12:30:00"], ["0.4", "2/5", "12:31", "1:30", "12.5"]),
    "9:05": (["09:05", "9:05 am", "9\\text{:}05"], ["9:5", "9/5", "9:50"]),
    "5:00 pm": (["5 pm", "17:00", "5:00 \\text{ p.m.}", "5:00"], ["5 am", "5:00 a.m."]),
    "5 am": (["5:00 am"], ["5 pm"]),
    "12:30 am": (["0:30"], ["12:30 pm"]),
    "2024-01-02": (["2024-01-02", "2024-1-2", "January 2, 2024", "2 January 2024", "Jan 2, 2024"],
                   ["2021", "2024-02-01", "2024-01-03", "January 3, 2024"]),
    "1/2/2024": (["01/02/2024", "1/2/2024"], ["2/1/2024", "1/4048", "January 3, 2024"]),
    "13/2/2024": (["2024-02-13", "2/13/2024", "February 13, 2024"], ["2024-02-14"]),
    "\\text{January 2}": (["January 2", "2 January", "Jan 2", "January 2nd"], ["February 2", "2", "January 3"]),
    "3:4": (["3:4", "6:8", "\\frac{3}{4}", "3 : 4"], ["4:3", "0.75", "3", "7"]),
    "1:2:3": (["2:4:6", "1 : 2 : 3"], ["3:2:1", "1/6", "1:2:4", "1:2"]),
    "1:\\sqrt{3}:2": (["1:\\sqrt{3}:2"], ["2:\\sqrt{3}:1", "1:3:2"]),
    "3/4": (["3:4", "0.75", "75\\%"], ["4:3"]),
    # quantities
    "5 cm": (["5", "5\\text{ cm}", "5 centimeters", "5\\,\\mathrm{cm}", "5cm", "5.0 cm"],
             ["5 m", "5 mm", "5\\text{ km}", "5 cm^2", "5 inches", "6 cm", "5 kg"]),
    "5\\text{ cm}^2": (["5 cm^2", "5 square centimeters", "5\\text{ cm²}", "5 sq cm", "5"], ["5 cm", "5\\text{ cm}^3"]),
    "5\\text{ m/s}": (["5 m/s", "5", "5\\,\\mathrm{m/s}", "5 meters per second"], ["5 km/h", "5 m"]),
    "5 hours": (["5", "5 h", "5\\text{ hrs}"], ["5 minutes", "5 days"]),
    "\\$5": (["5", "$5", "5 dollars", "\\$5.00", "5\\text{ dollars}", "US\\$5"], ["5 cents", "€5", "5\\text{ cents}"]),
    "€5": (["5 euros", "5"], ["\\$5", "£5"]),
    "5 apples": (["5", "5\\text{ apples}", "5 apple"], ["5 oranges", "6"]),
    "20°C": (["20", "20^\\circ C", "20^\\circ\\text{C}", "20 degrees Celsius"], ["20°F", "20^{\\circ}\\text{F}"]),
    "90^\\circ": (["90", "90°", "90 degrees", "90^{\\circ}"], ["9", "90 radians"]),
    "7.5 hours": (["7\\frac{1}{2}\\text{ hours}", "7.5", "7 1/2 h"], ["7 hours", "7.5 minutes"]),
    "2 hours 30 minutes": (["2 h 30 min", "2\\text{ hours }30\\text{ minutes}", "2 hours, 30 minutes"],
                           ["30 hours 2 minutes", "60", "2 hours 3 minutes", "2.5 minutes"]),
    "5'3\"": (["5' 3\""], ["5'4\"", "53", "3'5\""]),
    "7 R 3": (["7 remainder 3", "7\\text{ R }3", "7r3"], ["3 R 7", "21", "7", "7 R 2"]),
    # lists, tuples, intervals, sets
    "1, 2": (["1,2", "2, 1", "1 and 2", "1 \\text{ or } 2", "\\{1, 2\\}", "(1, 2)", "1; 2", "[1, 2]"],
             ["1", "12", "1, 3", "(2,1)", "1,2,3"]),
    "1, 2, 2": (["2, 1, 2"], ["1, 2", "1, 1, 2"]),
    "(1,2)": (["(1, 2)", "\\left(1,2\\right)", "1, 2"], ["(2,1)", "[1,2]", "\\{1,2\\}", "2, 1", "(1,2]"]),
    "(3,1)": (["(3,1)"], ["(5,2)", "(1,3)", "\\emptyset"]),
    "[1,2]": (["[1, 2]"], ["(1,2)", "[1,2)", "1,2"]),
    "\\{1,2\\}": (["\\{2,1\\}", "1,2", "2 and 1"], ["(1,2)", "\\{1\\}"]),
    "(1,234)": (["(1, 234)"], ["1234", "(1234)"]),
    "(1,2),(3,4)": (["(3,4),(1,2)", "(1,2) and (3,4)"], ["(1,2)", "(2,1),(3,4)", "1,2,3,4"]),
    "x=1, y=2": (["y=2, x=1", "(1,2)", "x=1,y=2"], ["x=2, y=1", "(2,1)", "2, 1"]),
    "5 cm, 3 kg": (["3 kg, 5 cm", "5, 3"], ["5 kg, 3 cm"]),
    "x>3": (["(3,\\infty)", "3<x"], ["x\\ge 3", "[3,\\infty)"]),
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}": (
        ["\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"], ["\\begin{pmatrix}1&2\\end{pmatrix}"]),
    # words and letters
    "Paris": (["paris", "\\text{Paris}", "\\textbf{PARIS}", "Paris."], ["Pairs", "London", "5"]),
    "\\text{no}": (["No", "no"], ["on", "yes"]),
    "IV": (["iv", "\\text{IV}"], ["VI"]),
    "no solution": (["No solution.", "\\text{no solution}", "no-solution"], ["solution", "0"]),
    "B": (["(B)", "b", "\\text{(B)}", "\\textbf{(B)}\\ 12", "B. 12", "B) 12"], ["C", "(A) B", "A. B", "BC"]),
    "A, C": (["C, A", "A and C", "A,C"], ["A", "AC", "A, B"]),
    "abc": (["cba"], ["ab", "abd"]),
    "10–12": (["10 – 12", "10–12"], ["-2", "10", "12"]),
    # left to math-verify
    "x=5": (["5", "x = 5"], ["y=5", "6"]),
    "5": (["x=5", "5\\text{ apples}", "5%"], ["5, 6", "-5"]),
    "\\pi": (["π", "3.14159265"], ["3.14"]),
    "\\sqrt{8}": (["2\\sqrt{2}", "2\\sqrt2"], ["4"]),
    "2x+3": (["3+2x"], ["2x-3"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def task() -> Math:
    made = Math.__new__(Math)
    made._judge = Judge()
    return made


def outcome(task: Math, gold: str, answer: str):
    return task.verify(Rollout(Problem("p", "", gold), 0, 0, (), (), (), f"So \\boxed{{{answer}}}.", True))


@pytest.mark.parametrize("gold", CASES)
def test_equal_answers_earn_and_others_do_not(task: Math, gold: str) -> None:
    right, wrong = CASES[gold]
    found = {answer: outcome(task, gold, answer).success for answer in (gold, *right, *wrong)}
    assert found == {gold: True} | dict.fromkeys(right, True) | dict.fromkeys(wrong, False)


@pytest.mark.parametrize("gold", CASES)
def test_notes_quote_the_answer_and_never_the_expected_one(task: Math, gold: str) -> None:
    wrong = outcome(task, gold, "987654321")
    assert wrong.notes == 'The answer "987654321" is not right.'
    assert wrong.answer == "987654321"


@pytest.mark.parametrize("text", ["12 34", "1 2 3", "1.5 2.5", "-1 -2", "12 34 cm".removesuffix(" cm")])
def test_numbers_side_by_side_are_no_answer(task: Math, text: str) -> None:
    """math-verify adds them up: 12 34 would be 46."""
    assert unreadable(text)
    assert not outcome(task, "46", text).success
    assert not outcome(task, "3", text).success


@pytest.mark.parametrize("text", ["12", "1 000", "1 000 000", "3 1/2", "1, 2", "x y", "12:30", "", "5 cm"])
def test_other_answers_can_be_expected(text: str) -> None:
    assert unreadable(text) == ""


def test_votes_count_equal_answers_together(task: Math) -> None:
    for texts in (("1000", "1 000", "1,000"), ("12:30", "12{:}30"), ("Paris", "\\text{Paris}")):
        assert len({outcome(task, texts[0], text).answer for text in texts[:1]}) == 1
    assert len({outcome(task, "1000", text).answer for text in ("1000", "1 000", "1,000", "+1000")}) == 1


@pytest.mark.parametrize(
    "text", ["(" * 500, "1," * 250, "1 " * 250, ":" * 500, "a" * 500, "\\text{" * 80, "1:" * 250, "^" * 500]
)
def test_no_answer_holds_up_a_run(text: str) -> None:
    asked = []
    start = time.process_time()
    same("1, 2", text, lambda one, two: bool(asked.append(one)))
    same(text, text + "1", lambda one, two: bool(asked.append(one)))
    tidy(text)
    assert time.process_time() - start < 2
    assert len(asked) < 400
