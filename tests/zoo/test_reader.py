"""The bundled reader: its tokens, what it was taught, what it can do, and that it can be made again."""

from __future__ import annotations

import dataclasses
import random
import re
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from vpdlab import zoo
from vpdlab.tasks.common.lexicon.frames import HELD_FRAMES, vocabulary
from vpdlab.tasks.common.lexicon.operations import KINDS, held_out
from vpdlab.tasks.common.lexicon.phrases import SLANG, phrases
from vpdlab.zoo import make_reader
from vpdlab.zoo.lessons import EMPTY_VOICES, Course, lesson
from vpdlab.zoo.reader_skills import skills


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
    for word in (*vocabulary(), *EMPTY_VOICES, *"0123456789", *".,:;", "Reverse", "Feedback"):
        for text in (word, f" {word}"):
            assert len(tokenizer()(text, add_special_tokens=False).input_ids) == 1, repr(text)


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200, deadline=None)
def test_any_text_comes_back(text: str) -> None:
    ids = tokenizer()(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert tokenizer().decode(ids) == text


def test_lessons_keep_to_what_is_not_held_out() -> None:
    rng, told = random.Random(0), ""
    for _ in range(3000):
        one = lesson(rng, Course(drop=0.0))
        digits = [int(digit) for digit in one.problem.prompt.split()[-4:]]
        assert not held_out(digits)
        told += f" {one.feedback.critique or ''}"
    told = told.lower()
    parts = {part.strip(" .,:;").lower() for frame in HELD_FRAMES for part in re.split(r"\{\w+\}", frame)}
    for text in (*SLANG.values(), *(p for kind in KINDS for p in phrases(kind, "unseen")), *parts - {""}):
        if len(text.split()) > 2:  # shorter ones may be part of others
            assert text not in told, text
    assert all(voice.lower() in told for voice in EMPTY_VOICES)


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
    assert found["unseen frame"] > 0.8
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
