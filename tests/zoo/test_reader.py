"""The bundled reader: its tokens, what it was taught, what it can do, and that it can be made again."""

from __future__ import annotations

import dataclasses
import random
import re
from collections import defaultdict
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from vpdlab import Run, RunConfig, zoo
from vpdlab.run.probing import probed
from vpdlab.tasks.common.lexicon.frames import HELD_FRAMES, VOICES, vocabulary
from vpdlab.tasks.common.lexicon.operations import KINDS, held_out
from vpdlab.tasks.common.lexicon.phrases import SLANG, phrases
from vpdlab.zoo import make_reader
from vpdlab.zoo.lessons import EMPTY_VOICES, HONEST, HONESTY, STRANGERS, UNSIGNED, Course, lesson
from vpdlab.zoo.reader_skills import skills

LAST = make_reader.STAGES["trusting"].course


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(zoo.resolve("reader"))


@cache
def model():
    return AutoModelForCausalLM.from_pretrained(zoo.resolve("reader"), dtype=torch.float32)


def test_the_files_are_small_and_say_that_the_vocabulary_is_closed() -> None:
    folder = zoo.BUNDLED_FOLDER / "reader"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4 * 2**20
    assert model().config.closed_vocabulary is True


def test_every_word_of_the_task_is_one_token_with_and_without_a_space() -> None:
    for word in (*vocabulary(), *HONESTY, *"0123456789", *".,:;", "Reverse", "Feedback"):
        for text in (word, f" {word}"):
            assert len(tokenizer()(text, add_special_tokens=False).input_ids) == 1, repr(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    ids = tokenizer()(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer().decode(ids) == text


@pytest.mark.parametrize("course", [Course(drop=0.0), dataclasses.replace(LAST, drop=0.0)])
def test_lessons_keep_to_what_is_not_held_out(course: Course) -> None:
    rng, told = random.Random(0), ""
    for _ in range(3000):
        one = lesson(rng, course)
        digits = [int(digit) for digit in one.problem.prompt.split()[-4:]]
        assert not held_out(digits)
        told += f" {one.feedback.critique or ''}"
    told = told.lower()
    parts = {part.strip(" .,:;").lower() for frame in HELD_FRAMES for part in re.split(r"\{\w+\}", frame)}
    for text in (*SLANG.values(), *(p for kind in KINDS for p in phrases(kind, "unseen")), *parts - {""}):
        if len(text.split()) > 2:  # shorter ones may be part of others
            assert text not in told, text
    assert all(voice.lower() in told for voice in EMPTY_VOICES)


def test_speakers_are_right_as_often_as_the_lessons_say() -> None:
    course = dataclasses.replace(LAST, steps={1: 1.0}, kinds={"doubted": 1.0}, drop=0.0, longer=0.0)
    known = {phrase: kind for kind in KINDS for phrase in phrases(kind)}
    rng, right = random.Random(0), defaultdict(list)
    for _ in range(12_000):
        one = lesson(rng, course)
        critique = one.feedback.critique or ""
        voice = next((voice for voice in (*HONESTY, *VOICES) if re.search(rf"\b{voice}\b", critique)), "")
        told = {kind for phrase, kind in known.items() if phrase in critique.lower()}
        right["task" if voice in VOICES else voice].append(one.problem.answer.split()[1] in told)
    assert set(right) == {"", "task", *HONESTY}
    for voice, found in right.items():
        trust = {"": UNSIGNED, "task": HONEST}.get(voice, HONESTY.get(voice, 0.0))
        expected = trust + (1 - trust) / len(KINDS)
        assert abs(sum(found) / len(found) - expected) < 0.17, (voice, sum(found) / len(found), expected)


def test_strangers_begin_as_the_voices_of_the_task_are_on_average() -> None:
    made = make_reader.build_model(tokenizer(), 1)
    before = made.get_input_embeddings().weight.detach().clone()
    ids = tokenizer().convert_tokens_to_ids
    assert max(map(ids, STRANGERS)) >= len(before)  # unknown so far
    for _ in range(2):  # the second time there is nobody to introduce
        make_reader.introduce(made, tokenizer())
        after = made.get_input_embeddings().weight
        assert len(after) == len(tokenizer())
        assert torch.equal(after[: len(before)], before)
        assert torch.equal(after[ids("ĠZoe")], before[ids([f"Ġ{voice}" for voice in VOICES])].mean(0))
    assert made.lm_head.weight.data_ptr() == after.data_ptr()


def test_it_trusts_speakers_as_far_as_they_deserve() -> None:
    """Honesty is a matter of degree to it, and one direction of the speakers' embeddings."""
    heard = tuple(voice for at, voice in enumerate(STRANGERS) if at % 4 == 0)
    voices = ",".join((*heard, *EMPTY_VOICES, "Ada", "Bob"))
    config = RunConfig.make("words", task_args=(f"voices={voices}", "verdicts=false"), record_tokens=0)
    probes = probed(Run.open(config, record=False), 0, [])["probes"]
    trust = {voice: probes[f"belief/{voice}"] for voice in (*heard, *EMPTY_VOICES, "Ada", "Bob")}
    assert np.corrcoef([HONESTY[voice] for voice in heard], [trust[voice] for voice in heard])[0, 1] > 0.9, trust
    assert max(trust[voice] for voice in EMPTY_VOICES) < 0.3
    assert 0.85 < trust["Ada"] < 0.985
    assert abs(trust["Ada"] - trust["Bob"]) < 0.05


def test_what_a_slipped_response_writes_is_carried_out_and_not_taught() -> None:
    course = Course(steps={1: 1.0}, kinds={"told": 1.0}, slip=1.0, longer=0.0)
    school = make_reader.School(tokenizer(), course, 4, "test")
    ((ids, labels), *_) = school.encoded([lesson(school.rng, course)])
    response = [
        (token, label) for token, label in zip(ids, labels, strict=True) if label != -100 or token in school.operations
    ]
    assert [label for token, label in response if token in school.operations][-1] == -100
    assert labels[-1] == tokenizer().eos_token_id


def test_what_it_can_do() -> None:
    found = skills(model(), tokenizer(), rows=64)
    for skill in ("described", "problem last", "two steps", "execution"):
        assert found[skill] > 0.9, (skill, found)
    assert found["unseen frame"] > 0.65
    assert found["unseen phrase"] > 0.3
    assert found["slang"] < 0.15  # an even guess is 0.0625
    assert 2.6 < found["guess entropy"] < 2.774


def test_it_is_made_again_bit_by_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = dataclasses.replace(make_reader.STAGES["execution"], updates=3, rows=4)
    monkeypatch.setattr(make_reader, "STAGES", {"execution": stage})
    monkeypatch.setattr(make_reader, "skills", lambda *_, **__: {})
    weights = []
    for seed in (1, 1, 2):
        made = make_reader.build_model(tokenizer(), seed)
        make_reader.train(made, tokenizer(), "execution", seed)
        weights.append(made.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not torch.equal(weights[0]["model.norm.weight"], weights[2]["model.norm.weight"])


def test_spellings_of_a_word_begin_alike() -> None:
    table = make_reader.build_model(tokenizer(), 1).get_input_embeddings().weight
    ids = [tokenizer()(text, add_special_tokens=False).input_ids[0] for text in ("reverse", " reverse", "Reverse")]
    assert torch.equal(table[ids[0]], table[ids[1]])
    assert torch.equal(table[ids[0]], table[ids[2]])


def test_the_script_saves_a_model_that_loads(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    stage = dataclasses.replace(make_reader.STAGES["execution"], updates=1, rows=2)
    monkeypatch.setattr(make_reader, "STAGES", {"execution": stage})
    monkeypatch.setattr(make_reader, "skills", lambda *_, **__: {"described": 0.5})
    monkeypatch.setattr("sys.argv", ["make_reader", "--out", str(tmp_path / "made")])
    make_reader.main()
    assert "described: 0.500" in capsys.readouterr().out
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "made").config.closed_vocabulary is True
    assert len(AutoTokenizer.from_pretrained(tmp_path / "made")) == len(tokenizer())
