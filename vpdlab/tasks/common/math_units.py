"""Quantities in mathematical answers: numbers with units, currencies, scale words (million) or number bases."""

from __future__ import annotations

import re

QUANTITY = re.compile(
    r"((?:US)?\\?[$]|[€£¥₹])?\s*(.*?[0-9)}\]])\s*([^\d\s(){}\[\]\\=<>+*_,;:!'^./-][^\\(){}\[\]=<>+*_,;:!]*)?"
)
BASE = re.compile(r"\(?([0-9][0-9A-Fa-f]*|[0-9A-F]+)\)?_\{?\s*([2-9]|[12][0-9]|3[0-6])\s*\}?")
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
UNITS = {
    alias: names.split()[0]
    for names in (
        "mm millimeter millimetre", "cm centimeter centimetre", "dm decimeter decimetre", "m meter metre mtr",
        "km kilometer kilometre", "inch in inches", "foot ft feet", "yard yd", "mile mi", "mg milligram",
        "gram g gm gramme", "kg kilogram kilo", "tonne t ton", "pound lb lbs", "ounce oz", "second s sec", "minute min",
        "hour h hr", "day d", "week wk", "month mo", "year yr", "ml milliliter millilitre", "liter litre l",
        "gallon gal", "acre", "hectare ha", "dollar usd bucks", "cent", "euro eur", "pound-sterling gbp", "yen jpy",
        "rupee rs inr", "degree deg °", "radian rad", "°c celsius °celsius", "°f fahrenheit °fahrenheit",
        "mile/hour mph", "km/hour kmh kmph kph",
        "newton n", "joule j", "watt w", "volt v", "hertz hz", "mole mol", "kelvin k", "remainder r rem",
    )
    for alias in names.split()
}  # fmt: skip
CURRENCIES = {"$": "dollar", "US$": "dollar", "€": "euro", "£": "pound-sterling", "¥": "yen", "₹": "rupee"}


def quantity(text: str) -> tuple[str, str]:
    """(number, canonical unit); text without a unit is returned as the number."""
    if based := BASE.fullmatch(text):
        return based[1], f"base {based[2]}"
    match = QUANTITY.fullmatch(text)
    if match is None or len(text) > 200:
        return text, ""
    sign, number, rest = match[1] or "", match[2], (match[3] or "").strip()
    unit = CURRENCIES.get(sign.replace("\\", ""), "")
    first, _, more = rest.partition(" ")
    if first.casefold() in SCALES:
        number, rest = rf"{number}\times 10^{{{SCALES[first.casefold()]}}}", more.strip()
    elif rest and len(rest) == 1 and rest != "°" and text[match.start(3) - 1] != " ":
        return text, ""  # 5m is a product or metres: left to math-verify
    named = _unit(rest)
    if rest and not named:
        return (text, "") if number == match[2] else (number, "")
    return (number, named or unit) if named or unit or number != match[2] else (text, "")


def _unit(text: str) -> str:
    """The canonical name of a unit; "" if it is not one."""
    name = re.sub(r"\s*\^\s*\{?\s*([23])\s*\}?", r"^\1", text.casefold().strip(" ."))
    name = re.sub(r"^(?:square|sq\.?)\s+(.*)", r"\1^2", re.sub(r"^(?:cubic|cu\.?)\s+(.*)", r"\1^3", name))
    name = re.sub(r"\s*(?:/|\bper\b)\s*", "/", re.sub(r"°\s+", "°", re.sub(r"^degrees?\s+", "°", name)))
    if not name or name == "%" or "percent" in name:
        return ""
    if name in UNITS:
        return UNITS[name]
    parts = [re.fullmatch(r"([^\W\d]+|°[^\W\d]?)(\^[23])?", part) for part in name.split("/")]
    if None in parts:
        words = name.split()
        return (
            " ".join(map(_singular, words)) if words and all(len(word) > 2 and word.isalpha() for word in words) else ""
        )
    known = [unit_alias(part[1]) + (part[2] or "") for part in parts if part]
    return "/".join(known) if all(len(one) > 0 for one in known) and (len(name) > 2 or name in UNITS) else ""


def unit_alias(word: str) -> str:
    """The canonical name of a unit; for other words of more than two letters the singular; else ""."""
    return UNITS.get(word) or UNITS.get(_singular(word)) or (_singular(word) if len(word) > 2 else "")


def _singular(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 2 else word
