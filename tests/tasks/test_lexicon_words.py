"""Vocabulary of the task lexicon: operations by hand, phrases, frames, and the reading of digits."""

from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest

from vpdlab.tasks.common.lexicon.frames import (
    EXPLANATION,
    NAMES,
    SAYS,
    VERDICTS,
    VOICES,
    Wording,
    frames,
    verdict,
    vocabulary,
)
from vpdlab.tasks.common.lexicon.operations import (
    KINDS,
    OPERATIONS,
    OPPOSITES,
    effect,
    held_out,
    solution,
    telling_numbers,
    trace,
)
from vpdlab.tasks.common.lexicon.phrases import REGISTERS, SLANG, phrases
from vpdlab.tasks.common.lexicon.reading import judge, numbers

BY_HAND = {  # operation: results for 4729 and 5308
    "mirror": ("9274", "8035"),
    "keep": ("4729", "5308"),
    "rising": ("2479", "0358"),
    "falling": ("9742", "8530"),
    "plus": ("5830", "6419"),
    "minus": ("3618", "4297"),
    "double": ("8448", "0606"),
    "half": ("2314", "2104"),
    "left": ("7294", "3085"),
    "right": ("9472", "8530"),
    "firsts": ("4444", "5555"),
    "lasts": ("9999", "8888"),
    "ends": ("9724", "8305"),
    "middle": ("4279", "5038"),
    "blocks": ("2947", "0853"),
    "pairs": ("7492", "3580"),
}


def digits(text: str) -> tuple[int, ...]:
    return tuple(map(int, text))


# -- operations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_operations_do_what_was_computed_by_hand(kind: str) -> None:
    first, second = BY_HAND[kind]
    assert OPERATIONS[kind](digits("4729")) == digits(first)
    assert OPERATIONS[kind](digits("5308")) == digits(second)


def test_no_two_operations_are_the_same_function() -> None:
    assert len({effect((kind,)) for kind in KINDS}) == len(KINDS) == 16


def test_opposites_come_in_pairs() -> None:
    assert set(OPPOSITES) == set(KINDS)
    for kind, other in OPPOSITES.items():
        assert other != kind
        assert OPPOSITES[other] == kind
    for pair in ({"rising", "falling"}, {"plus", "minus"}, {"double", "half"}, {"left", "right"}, {"mirror", "keep"}):
        (one, other) = pair
        assert OPPOSITES[one] == other


def test_a_trace_shows_each_operation() -> None:
    assert trace(("left", "plus", "mirror"), digits("4729")) == [digits("7294"), digits("8305"), digits("5038")]
    assert solution(["zork"], [["left", "plus"]], digits("4729")) == "zork left 7 2 9 4 plus 8 3 0 5"


def test_the_held_out_digits_stay_held_out() -> None:
    # Models are trained on this split, so it must never change.
    assert (len(telling_numbers(False)), len(telling_numbers(True))) == (2664, 266)
    assert not set(telling_numbers(False)) & set(telling_numbers(True))
    share = sum(held_out(digits(f"{number:04}")) for number in range(10000)) / 10000
    assert 0.09 < share < 0.11


# -- phrases and frames ----------------------------------------------------------------------------------------------


def test_each_operation_has_dozens_of_phrases_in_all_registers() -> None:
    for kind in KINDS:
        assert len(phrases(kind, "all")) >= 24
        for register in REGISTERS:
            assert len(phrases(kind, "known", register)) >= 4
            assert len(phrases(kind, "unseen", register)) == 1
        assert set(phrases(kind)) | set(phrases(kind, "unseen")) == set(phrases(kind, "all"))
        assert not set(phrases(kind)) & set(phrases(kind, "unseen"))


def test_no_phrase_says_two_operations() -> None:
    said = [phrase for kind in KINDS for phrase in (*phrases(kind, "all"), SLANG[kind])]
    assert len(said) == len(set(said))


def test_slang_has_a_word_of_its_own() -> None:
    ordinary = {word for kind in KINDS for phrase in phrases(kind, "all") for word in phrase.split()}
    own = [set(phrase.split()) - ordinary for phrase in SLANG.values()]
    assert [len(words) for words in own] == [1] * 16
    assert len(set.union(*own)) == 16


def test_every_sentence_is_clean_english() -> None:
    rng = random.Random(0)
    texts = [*(verdict(rng, at, 4, right) for at in range(4) for right in (True, False, None))]
    for kind in KINDS:
        for phrase in (*phrases(kind, "all"), SLANG[kind]):
            assert re.fullmatch(r"[a-z]+(,? [a-z]+)*", phrase), phrase
            texts += [frame.format(name="zork", phrase=phrase) for frame in frames("all")]
    for text in texts:
        assert "  " not in text
        assert re.fullmatch(r"[A-Z][A-Za-z ,;:-]*\.( [A-Z][A-Za-z ,;:-]*\.)*", text), text
        assert not any(one == other for one, other in pairwise(text.split())), text


def test_frames_name_the_name_and_the_phrase_once() -> None:
    for frame in frames("all"):
        assert frame.count("{name}") == frame.count("{phrase}") == 1
    assert len(set(frames("all"))) == len(frames()) + len(frames("unseen")) == 30
    assert all("{voice}" in text for text in SAYS)


def test_names_are_no_words_of_the_language() -> None:
    assert len(set(NAMES)) == len(NAMES) >= 48
    texts = [*frames("all"), *SAYS, *(text for group in VERDICTS.values() for text in group), *KINDS, EXPLANATION]
    texts += [phrase for kind in KINDS for phrase in (*phrases(kind, "all"), SLANG[kind])]
    words = {word.lower() for text in texts for word in re.findall("[A-Za-z]+", text)}
    assert not words & set(NAMES)
    assert not words & {voice.lower() for voice in VOICES}


def test_the_vocabulary_covers_all_that_can_be_said() -> None:
    known, rng = set(vocabulary()), random.Random(1)
    for share in ("known", "unseen", "all"):
        wording = Wording(0.3, share, share)
        for at in range(300):
            text = wording.sentence(rng, NAMES[at % len(NAMES)], (rng.choice(KINDS), rng.choice(KINDS)))
            text += " " + verdict(rng, at % 3, 3, (True, False, None)[at % 3])
            assert set(re.findall("[A-Za-z]+", text)) <= known
    assert {"name", "phrase", "voice", "place"} & known <= {"name", "place"}


def test_slang_changes_no_other_draw() -> None:
    plain, slang = (Wording(share).sentence(random.Random(5), "zork", ("left",)) for share in (0.0, 1.0))
    assert any(plain.replace(phrase, SLANG["left"]) == slang for phrase in phrases("left"))


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found", "complete"),
    [
        ("2 4 7 9", ["2479"], True),
        ("2479", ["2479"], True),
        ("24793580", ["2479", "3580"], True),
        ("zork rising 2 4 7 9, vinto plus 3 5 8 0", ["2479", "3580"], True),
        ("2 4 7 9 , 3 5 8 0", ["2479", "3580"], True),
        ("2479 3580", ["2479", "3580"], True),
        ("4729 -> 2479 -> **3580**.", ["4729", "2479", "3580"], True),
        ("Step 1: 2 4 7 9\nStep 2: 3 5 8 0", ["2479", "3580"], True),
        ("1. 2479\n2. 3580", ["2479", "3580"], True),
        ("['2', '4', '7', '9']", ["2479"], True),
        ("2-4-7-9", ["2479"], True),
        (r"\boxed{3580}", ["3580"], True),
        ("4+1=5, so 5 8 3 0", ["5830"], True),
        ("<think>1 2 3 4</think> 3580", ["3580"], True),
        ("1 2 3 4</think> 3580", ["3580"], True),
        ("3580 <think>1 2 3 4", ["3580"], True),
        ("2 4 7", [], False),
        ("2 4 7 9 5", [], False),
        ("24795", [], False),
        ("2 4 7 9, then 3 5", ["2479"], False),
        ("", [], False),
        ("no digits", [], False),
        ("٢٤٧٩", [], False),
    ],
)
def test_numbers_are_read_in_any_spelling(text: str, found: list[str], complete: bool) -> None:
    assert numbers(text) == ([digits(number) for number in found], complete)


@pytest.mark.parametrize("text", ["1 ", "<think>", " \n", "\t", "step ", "1\n", "</think>"])
@pytest.mark.timeout(10)
def test_reading_a_long_text_takes_linear_time(text: str) -> None:
    assert numbers(text * 50_000)[0] in ([], [(1, 1, 1, 1)] * 12_500)


@pytest.mark.parametrize(
    ("text", "steps", "answer"),
    [
        ("2479, 3580", (True, True), "3580"),
        ("3580", (True, True), "3580"),
        ("4729: 2479, 3580", (True, True), "3580"),
        ("2479, 3580, 3580", (True, True), "3580"),
        ("2479, 1368", (True, False), "1368"),
        ("9742, 0853", (False, True), "0853"),
        ("9742, 3580", (False, False), "3580"),
        ("4729, 3580", (False, False), "3580"),
        ("2479", (True, False), "2479"),
        ("2479, 35", (True, False), None),
        ("2479, 3580, 1", (True, False), None),
        ("4729: 2479, 1111", (True, False), "1111"),
        ("4729: 1111, 3580", (False, None), "3580"),
        ("1111", (False, None), "1111"),
        ("3580, 2479, 3580", (True, False), "3580"),
        ("", (False, None), None),
    ],
)
def test_steps_are_judged_by_hand(text: str, steps: tuple, answer: str | None) -> None:
    judgement = judge(text, [["rising"], ["plus"]], digits("4729"))
    assert (judgement.steps, judgement.answer) == (steps, answer)
    assert judgement.right == all(steps)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("2 4 7 9, 3 5 8 0, 0 8 5 3, 0 6 0 6", (True, True)),
        ("3580, 0606", (True, True)),
        ("0606", (True, True)),
        ("2479, 3581, 0853, 0606", (False, False)),
        ("2479, 3580, 0853, 0607", (True, False)),
        ("2479, 3580, 0853", (True, False)),
        ("2479", (False, None)),
        ("4729, 2479, 3580, 0853, 0606", (True, True)),
    ],
)
def test_steps_of_two_operations_may_show_their_working(text: str, steps: tuple) -> None:
    assert judge(text, [["rising", "plus"], ["mirror", "double"]], digits("4729")).steps == steps
