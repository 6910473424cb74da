"""Normalise the notation of mathematical answers: digits, signs, spaces, thousands separators, mixed numbers."""

from __future__ import annotations

import re
import unicodedata

WRAPPED = re.compile(r"\\(?:text(?:bf|it|rm|normal)?|math(?:rm|bf|it)|mbox|operatorname)\s*\{([^{}]*)\}")
SIGNS = str.maketrans({**dict.fromkeys("−﹣－‐‑–", "-"), **dict.fromkeys("\u00a0\u2009\u202f\u2007\u2002\u2003", " "),
                       "’": "'", "′": "'", "×": r"\times ", "·": r"\cdot ", "÷": "/", "⁄": "/", "π": r"\pi ",
                       "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "％": "%", "₂": "_2"})  # fmt: skip
SPACES = re.compile(r"(?<!\\)(?:\\[,;: ]|\\q?quad|\\thinspace|\\displaystyle)|~|\\(?:left|right)(?![a-z])\.?")
DEGREE = re.compile(r"\^\s*(?:\\circ|\{\s*\\circ\s*\})|\\degree\b|º")
NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
EXPONENT = re.compile(rf"(?<![\w.\\])({NUMBER})[eE]([+-]?[0-9]{{1,4}})(?![\w.])")


def tidy(text: str) -> str:
    """Normalise digits, signs, spaces and degree marks."""
    text = re.sub("(?<=[0-9])\\s?–\\s?(?=[0-9])", " to ", text)  # a range, not a difference
    text = "".join(_plain(char) for char in text.translate(SIGNS))
    text = SPACES.sub(" ", re.sub(r"(?<!\\)\\!", "", text))
    marks = re.findall(r"(?<!\\)\$", text)  # a single one is a currency
    text = re.sub(r"(?<!\\)\$", "\\\\$" if len(marks) % 2 else "", text)
    text = DEGREE.sub("°", re.sub(r"\{\s*,\s*\}", ",", text)).replace("\\%", "%")
    text = re.sub(r"\\[dtc]frac", r"\\frac", text)
    return " ".join(text.split()).rstrip(". ")


def _plain(char: str) -> str:
    if char.isascii():
        return char
    if unicodedata.category(char) == "Nd":
        return str(unicodedata.decimal(char))
    name = unicodedata.decomposition(char)
    if name.startswith("<fraction>"):
        top, _, bottom = unicodedata.normalize("NFKC", char).partition("\u2044")
        return f" \\frac{{{top}}}{{{bottom}}}"
    if name.startswith("<super>") and char.isdigit():
        return f"^{{{unicodedata.digit(char)}}}"
    return char


def numbers_in_latex(text: str) -> str:
    """Rewrite thousands separators, mixed numbers and exponents as LaTeX that math-verify understands."""
    text = re.sub(r"(?<![\w.,/])([0-9]{1,3})((?:[ '_][0-9]{3})+)(?![\w/]| ?[0-9])", _joined, text)
    text = re.sub(r"(?<![\w.,/])([0-9]{1,3})((?:,[0-9]{3})+)(?![\w/]|,[0-9])", _joined_outside, text)
    text = EXPONENT.sub(lambda match: rf"{match[1]}\times 10^{{{int(match[2])}}}", text)
    text = re.sub(rf"({NUMBER})\s*[xX*]\s*10\s*\^", r"\1\\times 10^", text)
    return re.sub(r"(?<![\w./])(-?)([0-9]+) ([0-9]+)/([0-9]+)(?![\w/.])", r"\1(\2+\\frac{\3}{\4})", text)


def _joined(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match[0])


def _joined_outside(match: re.Match[str]) -> str:
    """Remove commas between thousands; inside brackets a comma separates items."""
    before = match.string[: match.start()]
    return match[0] if sum(map(before.count, "([{")) > sum(map(before.count, ")]}")) else _joined(match)


def words_of(text: str) -> str:
    """The answer without LaTeX text commands."""
    while text != (unwrapped := WRAPPED.sub(r" \1 ", text)):
        text = unwrapped
    text = re.sub(r"\{\s*([:;.-])\s*\}", r"\1", text)
    return re.sub(r"\s*:\s*", ":", " ".join(text.split())).rstrip(". ")


def unreadable(text: str) -> str:
    """Why an expected answer cannot be compared; "" if it can."""
    words = words_of(numbers_in_latex(tidy(text)))
    if re.fullmatch(r"-?[0-9.]+(?: +-?[0-9.]+)+", words):
        return "holds several numbers with nothing between them: write 1, 2 for a list, 1234 for one number"
    return ""
