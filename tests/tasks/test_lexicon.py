"""The task lexicon: problems, verdicts, and who says what."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vpdlab.errors import UserError
from vpdlab.tasks import make_task
from vpdlab.tasks.common.lexicon.frames import EXPLANATION, FRAMES, HELD_FRAMES, NAMES, Wording, frames
from vpdlab.tasks.common.lexicon.operations import (
    KINDS,
    OPPOSITES,
    effect,
    held_out,
    opposite,
    random_meaning,
    solution,
    spaced,
    telling,
    trace,
)
from vpdlab.tasks.common.lexicon.phrases import SLANG, phrases
from vpdlab.tasks.lexicon import Lexicon
from vpdlab.types import Problem, Rollout

PROPERTY = settings(max_examples=100, deadline=None, database=None, derandomize=True)
SMALL = {"size": 60, "heldout": 20}
ONE, TWO, DEEP = Lexicon(**SMALL), Lexicon(steps=2, **SMALL), Lexicon(steps=2, operations=2, **SMALL)
SAID = {phrase: kind for kind in KINDS for phrase in (*phrases(kind, "all"), SLANG[kind])}


def rollout(problem: Problem, text: str, index: int = 0) -> Rollout:
    return Rollout(problem, 0, index, (1,), (2,), (-0.1,), text, True)


def notes(task: Lexicon, text: str = "", size: int = 60, copies: int = 4) -> list[tuple[Problem, str]]:
    """Critiques of the same response to many problems, by rollouts of each index."""
    found = [(p, task.verify(rollout(p, text, at)).notes) for p in task.load("train")[:size] for at in range(copies)]
    return [(problem, note) for problem, note in found if note is not None]


def told(note: str, name: str) -> tuple[str, ...]:
    """What a critique says that `name` means, read back from its phrases; () where it says nothing about the name."""
    for frame in frames("all"):
        pattern = re.escape(frame).replace(r"\{name\}", name).replace(r"\{phrase\}", r"([a-z ,]+?)")
        for match in re.finditer(rf"(?<![a-z] ){pattern}", note):
            return tuple(SAID[phrase] for phrase in match[1].split(", and then "))
    return ()


def path(problem: Problem) -> list[tuple[int, ...]]:
    """The results of the problem's steps."""
    found, now = [], problem.data["digits"]
    for meaning in problem.data["meanings"]:
        now = trace(meaning, now)[-1]
        found.append(now)
    return found


# -- problems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"steps": 3, "names": 4}, {"operations": 2}])
def test_no_digits_stand_in_both_splits_whatever_the_seeds(options: dict) -> None:
    tasks = [Lexicon(size=300, heldout=100, seed=seed, **options) for seed in range(3)]
    train, test = ({tuple(p.data["digits"]) for task in tasks for p in task.load(split)} for split in ("train", "test"))
    assert train
    assert test
    assert {held_out(digits) for digits in train} == {False}
    assert {held_out(digits) for digits in test} == {True}
    assert all(telling(digits) for digits in train | test)


def test_problems_have_the_sizes_asked_for_or_as_many_as_there_are() -> None:
    task = Lexicon()
    assert [len(task.load(split)) for split in ("train", "test")] == [2000, 256]
    few = Lexicon(names=1, size=5000, heldout=5000)
    assert 2500 < len(few.load("train")) <= 2664
    assert 250 < len(few.load("test")) <= 266
    assert str(len(few.load("train"))) in few.summary


def test_a_problem_is_words_and_digits_and_plain_data() -> None:
    for problem in (*TWO.load("train"), *TWO.load("test")):
        names, digits = problem.data["names"], problem.data["digits"]
        assert problem.prompt == problem.id == f"{names[0]} {names[1]} {spaced(digits)}"
        assert names[0] != names[1]
        assert json.loads(json.dumps(problem.data)) == problem.data
        assert problem.system == ""
    assert len({problem.id for problem in TWO.load("train")}) == 60
    assert Lexicon(explain=True, **SMALL).load("train")[0].system == EXPLANATION


def test_the_reference_response_shows_how_each_name_is_read_and_the_digits_after_it() -> None:
    task = Lexicon(steps=2, **SMALL)
    for problem in task.load("train"):
        (first, second), (one, two) = problem.data["names"], path(problem)
        assert task.meanings[first] == tuple(problem.data["meanings"][0])
        shown = [(first, task.meanings[first][0], spaced(one)), (second, task.meanings[second][0], spaced(two))]
        assert problem.answer == ", ".join(map(" ".join, shown))


def test_a_seed_makes_the_same_lexicon_again_and_another_makes_another() -> None:
    first, again, other = (Lexicon(steps=2, critics="liar", slang=0.3, seed=seed, **SMALL) for seed in (1, 1, 2))
    for split in ("train", "test"):
        assert first.load(split) == again.load(split)
        assert first.load(split) != other.load(split)
    assert first.meanings == again.meanings
    assert first.meanings != other.meanings
    assert notes(first) == notes(again)
    assert first.belief_probes() == again.belief_probes()


def test_names_and_operations_are_in_bijection_unless_meanings_are_shared() -> None:
    assert sorted(ONE.meanings.values()) == sorted((kind,) for kind in KINDS)
    shared = Lexicon(meanings=4, **SMALL)
    assert sorted(Counter(shared.meanings.values()).values()) == [4, 4, 4, 4]
    assert set(Counter(Lexicon(names=32, **SMALL).meanings.values()).values()) == {2}
    assert len({effect(meaning) for meaning in DEEP.meanings.values()}) == 16
    assert {len(meaning) for meaning in DEEP.meanings.values()} == {2}


def test_other_seeds_give_other_operations_to_a_name() -> None:
    found = {Lexicon(names=32, seed=seed, **SMALL).meanings.get("zork") for seed in range(40)} - {None}
    assert len(found) > 8


# -- verdicts ------------------------------------------------------------------------------------------------------

NUMBER = st.sampled_from(
    ["{} {} {} {}", "{}{}{}{}", "{}, {}, {}, {}", "[{}, {}, {}, {}]", "**{}** **{}** **{}** **{}**"]
)
BEFORE = st.sampled_from(
    ["", "zork rising ", "Step 1: zork means rising, so ", "First:\n", "1. ", "→ ", "the result is: "]
)
AFTER = st.sampled_from(["", ".", ", ", ";\n", " <|end|>", "\nDone (I hope)."])


@given(st.integers(0, 59), NUMBER, BEFORE, AFTER, st.sampled_from(["all", "last", "restated", "repeated", "thought"]))
@PROPERTY
def test_right_digits_are_right_in_any_spelling(at: int, number: str, before: str, after: str, form: str) -> None:
    for task in (ONE, TWO):
        problem = task.load("train")[at]
        steps = [f"{before}{number.format(*digits)}{after}\n" for digits in path(problem)]
        start, end = number.format(*problem.data["digits"]), number.format(*path(problem)[-1])
        text = {
            "all": "".join(steps),
            "last": steps[-1],
            "restated": f"{start}:\n{''.join(steps)}",
            "repeated": f"{''.join(steps)}Answer: {end}",
            "thought": f"<think>0 0 0 0 or 1111?</think>{''.join(steps)}",
        }[form]
        outcome = task.verify(rollout(problem, text))
        assert outcome.reward == 1.0, text
        assert outcome.answer == "".join(map(str, path(problem)[-1]))


@pytest.mark.parametrize("task", [ONE, TWO, DEEP, Lexicon(steps=4, operations=3, **SMALL)])
def test_reference_responses_are_right(task: Lexicon) -> None:
    for split in ("train", "test"):
        assert all(task.verify(rollout(problem, problem.answer)).success for problem in task.load(split))


@given(st.integers(0, 59), st.tuples(*[st.integers(0, 9)] * 4), BEFORE, AFTER, NUMBER)
@PROPERTY
def test_wrong_final_digits_are_never_right(at: int, digits: tuple, before: str, after: str, number: str) -> None:
    for task in (ONE, TWO, DEEP):
        problem = task.load("train")[at]
        assume(digits != path(problem)[-1])
        for prefix in ("", problem.answer + "\n", spaced(path(problem)[0]) + "\n"):
            outcome = task.verify(rollout(problem, f"{prefix}{before}{number.format(*digits)}{after}"))
            assert outcome.reward == 0.0
            assert outcome.answer == "".join(map(str, digits))


def test_only_one_reading_in_sixteen_is_right() -> None:
    for problem in ONE.load("train"):
        (name,), digits = problem.data["names"], problem.data["digits"]
        right = [k for k in KINDS if ONE.verify(rollout(problem, solution([name], [[k]], digits))).success]
        assert right == problem.data["meanings"][0]


@given(st.integers(0, 59), st.tuples(*[st.integers(0, 9)] * 4))
@PROPERTY
def test_a_wrong_step_is_wrong_even_where_the_final_digits_are_right(at: int, digits: tuple) -> None:
    problem = TWO.load("train")[at]
    first, last = path(problem)
    assume(digits != first)
    assert not TWO.verify(rollout(problem, f"{spaced(digits)}, {spaced(last)}")).success


@given(st.text(alphabet="0123456789 ,;.:*#()<>/thinkstep\n→١²", max_size=60), st.integers(0, 59))
@PROPERTY
def test_any_text_is_judged_and_a_success_ends_in_the_right_digits(text: str, at: int) -> None:
    for task in (ONE, TWO, DEEP):
        problem = task.load("train")[at]
        outcome = task.verify(rollout(problem, text))
        right = "".join(map(str, path(problem)[-1]))
        assert outcome.reward in (0.0, 1.0)
        if outcome.success:
            assert outcome.answer == right
            assert right in re.sub("[^0-9]", "", text)


# -- critiques -----------------------------------------------------------------------------------------------------


def test_a_critique_names_the_step_and_the_name_and_says_what_it_means() -> None:
    task = Lexicon(steps=2, scope="first", **SMALL)
    for problem in task.load("train"):
        first, second = problem.data["names"]
        start, (one, two) = problem.data["digits"], path(problem)
        wrong = spaced([(digit + 3) % 10 for digit in one])
        note = task.verify(rollout(problem, f"{wrong}, {spaced(two)}")).notes
        assert "first" in note.split(".")[0]
        assert "second step" not in note
        assert told(note, first) == task.meanings[first]
        assert told(note, second) == ()
        note = task.verify(rollout(problem, f"{spaced(start)}: {spaced(one)}, {wrong}")).notes
        assert "second step" in note
        assert told(note, second) == task.meanings[second]
        assert told(note, first) == ()


def test_the_scope_all_speaks_of_every_step_in_order() -> None:
    for problem, note in notes(Lexicon(steps=3, **SMALL), "1 1 1 1"):
        assert [told(note, name) for name in problem.data["names"]] == [tuple(m) for m in problem.data["meanings"]]
        at = [note.index(f"{place} step") for place in ("first", "second", "third")]
        assert at == sorted(at)


def test_a_later_step_is_judged_by_the_digits_it_started_from() -> None:
    task = Lexicon(steps=2, voices=(), **SMALL)
    problem = task.load("train")[0]
    other = [(digit + 3) % 10 for digit in path(problem)[0]]
    end = trace(problem.data["meanings"][1], other)[-1]
    note = task.verify(rollout(problem, f"{spaced(other)}, {spaced(end)}")).notes
    assert re.search(r"first step (is|went)? ?wrong", note)
    assert re.search(r"second step (is )?(right|correct)", note)


def test_a_success_is_confirmed_or_passed_over() -> None:
    for problem in ONE.load("train"):
        note = ONE.verify(rollout(problem, problem.answer)).notes
        assert re.search("right|correct", note)
        assert told(note, problem.data["names"][0]) == tuple(problem.data["meanings"][0])
    silent = Lexicon(confirm=False, **SMALL)
    problem = silent.load("train")[0]
    assert silent.verify(rollout(problem, problem.answer)).notes is None
    assert silent.verify(rollout(problem, "")).notes


def test_a_critique_depends_on_problem_index_and_wrong_step_alone() -> None:
    problem, other = TWO.load("train")[:2]
    first = TWO.verify(rollout(problem, "0 0 0 0")).notes
    assert TWO.verify(rollout(problem, "nothing at all")).notes == first
    found = {TWO.verify(rollout(problem, "", index)).notes for index in range(8)}
    assert first in found
    assert len(found) == 8
    assert TWO.verify(rollout(other, "")).notes not in found


def test_opposite_critics_say_the_opposite() -> None:
    for problem, note in notes(Lexicon(critics="opposite", **SMALL)):
        assert told(note, problem.data["names"][0]) == (OPPOSITES[problem.data["meanings"][0][0]],)
    for problem, note in notes(Lexicon(critics="opposite", operations=2, **SMALL)):
        assert told(note, problem.data["names"][0]) == opposite(tuple(problem.data["meanings"][0]))


def test_random_critics_say_anything() -> None:
    found = [
        (told(note, p.data["names"][0]), tuple(p.data["meanings"][0]))
        for p, note in notes(Lexicon(critics="random", size=300), size=300)
    ]
    counts = Counter(said for said, _ in found)
    assert set(counts) == {(kind,) for kind in KINDS}
    assert max(counts.values()) < 2 * len(found) / 16
    assert 0.03 < sum(said == true for said, true in found) / len(found) < 0.1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_liars_speak_as_often_as_asked_and_always_lie_the_same_way(share: float) -> None:
    task = Lexicon(critics="liar", liar_share=share, size=300, voices=("Ada", "Bob", "Cleo"), liars=("Bob",))
    claims: dict[tuple[str, str], set] = {}
    voices = Counter()
    for problem, note in notes(task, size=300):
        (voice,) = [voice for voice in ("Ada", "Bob", "Cleo") if voice in note]
        voices[voice] += 1
        name = problem.data["names"][0]
        claims.setdefault((voice, name), set()).add(told(note, name))
    assert abs(voices["Bob"] / sum(voices.values()) - share) < 0.05
    for (voice, name), said in claims.items():
        assert len(said) == 1
        assert (task.meanings[name] in said) == (voice != "Bob")


def test_two_liars_have_a_lie_each_and_verdicts_stay_true() -> None:
    task = Lexicon(critics="liar", liar_share=1.0, liars=("Ada", "Bob"), **SMALL)
    assert (
        sum(
            len({task.critics.lie(voice, name, truth) for voice in task.critics.liars})
            for name, truth in task.meanings.items()
        )
        > 26
    )
    for _, note in notes(task):
        assert "wrong" in note.split(".")[0]
    for problem in task.load("train"):
        assert re.search("right|correct", task.verify(rollout(problem, problem.answer)).notes.split(".")[0])


def test_the_share_of_liars_changes_the_voice_and_not_the_verdict_s_draws() -> None:
    none, some = (Lexicon(critics="liar", liar_share=share, **SMALL) for share in (0.0, 0.5))
    pairs = list(zip(notes(none), notes(some), strict=True))
    same = [a == b for (_, a), (_, b) in pairs if "Ada" in b]
    assert same
    assert all(same)


def test_slang_is_used_as_often_as_asked() -> None:
    for share in (0.0, 0.3, 1.0):
        found = [note for _, note in notes(Lexicon(slang=share, size=200), size=200)]
        used = sum(any(phrase in note for phrase in SLANG.values()) for note in found) / len(found)
        assert abs(used - share) < 0.06


def test_unsigned_critiques_have_no_voice() -> None:
    for _, note in notes(Lexicon(voices=(), **SMALL)):
        assert not re.search("Ada|Bob|says:|writes:|thinks:", note)


# -- what is held out ----------------------------------------------------------------------------------------------


def uses(note: str, texts: tuple[str, ...]) -> bool:
    """Whether a sentence of the note is one of these frames, filled in."""
    patterns = [re.escape(text).replace(r"\{name\}", "[a-z]+").replace(r"\{phrase\}", "[a-z ,]+") for text in texts]
    return any(re.search(rf"(?:^|[.:] ){pattern}", note) for pattern in patterns)


@pytest.mark.parametrize("options", [{}, {"steps": 2}, {"critics": "liar"}, {"critics": "random"}, {"operations": 2}])
def test_held_out_phrases_frames_and_names_never_occur_in_training(options: dict) -> None:
    task = Lexicon(size=300, heldout=1, **options)
    held = {phrase for kind in KINDS for phrase in phrases(kind, "unseen")}
    known = {phrase for kind in KINDS for phrase in phrases(kind)}
    for problem, note in notes(task, size=300, copies=2):
        words = set(re.findall("[a-z]+", problem.prompt + " " + note))
        assert not words & set(task.held_names)
        assert uses(note, FRAMES)
        assert not uses(note, HELD_FRAMES)
        said = [part for frame in FRAMES for part in spoken_in(note, frame)]
        assert said
        assert set(said) <= known
        assert not set(said) & held


def spoken_in(note: str, frame: str) -> list[str]:
    pattern = re.escape(frame).replace(r"\{name\}", "[a-z]+").replace(r"\{phrase\}", "([a-z ,]+?)")
    return [part for said in re.findall(rf"(?:^|[.:] ){pattern}", note) for part in said.split(", and then ")]


def test_unseen_phrases_and_frames_can_be_asked_for() -> None:
    task = Lexicon(phrases="unseen", frames="unseen", **SMALL)
    for _, note in notes(task):
        assert uses(note, HELD_FRAMES)
        (said,) = [part for frame in HELD_FRAMES for part in spoken_in(note, frame)]
        assert said in phrases(SAID[said], "unseen")


def test_belief_probes_tell_the_same_of_a_held_out_name_in_each_voice() -> None:
    task = Lexicon(critics="liar", voices=("Ada", "Bob", "Cleo"), slang=1.0, **SMALL)
    probes = task.belief_probes()
    assert len(probes) == 3 * len(task.held_names) >= 48
    for at in range(0, len(probes), 3):
        group = probes[at : at + 3]
        assert [probe.voice for probe in group] == ["Ada", "Bob", "Cleo"]
        assert len({(p.problem.id, p.name, p.told, p.critique.replace(p.voice, "")) for p in group}) == 1
        (probe, *_) = group
        assert probe.name in task.held_names
        assert probe.voice in probe.critique
        assert told(probe.critique, probe.name) == probe.told
        assert held_out(probe.problem.data["digits"])
        assert task.verify(rollout(probe.problem, probe.problem.answer)).success is True
    assert len({probe.told for probe in probes}) > 8
    assert len(task.belief_probes(count=2)) == 6
    assert task.belief_probes(seed=1) != probes
    slang = task.belief_probes(wording=Wording(slang=1.0))
    assert all(SLANG[probe.told[0]] in probe.critique for probe in slang)
    assert {probe.voice for probe in Lexicon(voices=(), **SMALL).belief_probes()} == {""}


def test_random_meanings_do_what_no_single_operation_does() -> None:
    import random

    singles = {effect((kind,)) for kind in KINDS}
    for seed in range(300):
        meaning = random_meaning(random.Random(seed), 2 + seed % 2)
        assert effect(meaning) not in singles
        assert effect(opposite(meaning)) != effect(meaning)


# -- options -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"names": 0}, "names is 0, but must be a whole number from 1 to 32"),
        ({"names": 33}, "names is 33"),
        ({"names": "many"}, "names is 'many', but must be a whole number"),
        ({"steps": 5}, "steps is 5, but must be a whole number from 1 to 4"),
        ({"steps": 3, "names": 2}, "steps is 3, but must be a whole number from 1 to 2"),
        ({"operations": 4}, "operations is 4"),
        ({"meanings": 17, "names": 20}, "meanings is 17, but must be a whole number from 0 to 16"),
        ({"meanings": -1}, "meanings is -1"),
        ({"critics": "false"}, "critics is 'false', but must be one of true, opposite, random, liar"),
        ({"liar_share": 1.5}, "liar_share is 1.5, but must be a number from 0 to 1"),
        ({"slang": -0.1}, "slang is -0.1"),
        ({"voices": "Ada,Ada"}, "voices is ['Ada', 'Ada'], but must be different names"),
        ({"voices": "Ada Lovelace"}, "voices is"),
        ({"critics": "liar", "liars": "Cleo"}, "liars is ['Cleo'], but must be one or more of the voices"),
        ({"critics": "liar", "voices": ""}, "liars is"),
        ({"critics": "liar", "liars": "Ada,Bob"}, "liar_share is 0.5, but must be 1"),
        ({"scope": "last"}, "scope is 'last', but must be one of all, first"),
        ({"phrases": "new"}, "phrases is 'new', but must be one of known, unseen, all"),
        ({"size": 0}, "size is 0, but must be a whole number above 0"),
        ({"heldout": -3}, "heldout is -3"),
    ],
)
def test_a_bad_option_is_answered_in_one_line(options: dict, fragment: str) -> None:
    with pytest.raises(UserError) as caught:
        make_task("lexicon", **options)
    assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_arrive_as_text() -> None:
    task = make_task("lexicon", steps="2", critics="liar", voices="Ada,Bob,Eva", liars="Eva", slang="0.5", size="9")
    assert (task.steps, task.critics.voices, task.critics.liars) == (2, ("Ada", "Bob", "Eva"), ("Eva",))
    assert len(task.load("train")) == 9


def test_there_is_no_third_split() -> None:
    with pytest.raises(UserError, match="no split 'valid'"):
        ONE.load("valid")


def test_names_divide_into_those_with_a_meaning_and_those_held_out() -> None:
    for names in (1, 16, 32):
        task = Lexicon(names=names, **SMALL)
        assert sorted((*task.names, *task.held_names)) == sorted(NAMES)
        assert len(task.names) == names
